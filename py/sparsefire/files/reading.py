"""What a model reads of its weights for one token, and how its experts are used."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..arch import screen
from ..arch.plan import ExpertLayer, Plan
from ..arch.tensors import ffn_matrices, ffn_tensor
from ..core.enums import StepName
from ..gguf.reader import GgufFile


@dataclass(frozen=True)
class MixtureReport:
    """Layers of `experts` of `width` neurons each, of which a token uses `used`."""

    layers: int
    experts: int
    used: int
    width: int


@dataclass(frozen=True)
class ReadingReport:
    """Bytes of weights that a token reads in dense mode: of the experts that are chosen for it, of
    other feed-forward layers, of the head (with a screen, of that and the chosen rows), and of all
    else. `all_experts` are those of a file."""

    experts: int
    all_experts: int
    neurons: int
    head: int
    rest: int

    @property
    def total(self) -> int:
        """Of a token."""
        return self.experts + self.neurons + self.head + self.rest


def mixtures(plan: Plan) -> list[MixtureReport]:
    """The layers of experts, those of one kind together."""
    kinds: Counter[tuple[int, int, int]] = Counter()
    for index, used in _used_experts(plan).items():
        layer = plan.layers[index]
        assert isinstance(layer, ExpertLayer)
        kinds[layer.count, used, layer.width] += 1
    return [MixtureReport(layers, *kind) for kind, layers in kinds.items()]


def reading(file: GgufFile, plan: Plan) -> ReadingReport:
    """What one token reads. A token's row of the embedding does not count."""
    used = _used_experts(plan)
    experts = all_experts = neurons = head = rest = 0
    for index, layer in enumerate(plan.layers):
        if isinstance(layer, ExpertLayer):
            names = {layer.gate, layer.up, layer.down}  # gate and up may be one
            size = sum(_bytes(file, f"{name}.weight") for name in names if name)
            all_experts += size
            experts += size // layer.count * used[index]
        else:
            bundle = _bytes(file, f"blk.{layer.block}.ffn_bundle.weight")
            parts = ffn_matrices(layer)
            neurons += bundle or sum(_bytes(file, ffn_tensor(layer, part)) for part in parts)
    for matrix, out in _products(plan):
        each = plan.matrices[matrix]
        info = file.tensors[each.name]
        size = info.nbytes * each.rows * each.columns // math.prod(info.shape)
        if out == plan.logits.index:
            head += size if plan.screen is None else _screened(file, plan, size)
        else:
            rest += size
    return ReadingReport(experts, all_experts, neurons, head, rest)


def _screened(file: GgufFile, plan: Plan, size: int) -> int:
    """What a screened head reads, of an output matrix of so many bytes."""
    assert plan.screen is not None
    rows = size // plan.vocab * plan.screen.rows
    return rows + sum(_bytes(file, name) for name in screen.TENSORS)


def _used_experts(plan: Plan) -> dict[int, int]:
    """How many experts a token uses, of each layer that has some."""
    used = {}
    for step in plan.steps:
        if step.name == StepName.STEP_EXPERTS:
            layer, _, routes, *_ = step.arguments
            experts = plan.layers[layer]
            assert isinstance(experts, ExpertLayer)
            used[layer] = min(plan.widths[routes] // 2, experts.count)
    return used


def _products(plan: Plan) -> list[tuple[int, int]]:
    """The matrices that are multiplied, and the buffers that hold the results."""
    found: list[tuple[int, int]] = []
    for step in plan.steps:
        if step.name == StepName.STEP_PRODUCTS:
            found += zip(step.arguments[1::3], step.arguments[3::3], strict=True)
        elif step.name == StepName.STEP_HEAD_PRODUCTS:
            found.append((step.arguments[1], step.arguments[2]))
        elif step.name == StepName.STEP_HEAD:
            found.append((step.arguments[1], step.arguments[5]))
    return found


def _bytes(file: GgufFile, name: str) -> int:
    """Bytes of a tensor, or 0."""
    return file.tensors[name].nbytes if name in file.tensors else 0
