"""What a model file must hold: its sizes, its tensors and their shapes, by architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .activation import ActivationType
from .errors import ArgumentError, ModelFileError, UnsupportedError
from .gguf import GgufFile, TensorInfo
from .quant import FORMATS, VECTOR_FORMATS

SPARSEFIRE_VERSION = 1  # of the sparsefire.* keys that are understood


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model. `d` is the width of the residual stream, `hidden` the neurons of a layer,
    `context_length` the tokens that the model was trained to see at once."""

    architecture: str
    name: str
    layers: int
    d: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    rope_dims: int
    rope_base: float
    rope_scale: float  # positions are divided by it
    norm_epsilon: float
    activation: ActivationType
    activation_parameter: float  # FATReLU's threshold, else 0
    hot_counts: tuple[int, ...] | None  # of a calibrated model, one a layer

    @property
    def q_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def calibrated(self) -> bool:
        """True when the file holds what calibration adds."""
        return self.hot_counts is not None

    @property
    def default_mode(self) -> str:
        """ "sparse" for a calibrated model, else "exact" where the activation has exact zeros, else
        "dense"."""
        if self.calibrated:
            return "sparse"
        return "exact" if self.activation.is_relu_family else "dense"


class Architecture(NamedTuple):
    """What differs between architectures."""

    activation: str  # when neither user nor file name one


ARCHITECTURES = {"llama": Architecture(activation="silu")}


class Role(NamedTuple):
    """A tensor of the core's model: its number there, and its shape in attributes of
    `ModelConfig`."""

    code: int
    shape: tuple[str, ...]


# Names end in ".weight"; those of a layer begin with "blk.N.".
MODEL_MATRICES = {
    "token_embd": Role(0, ("vocab", "d")),
    "output": Role(1, ("vocab", "d")),  # absent where the embedding serves for both
}
LAYER_MATRICES = {
    "attn_q": Role(2, ("q_width", "d")),
    "attn_k": Role(3, ("kv_width", "d")),
    "attn_v": Role(4, ("kv_width", "d")),
    "attn_output": Role(5, ("d", "q_width")),
}
MODEL_VECTORS = {"output_norm": Role(0, ("d",))}
LAYER_VECTORS = {"attn_norm": Role(1, ("d",)), "ffn_norm": Role(2, ("d",))}
ROPE_FACTORS = 3  # the core's number for what `rope_freqs.weight` and rope_scale hold
FFN_MATRICES = {
    "ffn_gate": ("hidden", "d"),
    "ffn_up": ("hidden", "d"),
    "ffn_down": ("d", "hidden"),
}
FFN_BIASES = {"ffn_gate": "hidden", "ffn_up": "hidden", "ffn_down": "d"}

# Keys that change the mathematics in ways the core does not compute, and their neutral values.
_NEUTRAL = {
    "expert_count": 0,
    "attention.sliding_window": 0,
    "attention.max_alibi_bias": 0.0,
    "attention.clamp_kqv": 0.0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "embedding_scale": 1.0,
    "use_parallel_residual": False,
    "attention.causal": True,
}

_REPAIR = "the file is damaged, or was not converted for this architecture"


class _Keys:
    """Checked reading of `<architecture>.*` keys."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file = file
        self._prefix = architecture

    def _value(self, name: str, default: Any) -> Any:
        value = self._file.metadata.get(f"{self._prefix}.{name}", default)
        if value is None:
            raise ModelFileError(
                f"{self._file.name}: key '{self._prefix}.{name}' is missing; {_REPAIR}"
            )
        return value

    def fail(self, name: str, problem: str) -> ModelFileError:
        """The error for a key without a plausible value."""
        return ModelFileError(f"{self._file.name}: key '{self._prefix}.{name}' {problem}")

    def integer(self, name: str, most: int, default: int | None = None) -> int:
        """An integer from 1 to `most`. An array of equal ones, one a layer, counts as one."""
        value = self._value(name, default)
        if isinstance(value, np.ndarray) and value.size:
            if not (value == value[0]).all():
                raise UnsupportedError(
                    f"{self._file.name}: key '{self._prefix}.{name}' differs between layers, "
                    "which is not supported"
                )
            value = value[0].item()
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.fail(name, f"is {value!r}; expected a whole number from 1 to {most}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from `low` to `high`."""
        value = self._value(name, default)
        number = float(value) if isinstance(value, (int, float)) else math.nan
        if not low <= number <= high:
            raise self.fail(name, f"is {value!r}; expected a number from {low} to {high}")
        return number

    def text(self, name: str) -> str | None:
        """A text, or None when the key is missing."""
        value = self._file.metadata.get(f"{self._prefix}.{name}")
        if value is not None and not isinstance(value, str):
            raise self.fail(name, f"is {value!r}; expected a text")
        return value

    def refuse_unknown(self) -> None:
        """`UnsupportedError` for a key that asks for what the core does not compute."""
        for name, neutral in _NEUTRAL.items():
            value = self._file.metadata.get(f"{self._prefix}.{name}", neutral)
            if value != neutral:
                raise UnsupportedError(
                    f"{self._file.name}: key '{self._prefix}.{name}' is {value!r}, which is not "
                    "supported"
                )


