"""The plan of a model file, and whether the file has the tensors that it needs."""

from __future__ import annotations

from ..errors import ModelFileError, UnsupportedError
from ..gguf.header import TensorInfo
from ..gguf.i2_s import scale_name
from ..gguf.reader import GgufFile
from ..weights.formats import FORMATS, VECTOR_FORMATS
from .config import ModelConfig
from .keys import REPAIR
from .plan import ExpertLayer, FfnLayer, Plan
from .rope import FACTORS_TENSOR
from .writer import Writer

# Ours, and PowerInfer's.
PREDICTOR_MATRICES = (
    *("ffn_predictor_p", "ffn_predictor_q", "ffn_predictor_exps_p", "ffn_predictor_exps_q"),
    *("fc1", "fc2"),
)

INTEGERS = "i32"  # the format of matrices of integers
FFN_PARTS = ("ffn_gate", "ffn_up", "ffn_down")

DOWN_BY_NEURON = "ffn_down_t.weight"  # in PowerInfer's files, and beside cutoffs: (hidden, d)
_FFN_SUB_NORM = "ffn_sub_norm.weight"

_FUSED = {"attn_qkv": "attn_q, attn_k and attn_v", "ffn_gate_up": "ffn_gate and ffn_up"}


def read_plan(file: GgufFile, config: ModelConfig, head: str = "screened") -> Plan:
    """The plan of a model, with the head that is chosen: the screen that the file may
    have, or a copy of the matrix, is used or not. Every tensor that it
    needs is there with the right shape, in a format that the core computes on, and there is none
    that it would ignore.

    Errors: `ModelFileError` (missing, wrong shape), `UnsupportedError` (format, unknown tensor).
    """
    writer = Writer(file, config, head)
    config.kind.write(writer)
    shapes = _all_tensors(file, config, writer.plan)
    _refuse_fused(file, shapes)
    vectors = {each.name for each in writer.plan.vectors}
    integers = {each.name for each in writer.plan.matrices if each.integers}
    for name, shape in shapes.items():
        info = file.tensor(name)
        least = 1 if name in vectors else 2
        if _significant(info.shape, least) != _significant(shape, least):
            raise ModelFileError(
                f"{file.name}: tensor {name!r} has shape {info.shape}, expected {shape}; {REPAIR}"
            )
        if name in integers:
            _check_among(file, info, (INTEGERS,))
        else:
            check = check_vector_format if name in vectors else check_format
            check(file, info)
    unused = tuple(f"blk.{block}." for block in range(config.layers, config.blocks))
    for name in file.tensors:
        if name not in shapes and not name.startswith(unused):
            raise UnsupportedError(
                f"{file.name}: tensor {name!r} is not part of the architecture "
                f"{config.architecture!r} as it is supported, and results without it would be wrong"
            )
    return writer.plan


def _significant(shape: tuple[int, ...], least: int) -> tuple[int, ...]:
    """A shape without ones before its last `least` dimensions, which files leave out."""
    while len(shape) > least and shape[0] == 1:
        shape = shape[1:]
    return shape


