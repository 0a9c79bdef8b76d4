"""Which tensors a model has, with their shapes and their numbers in the core, and whether a file
has them."""

from __future__ import annotations

from typing import NamedTuple

from ..core.enums import MatrixRole, NumberRole, VectorRole
from ..errors import ModelFileError, UnsupportedError
from ..gguf.reader import GgufFile, TensorInfo
from ..weights.formats import FORMATS, VECTOR_FORMATS
from .config import ModelConfig
from .keys import REPAIR
from .rope import FACTORS_TENSOR


class Role(NamedTuple):
    """A tensor of the core's model: its number there, and its shape in attributes of
    `ModelConfig`."""

    code: MatrixRole | VectorRole
    shape: tuple[str, ...]


# Names of a layer's tensors begin with "blk.N.".
MODEL_MATRICES = {
    "token_embd.weight": Role(MatrixRole.TOKEN_EMBEDDING, ("vocab", "d")),
    "output.weight": Role(
        MatrixRole.OUTPUT, ("vocab", "d")
    ),  # absent where the embedding serves for both
}
LAYER_MATRICES = {
    "attn_q.weight": Role(MatrixRole.ATTENTION_Q, ("q_width", "d")),
    "attn_k.weight": Role(MatrixRole.ATTENTION_K, ("kv_width", "d")),
    "attn_v.weight": Role(MatrixRole.ATTENTION_V, ("kv_width", "d")),
    "attn_output.weight": Role(MatrixRole.ATTENTION_OUTPUT, ("d", "q_width")),
}
MODEL_VECTORS = {
    "output_norm.weight": Role(VectorRole.OUTPUT_NORM, ("d",)),
    "output_norm.bias": Role(VectorRole.OUTPUT_NORM_BIAS, ("d",)),
    "output.bias": Role(VectorRole.OUTPUT_BIAS, ("vocab",)),
}
LAYER_VECTORS = {
    "attn_norm.weight": Role(VectorRole.ATTENTION_NORM, ("d",)),
    "ffn_norm.weight": Role(VectorRole.FFN_NORM, ("d",)),
    "attn_norm.bias": Role(VectorRole.ATTENTION_NORM_BIAS, ("d",)),
    "ffn_norm.bias": Role(VectorRole.FFN_NORM_BIAS, ("d",)),
    "attn_q.bias": Role(VectorRole.ATTENTION_Q_BIAS, ("q_width",)),
    "attn_k.bias": Role(VectorRole.ATTENTION_K_BIAS, ("kv_width",)),
    "attn_v.bias": Role(VectorRole.ATTENTION_V_BIAS, ("kv_width",)),
    "attn_output.bias": Role(VectorRole.ATTENTION_OUTPUT_BIAS, ("d",)),
    "attn_q_norm.weight": Role(VectorRole.ATTENTION_Q_NORM, ("head_dim",)),
    "attn_k_norm.weight": Role(VectorRole.ATTENTION_K_NORM, ("head_dim",)),
    "post_attention_norm.weight": Role(VectorRole.ATTENTION_POST_NORM, ("d",)),
    "post_ffw_norm.weight": Role(VectorRole.FFN_POST_NORM, ("d",)),
    "attn_sub_norm.weight": Role(VectorRole.ATTENTION_SUB_NORM, ("q_width",)),
}

# What is not a tensor, by its name in `ModelConfig`.
NUMBERS = {
    "embedding_scale": NumberRole.EMBEDDING_SCALE,
    "residual_scale": NumberRole.RESIDUAL_SCALE,
    "logit_scale": NumberRole.LOGIT_SCALE,
    "logit_cap": NumberRole.LOGIT_CAP,
    "attention_scale": NumberRole.ATTENTION_SCALE,
    "attention_cap": NumberRole.ATTENTION_CAP,
}

# Ours, and PowerInfer's.
PREDICTOR_MATRICES = ("ffn_predictor_p", "ffn_predictor_q", "fc1", "fc2")

FFN_MATRICES = {
    "ffn_gate": ("hidden", "d"),
    "ffn_up": ("hidden", "d"),
    "ffn_down": ("d", "hidden"),
}
FFN_BIASES = {"ffn_gate": "hidden", "ffn_up": "hidden", "ffn_down": "d"}

# Tensors that any architecture may have or not; of the others, it has those that its row of
# `ARCHITECTURES` names, and the plain norms.
_OPTIONAL = {
    "output.weight",
    "output.bias",
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_output.bias",
}
_ALWAYS = {"output_norm.weight", "attn_norm.weight", "ffn_norm.weight", "token_embd.weight"}

DOWN_BY_NEURON = "ffn_down_t.weight"  # in PowerInfer's files, and beside cutoffs: (hidden, d)
_FFN_SUB_NORM = "ffn_sub_norm.weight"

_FUSED = {"attn_qkv": "attn_q, attn_k and attn_v", "ffn_gate_up": "ffn_gate and ffn_up"}


