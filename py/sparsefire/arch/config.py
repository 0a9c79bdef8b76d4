"""The configuration of a model file by architecture: `read_config` reads the
sizes. The rows of architectures are in `table`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from .._shown import shown
from ..errors import ArgumentError, ModelFileError, UnsupportedError
from ..gguf.reader import GgufFile
from ..weights.activation import ActivationType
from .architecture import Architecture, Sizes
from .decoder import write as write_decoder
from .keys import REPAIR, Keys
from .mixture import LIMITS
from .rope import LONG_FACTORS_TENSOR, Rope, read_rope
from .screen import OF_KEY, has_limits, has_screen
from .table import ARCHITECTURES

SPARSEFIRE_VERSION = 1  # of the sparsefire.* keys that are understood
# Models that are known for a ReLU, and are often stored as `llama` without saying so.
_RELU_NAMES = re.compile(r"relu|reglu|pro-?sparse|turbo-?sparse", re.IGNORECASE)
# Cutoffs of the layers, by what they are on, see `SparseFfn.set_cutoff`.
CUTOFF_KEYS = {"gate": "sparsefire.cutoff.gate", "product": "sparsefire.cutoff.product"}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and numbers of a model. `d` is the width of the residual stream, `hidden` the number of
    neurons per layer, `context_length` the context length of the training."""

    architecture: str
    name: str
    layers: int
    blocks: int  # of the file: `layers`, and those that are not run
    d: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    norm_epsilon: float
    layer_norm: bool  # of mean and variance; else RMS
    activation: ActivationType
    activation_parameter: float  # FATReLU's threshold or a limit of the activation, else 0
    up_parameter: float  # the limit of what becomes of up beside a gate, else the same
    hot_counts: tuple[int, ...] | None  # of a model with predictors, one a layer
    cutoffs: dict[str, tuple[float, ...]]  # on "gate" and "product", one a layer, where there are
    leaves_out_inputs: bool  # in sparse mode, see `sparsefire.arch.inputs`
    rope: Rope
    window_rope: Rope  # of layers with a window
    rope_sections: bool  # of text and images (Wang et al. 2024), whose pairs are halves
    windows: tuple[int, ...]  # tokens that each layer sees, 0 for all
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    logit_cap: float  # 0 for none
    attention_scale: float
    attention_cap: float  # 0 for none
    alibi: float  # largest exponent of the slopes; 0 for none
    rotates: bool
    both_sides: bool  # tokens attend to those after them too
    pooling: str  # of the vectors of a text, see `Model.embed`; "" if the file does not say
    powerinfer: bool  # predictors are PowerInfer's
    powerinfer_threshold: float

    @property
    def kind(self) -> Architecture:
        """The row of `ARCHITECTURES`."""
        return ARCHITECTURES[self.architecture]

    @property
    def limits(self) -> tuple[float, float]:
        """The parameters of the activation and of what becomes of up beside a gate."""
        return self.activation_parameter, self.up_parameter

    @property
    def activation_name(self) -> str:
        """The activation of the feed-forward layers."""
        return self.kind.own_activation or str(self.activation)

    @property
    def rope_halves(self) -> bool:
        """Whether pairs that are rotated are (i, i + dims/2) of a head; else (2i, 2i+1)."""
        halves = self.kind.rope_halves
        return self.rope_sections if halves is None else halves

    @property
    def rope_dims(self) -> int:
        """Elements of a head that are rotated."""
        return self.rope.dims

    @property
    def rope_pairs(self) -> int:
        """Pairs of a head that are rotated."""
        return self.rope.dims // 2

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
        """True if the file has predictors, our own or PowerInfer's, cutoffs, or limits of inputs
        that are used."""
        return (
            self.hot_counts is not None
            or self.powerinfer
            or bool(self.cutoffs)
            or self.leaves_out_inputs
        )

    @property
    def default_mode(self) -> str:
        """ "sparse" for a calibrated model, otherwise "exact" if neurons are exactly 0, otherwise
        "dense"."""
        if self.calibrated:
            return "sparse"
        return "exact" if self.activation.is_relu_family or self.kind.skips else "dense"


