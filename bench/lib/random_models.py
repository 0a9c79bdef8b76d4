"""Small random models of every architecture that llama.cpp has, with llama.cpp's logits of them.

llama.cpp's own test of architectures writes the models. It is built from llama.cpp's sources
together with a program that writes logits (`llama_peer/`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from .compilers import build
from .further_models import write_further

_PEER = Path(__file__).resolve().parent / "llama_peer"
_EXPERTS, _EXPERTS_USED = 8, 3
# What real files do not have: scales of tensors, for which there are formats, classifiers, and what
# llama.cpp reads and does not use.
_LEFT_OUT = (".scale", ".input_scale")
_UNUSED = {"ernie4_5-moe": ("attn_output.bias",)}
# Tensors of which each expert has a part.
_OF_EXPERTS = ("ffn_gate_inp.", "exp_probs_b", "_exps.", "_chexps.")
# Ways to route that no model of the test takes: model, and what changes of its keys.
_SCALED: dict[str, Any] = {"expert_weights_norm": True, "expert_weights_scale": 2.5}
_GROUPS: dict[str, Any] = {"expert_group_count": 4, "expert_group_used_count": 2, **_SCALED}
_ROUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe-scaled": ("afmoe-moe", _SCALED),
    "bailingmoe2-groups": ("bailingmoe2-moe", _GROUPS),
    "deepseek-scaled": ("deepseek-moe", {"expert_weights_scale": 16.0}),
    "deepseek2-groups": ("deepseek2-moe", {"expert_gating_func": 2, **_GROUPS}),
    "deepseek2-softmax": ("deepseek2-moe", {"expert_gating_func": 1, "expert_weights_scale": 16.0}),
    "dots1-scaled": ("dots1-moe", _SCALED),
    "glm4moe-scaled": ("glm4moe-moe", _SCALED),
    "granitemoe-scaled": (
        "granitemoe-moe",
        {
            "attention.scale": 0.02,
            "embedding_scale": 12.0,
            "logit_scale": 6.0,
            "residual_scale": 0.22,
        },
    ),
    "smallthinker-everywhere": ("smallthinker-moe", {"attention.sliding_window": 0}),
    "smallthinker-softmax": ("smallthinker-moe", {"expert_gating_func": 1}),
}


def make_models(source: Path, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Builds the peer from the sources of llama.cpp and makes the models, of random numbers of
    ``seed``, and their logits in ``folder``; the folders of both. What is built already is used
    again."""
    built, raw = folder / "build", folder / "raw"
    models, logits = folder / "models", folder / "logits"
    for each in (raw, models, logits):
        each.mkdir(parents=True, exist_ok=True)
    targets = ["test-llama-archs", "peer_logits"]
    build(_PEER, built, targets, {"LLAMA_SOURCE": str(source.resolve())})
    test = built / "bin" / "test-llama-archs"
    subprocess.run([test, "-s", str(seed), "-o", raw], check=True, capture_output=True)
    made = [realistic(path, models / path.name) for path in sorted(raw.glob("*.gguf"))]
    for name, (source_name, changes) in _ROUTED.items():
        made.append(realistic(raw / f"{source_name}.gguf", models / f"{name}.gguf", changes))
    made += write_further(models)
    subprocess.run([built / "bin" / "peer_logits", logits, *made], check=True)
    return models, logits


def realistic(source: Path, target: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Copies a model of llama.cpp's test as real files are. The test gives every optional tensor
    random values: factors of rotary frequencies are made positive, and what real files do not have
    is left out. Its mixtures have two experts of two; so that a router decides something, the copy
    has eight of three. ``changes``: other values of some of the architecture's keys."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    left_out = _LEFT_OUT + _UNUSED.get(architecture, ())
    random = np.random.default_rng(0)
    experts = _copy_keys(reader, writer, changes or {})
    for tensor in reader.tensors:
        name, values = tensor.name, tensor.data
        if name.endswith(left_out) or name.startswith("cls."):
            continue
        if "rope_freqs" in name or "rope_factors" in name:
            values = np.abs(values) + 0.5
        elif values.shape[0] == experts and any(part in name for part in _OF_EXPERTS):
            values = _more_experts(values, random)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _copy_keys(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, changes: Mapping[str, Any]) -> int:
    """Copies the keys with changes, and with more experts where there are some; how many there
    were. The peer writes every key that it knows, so a change is one of an existing key."""
    keys = dict(_keys(reader))
    prefix = reader.fields["general.architecture"].contents()
    for name, new in changes.items():
        keys[f"{prefix}.{name}"] = (new, *keys[f"{prefix}.{name}"][1:])
    count, used = f"{prefix}.expert_count", f"{prefix}.expert_used_count"
    experts = int(keys[count][0]) if count in keys else 0
    for key, (value, kind, items) in keys.items():
        if experts and key == count:
            value = _EXPERTS
        elif experts and key == used:
            value = _EXPERTS_USED if items is None else [_EXPERTS_USED] * len(value)
        writer.add_key_value(key, value, kind, items)
    return experts


def _keys(reader: gguf.GGUFReader) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Value, type, and type of the elements of a list, of each key."""
    for key, field in reader.fields.items():
        value, kind = field.contents(), field.types[0]
        is_array = kind == gguf.GGUFValueType.ARRAY
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if is_array and len(value) == 0:
            continue
        yield key, (value, kind, field.types[-1] if is_array else None)


def _more_experts(values: npt.NDArray[Any], random: np.random.Generator) -> npt.NDArray[Any]:
    """Random values for all experts, which are the first axis, as spread as ``values`` are."""
    spread = float(values.astype(np.float64).std())
    shape = (_EXPERTS, *values.shape[1:])
    return (random.standard_normal(shape) * spread).astype(values.dtype)