def read_config(file: GgufFile, activation: str | ActivationType | None = None) -> ModelConfig:
    """The sizes in a model file, checked for plausibility.

    activation: overrides what the file and the architecture say.

    Errors: `ModelFileError` naming the key, `UnsupportedError` (architecture, or a variant of it
    that the core does not compute), `ArgumentError` (unknown activation).
    """
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelFileError(f"{file.name}: key 'general.architecture' is missing; {_REPAIR}")
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(
            f"{file.name}: the architecture {architecture!r} is not supported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    keys = _Keys(file, architecture)
    keys.refuse_unknown()
    layers = keys.integer("block_count", 4096)
    d = keys.integer("embedding_length", 1 << 17)
    heads = keys.integer("attention.head_count", 4096)
    kv_heads = keys.integer("attention.head_count_kv", heads, heads)
    hidden = keys.integer("feed_forward_length", 1 << 22)
    head_dim = _head_dim(keys, d, heads, kv_heads)
    rope_dims = keys.integer("rope.dimension_count", head_dim, head_dim)
    if rope_dims % 2:
        raise keys.fail("rope.dimension_count", f"is {rope_dims}; expected an even number")
    kind, parameter = _activation(file, keys, architecture, activation)
    name = file.metadata.get("general.name")
    return ModelConfig(
        architecture=architecture,
        name=name if isinstance(name, str) else architecture,
        layers=layers,
        d=d,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_vocabulary(file),
        context_length=keys.integer("context_length", 1 << 24),
        rope_dims=rope_dims,
        rope_base=keys.number("rope.freq_base", 1.0, 1e12, 10000.0),
        rope_scale=_rope_scale(file, keys),
        norm_epsilon=keys.number("attention.layer_norm_rms_epsilon", 1e-12, 0.1),
        activation=kind,
        activation_parameter=parameter,
        hot_counts=_hot_counts(file, layers, hidden),
    )


def _head_dim(keys: _Keys, d: int, heads: int, kv_heads: int) -> int:
    if heads % kv_heads:
        raise keys.fail(
            "attention.head_count_kv", f"is {kv_heads}, which does not divide the {heads} heads"
        )
    default = d // heads if d % heads == 0 else None
    head_dim = keys.integer("attention.key_length", 1 << 14, default)
    if keys.integer("attention.value_length", 1 << 14, head_dim) != head_dim:
        raise keys.fail("attention.value_length", f"is not the key length, {head_dim}")
    return head_dim


def _vocabulary(file: GgufFile) -> int:
    """Rows of the embedding, which may be more than the tokens that have names."""
    shape = file.tensor("token_embd.weight").shape
    if len(shape) != 2 or shape[0] > 1 << 22:
        raise ModelFileError(
            f"{file.name}: tensor 'token_embd.weight' has shape {shape}; expected (vocabulary, d)"
        )
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > shape[0]:
        raise ModelFileError(
            f"{file.name}: key 'tokenizer.ggml.tokens' names {len(tokens)} tokens, but "
            f"'token_embd.weight' has {shape[0]} rows; {_REPAIR}"
        )
    return shape[0]


def _rope_scale(file: GgufFile, keys: _Keys) -> float:
    kind = keys.text("rope.scaling.type") or "none"
    if kind == "none":
        return keys.number("rope.scale_linear", 1e-3, 1e3, 1.0)
    if kind == "linear":
        return keys.number("rope.scaling.factor", 1e-3, 1e3, 1.0)
    if kind == "llama3" and "rope_freqs.weight" in file.tensors:
        return 1.0  # the tensor says it all
    raise UnsupportedError(
        f"{file.name}: rotary scaling of type {kind!r} is not supported; supported: none, linear, "
        "and llama3 with its factors in the tensor 'rope_freqs.weight'"
    )


def _activation(
    file: GgufFile, keys: _Keys, architecture: str, chosen: str | ActivationType | None
) -> tuple[ActivationType, float]:
    """The user's choice, else what the file says, else the architecture's own."""
    stored = keys.text("hidden_activation") or keys.text("hidden_act")
    if chosen is not None:
        kind = ActivationType(chosen)
    else:
        try:
            kind = ActivationType(stored or ARCHITECTURES[architecture].activation)
        except ArgumentError as error:
            raise UnsupportedError(
                f"{file.name}: key '{architecture}.hidden_activation': {error}"
            ) from None
    parameter = 0.0
    if kind is ActivationType.FATRELU:
        parameter = keys.number("hidden_activation_threshold", 0.0, 1e6)
    return kind, parameter


def _hot_counts(file: GgufFile, layers: int, hidden: int) -> tuple[int, ...] | None:
    version = file.metadata.get("sparsefire.version")
    if version is None:
        return None
    if version != SPARSEFIRE_VERSION:
        raise UnsupportedError(
            f"{file.name}: calibrated for version {version} of the sparsefire keys, of which "
            f"version {SPARSEFIRE_VERSION} is read: update sparsefire, or calibrate the model again"
        )
    counts = file.metadata.get("sparsefire.hot_counts")
    if (
        not isinstance(counts, np.ndarray)
        or counts.dtype.kind not in "iu"
        or counts.shape != (layers,)
        or counts.min() < 0
        or counts.max() > hidden
    ):
        raise ModelFileError(
            f"{file.name}: key 'sparsefire.hot_counts' must hold {layers} counts from 0 to "
            f"{hidden}; calibrate the model again"
        )
    return tuple(counts.tolist())


def check_tensors(file: GgufFile, config: ModelConfig) -> None:
    """Checks that every tensor the model needs is there with the right shape, in a format that the
    core computes on, and that there is none that it would ignore.

    Errors: `ModelFileError` (missing, wrong shape), `UnsupportedError` (format, unknown tensor).
    """
    shapes = expected_tensors(file, config)
    for name, shape in shapes.items():
        info = file.tensor(name)
        if info.shape != shape:
            raise ModelFileError(
                f"{file.name}: tensor {name!r} has shape {info.shape}, expected {shape}; {_REPAIR}"
            )
        check_format(file, info)
    for name in file.tensors:
        if name not in shapes:
            raise UnsupportedError(
                f"{file.name}: tensor {name!r} is not part of the architecture "
                f"{config.architecture!r} as it is supported, and results without it would be wrong"
            )


def check_format(file: GgufFile, info: TensorInfo) -> None:
    """`UnsupportedError` when the core does not compute on the tensor's format. Vectors are
    plain numbers."""
    known = VECTOR_FORMATS if len(info.shape) == 1 else tuple(FORMATS)
    if info.format not in known:
        raise UnsupportedError(
            f"{file.name}: tensor {info.name!r} is {info.format.upper()}, which is not supported "
            f"yet; supported: {', '.join(each.upper() for each in known)}. Requantise the model, "
            "for example with `llama-quantize --allow-requantize IN.gguf OUT.gguf Q8_0`"
        )


def expected_tensors(file: GgufFile, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that this model has, the optional ones only where they are."""

    def shape(role: Role) -> tuple[int, ...]:
        return tuple(getattr(config, name) for name in role.shape)

    shapes: dict[str, tuple[int, ...]] = {}
    for name, role in (MODEL_MATRICES | MODEL_VECTORS).items():
        if name != "output" or "output.weight" in file.tensors:
            shapes[f"{name}.weight"] = shape(role)
    if "rope_freqs.weight" in file.tensors:
        shapes["rope_freqs.weight"] = (config.rope_dims // 2,)
    for layer in range(config.layers):
        prefix = f"blk.{layer}."
        for name, role in (LAYER_MATRICES | LAYER_VECTORS).items():
            shapes[f"{prefix}{name}.weight"] = shape(role)
        shapes |= _ffn_tensors(file, config, prefix)
    return shapes


def _ffn_tensors(file: GgufFile, config: ModelConfig, prefix: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    bundle = f"{prefix}ffn_bundle.weight"
    if bundle in file.tensors:
        # Two rows a neuron without a gate, three with one.
        parts = 2 if file.tensors[bundle].shape[-1:] == (2 * config.d,) else 3
        shapes[bundle] = (config.hidden, parts * config.d)
    else:
        for name, sizes in FFN_MATRICES.items():
            shapes[f"{prefix}{name}.weight"] = tuple(getattr(config, size) for size in sizes)
    for name, size in FFN_BIASES.items():
        if f"{prefix}{name}.bias" in file.tensors:
            shapes[f"{prefix}{name}.bias"] = (getattr(config, size),)
    p, q = f"{prefix}ffn_predictor_p.weight", f"{prefix}ffn_predictor_q.weight"
    if p in file.tensors or q in file.tensors:
        rank = file.tensor(p).shape[0]
        shapes[p], shapes[q] = (rank, config.d), (config.hidden, rank)
        shapes[f"{prefix}ffn_predictor.bias"] = (config.hidden,)
    return shapes