# Architectures that will not run, and what they are of.
_NO_TEXT = {
    "clip": "images and sound",
    "wavtokenizer-dec": "sound",
    "pockettts": "speech",
    "qwen3tts": "speech",
}
# And those of which something is not computed yet.
_MISSING = {
    "dflash": "the hidden states of the model whose tokens it drafts",
    "eagle3": "the hidden states of the model whose tokens it drafts",
    "gemma4-assistant": "the hidden states of the model whose tokens it drafts",
    "qwen4exp": "residual streams with shares of low rank, and embeddings of n-grams",
    "step35": "rotations whose size differs between layers",
    "t5": "a decoder that attends to an encoder; of such models the encoder, t5encoder, runs",
}
_NO_POOLING = (1 << 32) - 1  # -1 without a sign, as some writers store that nothing is said
# Keys that change the mathematics in ways the core does not compute, and their neutral values.
_NEUTRAL = {
    "expert_count": 0,
    "attention.max_alibi_bias": 0.0,
    "attention.clamp_kqv": 0.0,
    "attention.shared_kv_layers": 0,
    "use_parallel_residual": False,
    "attention.causal": True,
}


def _refuse_unknown(keys: Keys, kind: Architecture) -> None:
    """`UnsupportedError` for a key that requires something the core does not compute, unless the
    architecture reads it itself."""
    own = {*kind.own_keys, *(("expert_count",) if kind.mixture else ())}
    own |= {*LIMITS} if kind.mixture and kind.mixture.limits else set()
    own |= {"attention.clamp_kqv"} if kind.clamped else set()
    own |= {"attention.max_alibi_bias"} if kind.alibi else set()
    own |= {"use_parallel_residual"} if kind.parallel else set()
    own |= {"attention.causal"} if kind.both_sides or kind.write is write_decoder else set()
    for name, neutral in _NEUTRAL.items():
        if name not in own and keys.value(name, neutral) != neutral:
            raise keys.unsupported(name)
    for name in LIMITS:
        if name not in own and np.any(keys.value(name, 0)):
            raise keys.unsupported(name)


def read_config(
    file: GgufFile, activation: str | ActivationType | None = None, inputs: bool = True
) -> ModelConfig:
    """The sizes in a model file, checked for plausibility.

    activation: overrides the file and the architecture.
    inputs: whether limits of inputs are used, if the file has them.

    Errors: `ModelFileError` naming the key, `UnsupportedError` (architecture, or a variant of it
    that the core does not compute), `ArgumentError` (unknown activation).
    """
    architecture = _architecture(file)
    kind = ARCHITECTURES[architecture]
    keys = Keys(file, architecture)
    _refuse_unknown(keys, kind)
    blocks = keys.integer("block_count", 4096)
    # The last blocks of some models only draft tokens further ahead, and are not run.
    layers = blocks - keys.integer("nextn_predict_layers", blocks - 1, 0, least=0)
    d = keys.integer("embedding_length", 1 << 17)
    heads = _largest(keys, kind, "attention.head_count", layers, 4096)
    kv_heads = _largest(keys, kind, "attention.head_count_kv", layers, heads or 4096, heads)
    hidden = _largest(keys, kind, "feed_forward_length", layers, 1 << 22)
    hidden //= 2 if kind.halved else 1
    sizes = Sizes(layers, d, heads, _head_dim(keys, kind, d, heads, kv_heads))
    context_length = keys.integer("context_length", 1 << 24)
    rope = read_rope(file, keys, _rope_dims(keys, kind, sizes.head_dim), context_length)
    chosen, parameter = _activation(file, keys, architecture, activation)
    cutoffs = _cutoffs(file, layers)
    optional = bool(cutoffs) or has_screen(file) or has_limits(file)
    name = file.metadata.get("general.name")
    return ModelConfig(
        architecture=architecture,
        name=shown(name) if isinstance(name, str) else architecture,
        layers=layers,
        blocks=blocks,
        d=d,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=sizes.head_dim,
        vocab=_vocabulary(file),
        context_length=_usable_context(file, keys, kind, context_length),
        norm_epsilon=_norm_epsilon(keys, kind),
        layer_norm=_is_layer_norm(keys, kind),
        activation=chosen,
        activation_parameter=parameter,
        up_parameter=_up_parameter(keys, chosen, parameter),
        hot_counts=_hot_counts(file, layers, hidden, optional=optional),
        cutoffs=cutoffs,
        leaves_out_inputs=inputs and has_limits(file),
        rope=rope,
        window_rope=_window_rope(keys, kind, rope),
        rope_sections=_has_sections(keys),
        windows=_windows(keys, kind, layers) if kind.windowed(sizes) else (0,) * layers,
        embedding_scale=_scale(keys, "embedding_scale", kind.embedding_scale(sizes)),
        residual_scale=_scale(keys, "residual_scale", kind.residual_scale(sizes)),
        logit_scale=_logit_scale(keys, kind, sizes),
        logit_cap=_cap(keys, kind, "final_logit_softcapping", kind.logit_cap),
        attention_scale=_scale(keys, kind.scale_key, kind.attention_scale(sizes)),
        attention_cap=_cap(keys, kind, "attn_logit_softcapping", kind.attention_cap),
        alibi=_alibi(keys, kind, sizes),
        rotates=kind.rotary(sizes),
        both_sides=kind.both_sides or keys.value("attention.causal", True) is False,
        pooling=_pooling(keys),
        powerinfer=_has_powerinfer(file),
        powerinfer_threshold=Keys(file, "powerinfer").number("sparse_threshold", -1e6, 1e6, 0.0),
    )