def _refuse_fused(file: GgufFile, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, parts in _FUSED.items():
        full = f"blk.0.{name}.weight"
        if full in file.tensors and full not in shapes:
            raise UnsupportedError(
                f"{file.name}: tensor 'blk.0.{name}.weight' holds {parts} in one, which is not "
                "supported; convert the model with these tensors apart"
            )


def check_format(file: GgufFile, info: TensorInfo) -> None:
    """`UnsupportedError` when the core does not compute on the tensor's format. Vectors are
    plain numbers."""
    _check_among(file, info, VECTOR_FORMATS if len(info.shape) == 1 else tuple(FORMATS))


def check_vector_format(file: GgufFile, info: TensorInfo) -> None:
    """`UnsupportedError` when the tensor is not of plain numbers."""
    _check_among(file, info, VECTOR_FORMATS)


def _check_among(file: GgufFile, info: TensorInfo, known: tuple[str, ...]) -> None:
    if info.format not in known:
        raise UnsupportedError(
            f"{file.name}: tensor {info.name!r} is {info.format.upper()}, which is not supported "
            f"yet; supported: {', '.join(each.upper() for each in known)}. Requantise the model: "
            "`sparsefire quantize IN.gguf OUT.gguf q8_0`"
        )


def _all_tensors(file: GgufFile, config: ModelConfig, plan: Plan) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that this model has, the optional ones only where they are."""
    shapes = dict(plan.tensors)
    if FACTORS_TENSOR in file.tensors and config.rope_pairs:
        shapes[FACTORS_TENSOR] = (config.rope_pairs,)
    for layer in plan.layers:
        if isinstance(layer, FfnLayer):
            shapes |= _ffn_tensors(file, config, layer)
        elif layer.usual:
            shapes |= _expert_predictors(file, layer, plan.tensors[f"{layer.up}.weight"][-1])
        if isinstance(layer, ExpertLayer):
            for name in layer.names:
                shapes |= _scales(file, f"{name}.weight", layer.count)
    for name in [name for name, shape in shapes.items() if len(shape) == 2]:
        shapes = _scales(file, name) | shapes  # an architecture may use one in its own way
    return shapes


def _expert_predictors(file: GgufFile, layer: ExpertLayer, d: int) -> dict[str, tuple[int, ...]]:
    """The predictors of a layer of experts, if it has any, one below the other."""
    p, q, bias = (layer.predictor(part) for part in ("p.weight", "q.weight", "bias"))
    if not {p, q, bias} & set(file.tensors):
        return {}
    *_, rank, _ = (1, *file.tensor(p).shape)
    neurons = layer.count, layer.width
    return {p: (layer.count, rank, d), q: (*neurons, rank), bias: neurons}


def _scales(file: GgufFile, matrix: str, count: int = 1) -> dict[str, tuple[int, ...]]:
    """The numbers that files have beside a matrix, or each of those of so many experts: what its
    weights are multiplied by, and what its inputs would be divided by where they become 4-bit
    floats, which changes nothing here."""
    scale = scale_name(matrix)
    names = scale, f"{scale.removesuffix('scale')}input_scale"
    return {name: (count,) for name in names if name in file.tensors}


def _ffn_tensors(
    file: GgufFile, config: ModelConfig, layer: FfnLayer
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    prefix, d, hidden = f"blk.{layer.block}.", config.d, layer.hidden
    bundle = f"{prefix}ffn_bundle.weight"
    parts = ffn_matrices(layer)
    if bundle in file.tensors and not layer.suffix:
        # Two rows a neuron without a gate, three with one.
        count = 2 if file.tensors[bundle].shape[-1:] == (2 * d,) else 3
        shapes[bundle] = (hidden, count * d)
        parts = FFN_PARTS[-count:]
    else:
        for part in parts:
            name = ffn_tensor(layer, part)
            if part == "ffn_down" and f"{prefix}{DOWN_BY_NEURON}" in file.tensors:
                shapes[f"{prefix}{DOWN_BY_NEURON}"] = (hidden, d)
                if name not in file.tensors:
                    continue
            rows = 2 * hidden if layer.fused else hidden
            shapes[name] = (d, hidden) if part == "ffn_down" else (rows, d)
    for part in parts:
        bias = ffn_tensor(layer, part, "bias")
        if bias in file.tensors:
            shapes[bias] = (d if part == "ffn_down" else hidden,)
        shapes |= _scales(file, ffn_tensor(layer, part))
    if _FFN_SUB_NORM in config.kind.vectors:
        shapes[f"{prefix}{_FFN_SUB_NORM}"] = (hidden,)
    own = (f"{prefix}ffn_predictor_p.weight", f"{prefix}ffn_predictor_q.weight")
    for p, q in (own, (f"{prefix}fc1.weight", f"{prefix}fc2.weight")):
        if p in file.tensors or q in file.tensors:
            rank = file.tensor(p).shape[0]
            shapes[p], shapes[q] = (rank, d), (hidden, rank)
    if own[0] in shapes:
        shapes[f"{prefix}ffn_predictor.bias"] = (hidden,)
    return shapes


def ffn_tensor(layer: FfnLayer, part: str, kind: str = "weight") -> str:
    """The name of a tensor of a feed-forward layer."""
    name = dict(layer.names).get(part, part + layer.suffix)
    return f"{layer.stack}blk.{layer.block}.{name}.{kind}"


def ffn_matrices(layer: FfnLayer) -> tuple[str, ...]:
    """The matrices of a feed-forward layer that is not stored as bundles."""
    return FFN_PARTS if layer.gated and not layer.fused else FFN_PARTS[1:]
