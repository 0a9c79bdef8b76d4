"""The text's part of checkpoints that see images too: Mistral 3 (Small 3.1 and later, Ministral 3)
and, in `dense_families`, Gemma 3."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .family import Family, Keys
from .parts import Parts

if TYPE_CHECKING:
    from .config import Config

_OF_IMAGES = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")


def text_parts(config: Config, parts: Parts) -> Parts:
    """The tensors of a text's model under their usual names, without those that see images."""
    if not config.family.inner:
        return parts
    found: Parts = {}
    for stored, part in parts.items():
        name = re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", stored)
        if not _OF_IMAGES.match(name):
            found[name.removeprefix("language_model.")] = part
    return found


def _mistral3_keys(config: Config) -> Keys:
    inner = config.values.get(config.family.inner, {}) if config.family.inner else config.values
    kind = inner.get("model_type", "mistral")
    if kind not in ("mistral", "ministral3"):
        raise config.unsupported(config.family.inner)
    if kind == "mistral":
        return {}
    # Queries grow beyond the original context, and the scaling has another amplitude.
    share = config.rope_number("mscale_all_dim", 0.0)
    if config.rope["rope_type"] != "yarn" or config.rope_number("mscale", share) != share:
        raise config.unsupported("rope_parameters")
    return {
        "rope.scaling.yarn_log_multiplier": share,
        "attention.temperature_scale": config.rope_number("llama_4_scaling_beta"),
    }


_MINISTRAL3 = Family(
    "mistral3", True, "Ministral3ForCausalLM", _mistral3_keys, text_parts, usual=False
)
ROWS = {
    "ministral3": _MINISTRAL3,
    "mistral3": _MINISTRAL3._replace(
        model="Mistral3ForConditionalGeneration",
        inner="text_config",
        known=("projector_hidden_act",),
    ),
}