def _pooling(keys: Keys) -> str:
    kinds = "", "mean", "cls", "last", "rank"
    if keys.value("pooling_type", 0) in (-1, _NO_POOLING):
        return ""
    return kinds[keys.integer("pooling_type", len(kinds) - 1, 0, least=0)]


def _cap(keys: Keys, kind: Architecture, name: str, default: float) -> float:
    """The key, of architectures that have such a cap; in files of others it means nothing."""
    cap = keys.number(name, 0.0, 1e6, default)
    return cap if default or name in kind.own_keys else 0.0


def _alibi(keys: Keys, kind: Architecture, sizes: Sizes) -> float:
    if kind.alibi is None:
        return 0.0
    return keys.number("attention.max_alibi_bias", 0.0, 1e3, 0.0) or kind.alibi(sizes)


def _has_sections(keys: Keys) -> bool:
    """A text has the same position in all sections, so that their sizes do not matter."""
    sections = keys.value("rope.dimension_sections")
    return isinstance(sections, np.ndarray) and bool((sections[:2] != 0).any())


def _is_layer_norm(keys: Keys, kind: Architecture) -> bool:
    if kind.layer_norm is None:
        return not keys.value("attention.layer_norm_rms_epsilon", 0.0)
    return kind.layer_norm


def _norm_epsilon(keys: Keys, kind: Architecture) -> float:
    """Of the key that is named after the kind of norm, but for files that write the other one."""
    layer, rms = "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"
    if kind.layer_norm and not keys.value(layer) and keys.value(rms):
        return keys.number(rms, 0.0, 0.1)
    if _is_layer_norm(keys, kind) or (layer in kind.own_keys and keys.value(rms) is None):
        return keys.number(layer, 0.0, 0.1)
    return keys.number(rms, 0.0, 0.1)


def _largest(
    keys: Keys, kind: Architecture, name: str, layers: int, most: int, default: int | None = None
) -> int:
    """A size. Where the architecture reads the key itself, that of the largest layer: others may
    have another one, or 0 for nothing of that kind."""
    if name in kind.own_keys:
        return max(keys.per_layer(name, layers, most, default))
    return keys.integer(name, most, default)


def _has_powerinfer(file: GgufFile) -> bool:
    """Whether the file has PowerInfer's predictors (Song et al. 2023)."""
    return "blk.0.fc1.weight" in file.tensors


