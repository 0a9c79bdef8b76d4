"""The keys of a GGUF file for the `config.json` of a Hugging Face checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arch.rope import FACTORS_TENSOR, LONG_FACTORS_TENSOR, SHORT_FACTORS_TENSOR
from ...errors import ArgumentError, ModelFileError, UnsupportedError
from ...gguf.types import TypedValue, ValueType
from ...weights.activation import ActivationType
from .encoders import pooling_keys
from .families import FAMILIES
from .mxfp4 import is_mxfp4
from .packed_integers import PackedConfig
from .ternary import TernaryConfig

Factors = npt.NDArray[np.float32]

_LONG = ("longrope", "su")  # names of the scaling that has factors for short and long texts
_ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "hidden_act_param", "hidden_act_threshold")
# Keys that may say another activation than those above.
_LIKE_ACTIVATION = re.compile(
    r"(^|_)act(ivation|_fn|_function)?(_|$)|relu|(^|_)spars", re.IGNORECASE
)


class Config:
    """Checked reading of a config."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self._own: Mapping[str, Any] = {}  # under other names than the usual ones
        self._path = path
        kind = values.get("model_type")
        if kind not in FAMILIES:
            raise UnsupportedError(
                f"{path}: models of the type {kind!r} are not converted; supported: "
                f"{', '.join(FAMILIES)}"
            )
        self.family = FAMILIES[kind]
        self._check_model(kind)
        if self.family.inner:
            self.values = {**values, **self._mapping(self.family.inner), "model_type": kind}
        self._own = self.family.values(self)
        named = self.family.architecture
        self.architecture = named if isinstance(named, str) else named(self)
        self.layers = self.integer("num_hidden_layers")
        self.d = self.integer("hidden_size")
        self.hidden = self.integer("intermediate_size")
        self.heads = self.integer("num_attention_heads")
        # Classes of encoders have as many heads of keys and values, whatever their configs say.
        shared = not self.family.encoder
        self.kv_heads = self.integer("num_key_value_heads", self.heads) if shared else self.heads
        if self.heads % self.kv_heads:
            raise self.fail("num_key_value_heads", "does not divide the heads")
        own = self.d // self.heads if self.d % self.heads == 0 else None
        self.head_dim = self.integer("head_dim", own)
        self.vocab = self.integer("vocab_size")
        counts = ("num_experts", "num_local_experts", "n_routed_experts")
        self.experts = next((self.integer(name) for name in counts if name in self), 0)
        tied = self.family.encoder or self.family.tied
        self.tied = self.family.encoder or bool(self.get("tie_word_embeddings", tied))
        self.ternary = TernaryConfig(values, path)
        self.mxfp4 = is_mxfp4(values)
        self.packed = PackedConfig(values, path)

    def _check_model(self, kind: str) -> None:
        """Raises for a model that another class than the family's computes: another name in
        `model_type` does not make it one of the family."""
        known = self.family.model.split("|")
        model = known[0]
        own = str(self._mapping("auto_map").get("AutoModelForCausalLM", model)).rpartition(".")[2]
        models = {"architectures": self.get("architectures", [model]), "auto_map": [own]}
        for key, found in models.items():
            if not isinstance(found, list) or len(found) != 1 or found[0] not in known:
                raise UnsupportedError(
                    f"{self._path}: {key!r} names {found!r}, which may compute something else than "
                    f"{model}, the one of the type {kind!r}. If only the activation differs, name "
                    f"the activation in 'hidden_act' and {model} here"
                )

    def fail(self, name: str, problem: str) -> ModelFileError:
        """The error for a wrong value."""
        return ModelFileError(f"{self._path}: {name!r} {problem}")

    def unsupported(self, name: str) -> UnsupportedError:
        """The error for a value that asks for something that GGUF's architecture is not."""
        return UnsupportedError(
            f"{self._path}: {name!r} is {self.get(name)!r}, which is not supported for models of "
            f"the type {self.get('model_type')!r}"
        )

    @property
    def folder(self) -> Path:
        """The directory of the checkpoint."""
        return self._path.parent

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """A value; null counts as missing."""
        value = self._own.get(name, self.values.get(name))
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number of 1 or more."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.fail(name, f"is {value!r}; expected a whole number of 1 or more")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        return self._finite(name, self.get(name, default))

    def _finite(self, name: str, value: Any) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise self.fail(name, f"is {value!r}; expected a number")
        return float(value)

    @property
    def rope(self) -> Mapping[str, Any]:
        """What is said of the rotation, in the old place or the new."""
        rope = {**self._mapping("rope_scaling"), **self._mapping("rope_parameters")}
        return {**rope, "rope_type": rope.get("rope_type", rope.get("type", "default"))}

    def _mapping(self, name: str) -> Mapping[str, Any]:
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise self.fail(name, "is not a JSON object")
        return value

    def rope_number(self, name: str, default: float | None = None) -> float:
        """A number of `rope`."""
        value = self.rope.get(name)
        return self._finite(f"rope_scaling.{name}", default if value is None else value)

    def metadata(self, name: str) -> dict[str, Any]:
        """All keys but the tokeniser's. `name` is the model's."""
        prefix = self.architecture
        keys: dict[str, Any] = {
            "block_count": self.layers,
            "context_length": self.integer("max_position_embeddings", 2048),
            "embedding_length": self.d,
            "feed_forward_length": self.hidden,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            self.family.epsilon[1]: self.number(self.family.epsilon[0], 1e-6),
            "vocab_size": self.vocab,
            **self._rope_keys(),
        }
        keys = {key: x for key, x in keys.items() if not key.startswith(self.family.omitted)}
        keys |= {**self._activation_keys(), **pooling_keys(self), **self.family.keys(self)}
        window = 0 if self.family.own_windows else self._window(keys["context_length"])
        if window:
            keys["attention.sliding_window"] = window
        return {
            "general.architecture": prefix,
            "general.name": name,
            "general.quantization_version": TypedValue(2, ValueType("u32")),
            **{f"{prefix}.{key}": value for key, value in keys.items()},
        }

    def templates(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of chat templates beside those of the tokeniser, which are given."""
        found = self.family.templates(self)
        names = [key.rpartition(".")[2] for key in found]
        key = "tokenizer.chat_templates"
        return {**found, key: [*stored.get(key, []), *names]} if found else {}

    def _window(self, context: int) -> int:
        """Tokens that attention sees, 0 for all."""
        window = self.get("sliding_window", 0)
        if not self.get("use_sliding_window", True) or not window:
            return 0
        if not isinstance(window, int) or window < 1:
            raise self.fail("sliding_window", f"is {window!r}; expected a whole number")
        kinds = self.get("layer_types", [])
        if isinstance(kinds, list) and len(set(kinds)) > 1:
            raise UnsupportedError(
                f"{self._path}: layers with and without a window ('layer_types') are not supported"
            )
        return 0 if window >= context or set(kinds) == {"full_attention"} else window

    def _rope_keys(self) -> dict[str, Any]:
        rope = self.rope
        partial = self.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
        if partial != 1.0 and not self.family.partial:
            raise UnsupportedError(f"{self._path}: 'partial_rotary_factor' is not supported")
        theta = rope.get("rope_theta", self.get("rope_theta", 10000.0))
        keys: dict[str, Any] = {
            "rope.freq_base": self._finite("rope_theta", theta),
            "rope.dimension_count": int(
                self._finite("partial_rotary_factor", partial) * self.head_dim
            ),
        }
        kind = rope["rope_type"]
        if kind in ("default", "llama3"):  # llama3's factors are a tensor
            return keys
        if kind in _LONG and self.family.long:
            return {**keys, "rope.scaling.attn_factor": self._long_amplitude()}
        if kind not in ("linear", "yarn"):
            raise UnsupportedError(
                f"{self._path}: rotary scaling of the type {kind!r} is not supported; supported: "
                "default, linear, yarn, llama3"
            )
        keys["rope.scaling.type"] = kind
        keys["rope.scaling.factor"] = self.rope_number("factor")
        if kind == "yarn":
            original = rope.get("original_max_position_embeddings")
            if not isinstance(original, int) or original < 1:
                raise self.fail("rope_scaling.original_max_position_embeddings", "is missing")
            keys["rope.scaling.original_context_length"] = original
            if rope.get("truncate") is False:
                keys["rope.scaling.yarn_truncate"] = False
            amplitude = 0.1 * math.log(max(1.0, keys["rope.scaling.factor"])) + 1
            if abs(self.rope_number("attention_factor", amplitude) - amplitude) > 1e-3:
                raise self.unsupported("rope_scaling")
            for name, key in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
                if name in rope:
                    keys[f"rope.scaling.{key}"] = self.rope_number(name)
        return keys

    def _original_context(self) -> int:
        """Tokens of the texts that the model was first trained on."""
        name = "original_max_position_embeddings"
        return self.integer(name, self.rope.get(name))

    def _long_amplitude(self) -> float:
        """What cosines and sines of longrope are multiplied by (Ding et al. 2024)."""
        original = self._original_context()
        factor = self.integer("max_position_embeddings") / original
        default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        return self.rope_number("attention_factor", default)

    def rope_factors(self) -> dict[str, Factors]:
        """Tensors of factors, float32 (rotary pairs,), by which angles are divided: Llama 3's, or
        those of longrope for short texts and for long ones."""
        kind = self.rope["rope_type"]
        if kind == "llama3":
            return {FACTORS_TENSOR: self._llama3_factors()}
        if kind not in _LONG:
            return {}
        names = {"short_factor": SHORT_FACTORS_TENSOR, "long_factor": LONG_FACTORS_TENSOR}
        return {names[name]: self._long_factors(name) for name in names}

    def _long_factors(self, name: str) -> Factors:
        values = self.rope.get(name)
        pairs = self._rope_keys()["rope.dimension_count"] // 2
        if not isinstance(values, list) or len(values) != pairs:
            raise self.fail(f"rope_scaling.{name}", f"is not a list of {pairs} numbers")
        found = np.array([self._finite(f"rope_scaling.{name}", each) for each in values], "<f4")
        if not (found > 0).all():
            raise self.fail(f"rope_scaling.{name}", "has numbers that are not above 0")
        return found

    def _llama3_factors(self) -> Factors:
        """Slow rotations are slowed down by `factor`, fast ones stay, between them it is blended by
        how often they turn within the context that the model was first trained on."""
        theta = self._finite("rope_theta", self.rope.get("rope_theta", self.get("rope_theta", 1e4)))
        factor = self.rope_number("factor")
        low, high = (
            self.rope_number("low_freq_factor", 1.0),
            self.rope_number("high_freq_factor", 4.0),
        )
        original = self.rope_number("original_max_position_embeddings")
        if high <= low:
            raise self.fail("rope_scaling.high_freq_factor", "is not above 'low_freq_factor'")
        angles = theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        turns = original * angles / (2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return (1 / (kept + (1 - kept) / factor)).astype(np.float32)

    def _activation_keys(self) -> dict[str, Any]:
        for key, value in self.values.items():
            known = (*_ACTIVATION_KEYS, *self.family.known)
            if key not in known and _LIKE_ACTIVATION.search(key) and value:
                raise UnsupportedError(
                    f"{self._path}: {key!r} may change the activation, and is not understood; "
                    "'hidden_act' names it"
                )
        name = self.get("hidden_act", self.get("hidden_activation"))
        if name is None:
            raise self.fail("hidden_act", "is missing: the activation")
        if self.get("hidden_activation", name) != name:
            raise self.fail("hidden_activation", f"is not {name!r}, as 'hidden_act' says")
        try:
            kind = ActivationType(name)
        except ArgumentError as error:
            raise UnsupportedError(f"{self._path}: 'hidden_act': {error}") from None
        keys: dict[str, Any] = {"hidden_activation": str(kind)}
        if kind is ActivationType.FATRELU:
            threshold = self.get("hidden_act_param", self.get("hidden_act_threshold"))
            if threshold is None:
                raise self.fail("hidden_act_param", "is missing: the threshold of fatrelu")
            keys["hidden_activation_threshold"] = self._finite("hidden_act_param", threshold)
        return keys