def check_tensors(file: GgufFile, config: ModelConfig) -> None:
    """Checks that every tensor the model needs is there with the right shape, in a format that the
    core computes on, and that there is none that it would ignore.

    Errors: `ModelFileError` (missing, wrong shape), `UnsupportedError` (format, unknown tensor).
    """
    shapes = expected_tensors(file, config)
    _refuse_fused(file)
    for name, shape in shapes.items():
        info = file.tensor(name)
        if info.shape != shape:
            raise ModelFileError(
                f"{file.name}: tensor {name!r} has shape {info.shape}, expected {shape}; {REPAIR}"
            )
        check_format(file, info)
    for name in file.tensors:
        if name not in shapes:
            raise UnsupportedError(
                f"{file.name}: tensor {name!r} is not part of the architecture "
                f"{config.architecture!r} as it is supported, and results without it would be wrong"
            )


def _refuse_fused(file: GgufFile) -> None:
    for name, parts in _FUSED.items():
        if f"blk.0.{name}.weight" in file.tensors:
            raise UnsupportedError(
                f"{file.name}: tensor 'blk.0.{name}.weight' holds {parts} in one, which is not "
                "supported; convert the model with these tensors apart"
            )


def check_format(file: GgufFile, info: TensorInfo) -> None:
    """`UnsupportedError` when the core does not compute on the tensor's format. Vectors are
    plain numbers."""
    known = VECTOR_FORMATS if len(info.shape) == 1 else tuple(FORMATS)
    if info.format not in known:
        raise UnsupportedError(
            f"{file.name}: tensor {info.name!r} is {info.format.upper()}, which is not supported "
            f"yet; supported: {', '.join(each.upper() for each in known)}. Requantise the model: "
            "`sparsefire quantize IN.gguf OUT.gguf q8_0`"
        )


def expected_tensors(file: GgufFile, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that this model has, the optional ones only where they are."""
    shapes = _role_tensors(file, config, "", MODEL_MATRICES | MODEL_VECTORS)
    if FACTORS_TENSOR in file.tensors:
        shapes[FACTORS_TENSOR] = (config.rope_pairs,)
    for layer in range(config.layers):
        prefix = f"blk.{layer}."
        shapes |= _role_tensors(file, config, prefix, LAYER_MATRICES | LAYER_VECTORS)
        shapes |= _ffn_tensors(file, config, prefix)
    return shapes


def _role_tensors(
    file: GgufFile, config: ModelConfig, prefix: str, roles: dict[str, Role]
) -> dict[str, tuple[int, ...]]:
    own = {*config.kind.vectors, *_ALWAYS, *LAYER_MATRICES}
    if config.kind.layer_norm:
        own.add("output_norm.bias")
    shapes = {}
    for name, role in roles.items():
        full = f"{prefix}{name}"
        if name in own or (name in _OPTIONAL and full in file.tensors):
            shapes[full] = tuple(getattr(config, size) for size in role.shape)
    return shapes


def _ffn_tensors(file: GgufFile, config: ModelConfig, prefix: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    bundle = f"{prefix}ffn_bundle.weight"
    names = ffn_matrices(config)
    if bundle in file.tensors:
        # Two rows a neuron without a gate, three with one.
        parts = 2 if file.tensors[bundle].shape[-1:] == (2 * config.d,) else 3
        shapes[bundle] = (config.hidden, parts * config.d)
        names = list(FFN_MATRICES)[-parts:]
    else:
        for name in names:
            sizes = FFN_MATRICES[name]
            if name == "ffn_down" and f"{prefix}{DOWN_BY_NEURON}" in file.tensors:
                shapes[f"{prefix}{DOWN_BY_NEURON}"] = (config.hidden, config.d)
                if f"{prefix}{name}.weight" not in file.tensors:
                    continue
            shapes[f"{prefix}{name}.weight"] = tuple(getattr(config, size) for size in sizes)
    for name in names:
        if f"{prefix}{name}.bias" in file.tensors:
            shapes[f"{prefix}{name}.bias"] = (getattr(config, FFN_BIASES[name]),)
    if _FFN_SUB_NORM in config.kind.vectors:
        shapes[f"{prefix}{_FFN_SUB_NORM}"] = (config.hidden,)
    own = (f"{prefix}ffn_predictor_p.weight", f"{prefix}ffn_predictor_q.weight")
    for p, q in (own, (f"{prefix}fc1.weight", f"{prefix}fc2.weight")):
        if p in file.tensors or q in file.tensors:
            rank = file.tensor(p).shape[0]
            shapes[p], shapes[q] = (rank, config.d), (config.hidden, rank)
    if own[0] in shapes:
        shapes[f"{prefix}ffn_predictor.bias"] = (config.hidden,)
    return shapes


def ffn_matrices(config: ModelConfig) -> list[str]:
    """The matrices of a feed-forward layer that is not stored as bundles."""
    return [name for name in FFN_MATRICES if name != "ffn_gate" or config.kind.gated]