def _architecture(file: GgufFile) -> str:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelFileError(f"{file.name}: key 'general.architecture' is missing; {REPAIR}")
    if OF_KEY in file.metadata:
        raise ModelFileError(
            f"{file.name}: a companion, which holds what calibration found for a model, not the "
            "model itself; load the model beside it"
        )
    if architecture in _NO_TEXT:
        raise UnsupportedError(
            f"{file.name}: the architecture {architecture!r} is one of {_NO_TEXT[architecture]}; "
            "only models of text are supported"
        )
    if architecture in _MISSING:
        raise UnsupportedError(
            f"{file.name}: models of the architecture {architecture!r} do not run yet: missing is "
            f"{_MISSING[architecture]}"
        )
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(
            f"{file.name}: the architecture {architecture!r} is not supported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    return architecture


def _head_dim(keys: Keys, kind: Architecture, d: int, heads: int, kv_heads: int) -> int:
    if heads == 0:
        return 0
    if kv_heads == 0 or heads % kv_heads:
        raise keys.fail(
            "attention.head_count_kv", f"is {kv_heads}, which does not divide the {heads} heads"
        )
    default = d // heads if d % heads == 0 else None
    head_dim = keys.integer("attention.key_length", 1 << 14, default)
    for name in ("value_length", "key_length_swa", "value_length_swa"):
        if f"attention.{name}" in kind.own_keys:
            continue
        if keys.integer(f"attention.{name}", 1 << 14, head_dim) != head_dim:
            raise keys.fail(f"attention.{name}", f"is not the key length, {head_dim}")
    return head_dim


def _rope_dims(keys: Keys, kind: Architecture, head_dim: int) -> int:
    if head_dim == 0:
        return 0
    dims = keys.integer("rope.dimension_count", head_dim, head_dim)
    if dims % 2:
        raise keys.fail("rope.dimension_count", f"is {dims}; expected an even number")
    name = "rope.dimension_count_swa"
    if name not in kind.own_keys and keys.integer(name, head_dim, dims) != dims:
        raise keys.unsupported(name)
    return dims


def _window_rope(keys: Keys, kind: Architecture, rope: Rope) -> Rope:
    """Layers with a window may have their own rotary base, without scaling."""
    name, base = "rope.freq_base_swa", kind.window_rope_base
    if name in kind.own_keys:
        if keys.value(name) not in (None, 0.0, rope.base):
            raise keys.unsupported(name)
        return rope
    if base is None and keys.value(name) is None:
        return rope
    return rope.with_base(keys.number(name, 1.0, 1e12, base or rope.base))


def _windows(keys: Keys, kind: Architecture, layers: int) -> tuple[int, ...]:
    window = keys.integer("attention.sliding_window", 1 << 24, kind.window, least=0)
    name = "attention.sliding_window_pattern"
    pattern = keys.value(name)
    if window == 0:
        return (0,) * layers
    if isinstance(pattern, np.ndarray):
        if len(pattern) < layers:
            raise keys.fail(name, f"has {len(pattern)} entries for {layers} layers")
        return tuple(window if windowed else 0 for windowed in pattern[:layers])
    every = keys.integer(name, 4096, kind.full_every, least=0)
    full = 0 if kind.full_first else every - 1
    return tuple(0 if every and layer % every == full else window for layer in range(layers))


def _usable_context(file: GgufFile, keys: Keys, kind: Architecture, context_length: int) -> int:
    """Some models scale queries beyond their original context length, or turn by other factors
    (Ding et al. 2024), or choose the tokens that they attend to among more than so many, which is
    not supported: their context is limited to that length."""
    chosen = keys.integer("attention.indexer.top_k", 1 << 24, context_length)
    if kind.chosen_blocks:
        chosen *= keys.integer("attention.indexer.block_size", 1 << 24, 1)
    chosen *= kind.chosen_tokens
    context_length = min(context_length, chosen)
    name = "attention.temperature_scale"
    scaled = name not in kind.own_keys and keys.value(name, 0)
    if not scaled and LONG_FACTORS_TENSOR not in file.tensors:
        return context_length
    name = "rope.scaling.original_context_length"
    return min(context_length, keys.integer(name, 1 << 24, context_length))


def _scale(keys: Keys, name: str, default: float) -> float:
    """A factor; 0 means the default, as in other readers of these keys."""
    return keys.number(name, -1e6, 1e6, default) or default


def _logit_scale(keys: Keys, kind: Architecture, sizes: Sizes) -> float:
    if kind.logit_factor:
        divisor = kind.logit_divisor or (lambda _: 1.0)
        return _scale(keys, "logit_scale", 1 / divisor(sizes))
    if kind.logit_divisor is None:
        if keys.value("logit_scale", 1.0) not in (0.0, 1.0):
            raise keys.unsupported("logit_scale")
        return 1.0
    if keys.value("logit_scale") == 0:
        return 1 / kind.logit_divisor(sizes)
    return 1 / keys.number("logit_scale", 1e-6, 1e6, kind.logit_divisor(sizes))


def _vocabulary(file: GgufFile) -> int:
    """Rows of the embedding, which may exceed the number of named tokens."""
    shape = file.tensor("token_embd.weight").shape
    if len(shape) != 2 or shape[0] > 1 << 22:
        raise ModelFileError(
            f"{file.name}: tensor 'token_embd.weight' has shape {shape}; expected (vocabulary, d)"
        )
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > shape[0]:
        raise ModelFileError(
            f"{file.name}: key 'tokenizer.ggml.tokens' names {len(tokens)} tokens, but "
            f"'token_embd.weight' has {shape[0]} rows; {REPAIR}"
        )
    return shape[0]


def _activation(
    file: GgufFile, keys: Keys, architecture: str, chosen: str | ActivationType | None
) -> tuple[ActivationType, float]:
    """The user's choice, or else the file's, or else the default of the architecture."""
    kind = ARCHITECTURES[architecture]
    stored = keys.text("hidden_activation") or keys.text("hidden_act")
    if not stored and _has_powerinfer(file):
        stored = "relu"  # PowerInfer computes no other
    if kind.own_activation and (chosen is not None or stored not in (None, kind.own_activation)):
        raise UnsupportedError(
            f"{file.name}: models of the architecture {architecture!r} compute "
            f"{kind.own_activation}, and no other activation is supported"
        )
    stored = None if kind.own_activation else stored
    default = kind.activation or kind.activation_by_keys(keys)
    if chosen is not None:
        activation = ActivationType(chosen)
    elif not stored and default is None:
        raise UnsupportedError(
            f"{file.name}: the file does not say which activation its feed-forward layers use, and "
            f"models of the architecture {architecture!r} differ: {kind.ambiguous}. Choose one "
            "with --activation or the argument of Model.load"
        )
    else:
        if not stored and kind.activation == "silu":
            _refuse_guess(file, architecture, kind.activation)
        try:
            activation = ActivationType(stored or default or "")
        except ArgumentError as error:
            raise UnsupportedError(
                f"{file.name}: key '{architecture}.hidden_activation': {error}"
            ) from None
    parameter = 0.0
    if activation is ActivationType.FATRELU:
        parameter = keys.number("hidden_activation_threshold", 0.0, 1e6)
    elif activation.has_limit and activation != kind.activation:
        raise UnsupportedError(
            f"{file.name}: models of the architecture {architecture!r} have no limits for the "
            f"activation {activation}"
        )
    elif activation is ActivationType.SITU:
        parameter = keys.number("activation.situ_beta", 1e-3, 1e6)
    return activation, parameter


def _up_parameter(keys: Keys, activation: ActivationType, parameter: float) -> float:
    if activation is ActivationType.SITU:
        return keys.number("activation.situ_linear_beta", 1e-3, 1e6)
    return parameter


def _cutoffs(file: GgufFile, layers: int) -> dict[str, tuple[float, ...]]:
    found = {}
    for on, key in CUTOFF_KEYS.items():
        values = file.metadata.get(key)
        if values is None:
            continue
        if (
            not isinstance(values, np.ndarray)
            or values.dtype.kind != "f"
            or values.shape != (layers,)
            or not (np.isfinite(values) & (values >= 0)).all()
        ):
            raise ModelFileError(
                f"{file.name}: key {key!r} must hold {layers} numbers from 0 on; calibrate the "
                "model again"
            )
        found[on] = tuple(values.tolist())
    return found


def _refuse_guess(file: GgufFile, architecture: str, assumed: str) -> None:
    """`UnsupportedError` for a model whose name is that of a ReLU model, if the file does not say
    so and the architecture's default is another activation: the text would be nonsense."""
    known = (file.metadata.get(key) for key in ("general.name", "general.basename"))
    for name in (*known, PurePath(file.name).name):
        if isinstance(name, str) and _RELU_NAMES.search(name):
            raise UnsupportedError(
                f"{file.name}: the name {name!r} is that of a model with ReLU, but the file does "
                f"not say which activation its feed-forward layers use, and {architecture!r} ones "
                f"mostly use {assumed}. Choose one, with --activation or the argument of "
                "Model.load: relu (fatrelu needs a file that holds its threshold)"
            )


def _hot_counts(file: GgufFile, layers: int, hidden: int, optional: bool) -> tuple[int, ...] | None:
    version = file.metadata.get("sparsefire.version")
    if version is None:
        return None
    if version != SPARSEFIRE_VERSION:
        raise UnsupportedError(
            f"{file.name}: calibrated for version {version} of the sparsefire keys, of which "
            f"version {SPARSEFIRE_VERSION} is read: update sparsefire, or calibrate the model again"
        )
    counts = file.metadata.get("sparsefire.hot_counts")
    if counts is None and optional:
        return None
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
