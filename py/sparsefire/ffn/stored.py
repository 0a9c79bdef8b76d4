"""Feed-forward layers of model files, as whole layers in the core."""

from __future__ import annotations

from typing import NamedTuple

from ..arch.config import ModelConfig
from ..arch.plan import FfnLayer
from ..arch.read import (
    read_biases,
    read_matrix,
    read_scale,
    read_vector,
    rows_by_neuron,
    upload_tensor,
)
from ..arch.tensors import DOWN_BY_NEURON, FFN_PARTS, ffn_matrices, ffn_tensor
from ..core.core import Core
from ..gguf.reader import GgufFile
from ..weights.matrix import Matrix, bundle_views
from .files import read_predictor
from .layer import SparseFfn


class _Matrices(NamedTuple):
    gate: Matrix | None
    up: Matrix
    down: Matrix
    down_layout: str = "neuron"
    second_down: Matrix | None = None  # the same weights by output


def read_layer(core: Core, file: GgufFile, config: ModelConfig, layer: FfnLayer) -> SparseFfn:
    """The feed-forward layer of a model with all that the file says of it: biases, predictor,
    cutoffs and norm. The down matrix of ReLU-like models is transposed, as sparse modes need it.

    Errors: `ModelFileError`, `UnsupportedError`, `NotFiniteError`, `CoreMemoryError`."""
    block, plain = layer.block, not layer.suffix
    matrices = _read_matrices(core, file, config, layer)
    ffn = SparseFfn.from_matrices(
        core,
        matrices.gate,
        matrices.up,
        matrices.down,
        activation=layer.activation,
        down_layout=matrices.down_layout,
        parameter=layer.parameter,
        predictor=read_predictor(
            core,
            file,
            block,
            config.hot_counts[block] if config.hot_counts else 0,
            config.powerinfer_threshold,
        )
        if plain
        else None,
        **read_biases(file, layer),
    )
    if matrices.second_down is not None:
        ffn.set_second_down(matrices.second_down)
    for on, cutoffs in config.cutoffs.items():
        ffn.set_cutoff(cutoffs[block], on)
    if config.kind.both_active:
        ffn.set_both_active(True)
    if layer.up_parameter != layer.parameter:
        ffn.set_up_parameter(layer.up_parameter)
    if layer.deviations:
        ffn.set_gate_deviations(layer.deviations)
    sub_norm = f"blk.{block}.ffn_sub_norm.weight"
    if sub_norm in file.tensors:
        ffn.set_sub_norm(read_vector(file, sub_norm), config.norm_epsilon)
    return ffn


def _read_matrices(core: Core, file: GgufFile, config: ModelConfig, layer: FfnLayer) -> _Matrices:
    """The layer's matrices, in the layout that its modes need."""
    bundle = f"blk.{layer.block}.ffn_bundle.weight"
    if bundle in file.tensors:
        return _read_bundle(core, file, layer, config.d)
    *names, down = (ffn_tensor(layer, part) for part in ffn_matrices(layer))
    *gates, up = (read_matrix(core, file, name) for name in names)
    gate = gates[0] if gates else None
    if layer.fused:
        gate, up = up.halves()
    by_neuron = f"blk.{layer.block}.{DOWN_BY_NEURON}"
    if by_neuron in file.tensors:
        transposed = read_matrix(core, file, by_neuron).set_scale(read_scale(file, down))
        second = read_matrix(core, file, down) if down in file.tensors else None
        return _Matrices(gate, up, transposed, second_down=second)
    if layer.skips:
        rows, kind, shape = rows_by_neuron(core, file, down)
        transposed = Matrix(core, core.upload(rows), kind, *shape)
        return _Matrices(gate, up, transposed.set_scale(read_scale(file, down)))
    return _Matrices(gate, up, read_matrix(core, file, down), "output")


def _read_bundle(core: Core, file: GgufFile, layer: FfnLayer, d: int) -> _Matrices:
    """The gate (if there is one), up and transposed down of a bundle, which holds the rows of one
    neuron side by side."""
    name = f"blk.{layer.block}.ffn_bundle.weight"
    info = file.tensors[name]
    memory = upload_tensor(core, file, name)
    hidden, columns = info.shape
    views = bundle_views(core, memory, hidden, [(info.format, d)] * (columns // d))
    for view, part in zip(views, FFN_PARTS[-len(views) :], strict=True):
        view.set_scale(read_scale(file, ffn_tensor(layer, part)))
    *gates, up, down = views
    return _Matrices(gates[0] if gates else None, up, down)
