"""Predictors in model files: a calibrated model's, and PowerInfer's."""

from __future__ import annotations

import numpy as np

from ..arch import screen
from ..arch.plan import ExpertLayer
from ..arch.read import read_expert_scales, read_matrix, read_vector
from ..arch.tensors import PREDICTOR_MATRICES
from ..core.core import Core
from ..core.handle import CoreObject
from ..gguf.reader import GgufFile
from .low_rank import LowRankPredictor

_ENDINGS = (*(f".{each}.weight" for each in PREDICTOR_MATRICES), screen.P, screen.Q)


def read_predictor(
    core: Core, file: GgufFile, layer: int, hot: int, powerinfer_threshold: float = 0.0
) -> LowRankPredictor | None:
    """The predictor of a model's layer, or None. ``hot``: number of neurons at the front that are
    always computed; ``powerinfer_threshold``: that of PowerInfer's predictors, which select
    fc2 · ReLU(fc1 · x) ≥ threshold."""
    prefix = f"blk.{layer}"
    if f"{prefix}.ffn_predictor_p.weight" in file.tensors:
        return LowRankPredictor.from_matrices(
            core,
            read_matrix(core, file, f"{prefix}.ffn_predictor_p.weight"),
            read_matrix(core, file, f"{prefix}.ffn_predictor_q.weight"),
            read_vector(file, f"{prefix}.ffn_predictor.bias"),
            hot=hot,
        )
    if f"{prefix}.fc1.weight" in file.tensors:
        threshold = np.float32(powerinfer_threshold)
        return LowRankPredictor.from_matrices(
            core,
            read_matrix(core, file, f"{prefix}.fc1.weight"),
            read_matrix(core, file, f"{prefix}.fc2.weight"),
            None,
            # Ours selects scores above the threshold, theirs from the threshold on.
            threshold=float(np.nextafter(threshold, np.float32(-np.inf))),
            relu_between=True,
        )
    return None


def read_expert_predictors(
    core: Core, file: GgufFile, layer: ExpertLayer
) -> list[LowRankPredictor]:
    """The predictors of a layer's experts, or none."""
    if not layer.usual or layer.predictor("p.weight") not in file.tensors:
        return []
    p, q = (
        read_matrix(core, file, layer.predictor(part)).parts(layer.count)
        for part in ("p.weight", "q.weight")
    )
    biases = read_vector(file, layer.predictor("bias"), 2).reshape(layer.count, -1)
    return [LowRankPredictor.from_matrices(core, *each) for each in zip(p, q, biases, strict=True)]


def attach_predictors(experts: CoreObject, predictors: list[LowRankPredictor]) -> None:
    """Gives each expert its predictor, which has to live as long."""
    for expert, predictor in enumerate(predictors):
        attached = expert, predictor.handle
        experts.core.check("sf_experts_set_predictor", experts.handle, *attached, what="predictors")


def set_up_parameter(experts: CoreObject, layer: ExpertLayer) -> None:
    """Gives what becomes of up its own parameter, if it has one."""
    if layer.up_parameter != layer.parameter:
        parameter = layer.up_parameter
        experts.core.check("sf_experts_set_up_parameter", experts.handle, parameter, what="experts")


def set_scales(experts: CoreObject, file: GgufFile, layer: ExpertLayer) -> None:
    """Gives the weights of each expert what the file has for them to be multiplied by."""
    scales = [
        each if each is None else experts.core.inp(each) for each in read_expert_scales(file, layer)
    ]
    experts.core.check("sf_experts_set_scales", experts.handle, *scales, what="scales of experts")


def predictor_copies(file: GgufFile) -> int:
    """Bytes of predictors that the core repacks into panels: those in Q4_0 and Q8_0 (see
    sf_predictor_open)."""
    return sum(
        info.nbytes
        for name, info in file.tensors.items()
        if name.endswith(_ENDINGS) and info.format in ("q4_0", "q8_0")
    )
