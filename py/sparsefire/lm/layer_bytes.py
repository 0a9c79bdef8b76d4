"""Bytes of weights that a token reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arch.plan import ExpertLayer, Layer, Plan
from ..arch.tensors import DOWN_BY_NEURON, FFN_PARTS, ffn_tensor
from ..core.enums import StepName
from ..gguf.reader import GgufFile


class LayerBytes:
    """Bytes of weights, in the file's formats, that a token reads: per neuron of each layer the
    gate row (`first`) and the up and down rows (`rest`), per layer the `predictor`, and `other` for
    all weights outside the feed-forward layers. `dense` is the number for these layers in dense
    mode, which computes all neurons or, where a router chooses experts, all of those experts."""

    def __init__(self, file: GgufFile, plan: Plan) -> None:
        sizes = {name: info.nbytes for name, info in file.tensors.items()}
        rows = np.array([self._layer(layer, sizes) for layer in plan.layers]).reshape(-1, 3)
        first, rest, self.predictor = rows.T
        self.dense = float((first + rest) @ _used_shares(plan))
        hidden = [layer.hidden for layer in plan.layers]
        self.first, self.rest = first / hidden, rest / hidden
        if "output.weight" in sizes:  # then the embedding is not the output matrix: one row a token
            sizes.pop("token_embd.weight", 0)
        self.other = sum(sizes.values())
        if plan.screen is not None:  # of the output matrix only the best rows are read
            output = file.tensors.get("output.weight") or file.tensors["token_embd.weight"]
            vocab = output.shape[0]
            self.other -= output.nbytes // vocab * (vocab - plan.screen.rows)

    @staticmethod
    def _layer(layer: Layer, sizes: dict[str, int]) -> tuple[float, float, float]:
        """Bytes of a layer's gate rows, of its up and down rows, and of its predictor, whose
        tensors are removed from `sizes`."""

        def take(*names: str | None) -> float:
            return sum(sizes.pop(f"{name}.weight", 0) for name in names)

        if isinstance(layer, ExpertLayer):
            gate, up, down = take(layer.gate), take(layer.up), take(layer.down)
            if layer.gate == layer.up:  # one matrix with the rows of both
                gate, up = gate / 2, gate / 2
            return (gate, up + down, 0) if layer.gate else (up, down, 0)
        gate, up, down = (sizes.pop(ffn_tensor(layer, part), 0) for part in FFN_PARTS)
        if layer.fused:  # one matrix with the rows of both
            gate, up = gate / 2, gate / 2
        if layer.suffix:  # shared experts have neither bundles nor predictors
            return (gate, up + down, 0) if layer.gated else (up, down, 0)
        prefix = f"blk.{layer.block}."
        down = down or sizes.get(prefix + DOWN_BY_NEURON, 0)  # one of them is read
        sizes.pop(prefix + DOWN_BY_NEURON, 0)
        bundle = take(f"{prefix}ffn_bundle") / (3 if layer.gated else 2)
        predictor = take(f"{prefix}ffn_predictor_p", f"{prefix}ffn_predictor_q")
        predictor += take(f"{prefix}fc1", f"{prefix}fc2")
        if layer.gated:
            return gate + bundle, up + down + 2 * bundle, predictor
        return up + bundle, down + bundle, predictor

    def read(self, mode: str, selected: Any, active: Any) -> float:
        """Bytes that the feed-forward layers read for a token, from the numbers of selected and of
        active neurons of each layer."""
        predictor = self.predictor.sum() if mode == "sparse" else 0
        return float((selected * self.first + active * self.rest).sum() + predictor)


def _used_shares(plan: Plan) -> list[float]:
    """The share of each layer's neurons that belong to the experts of a token; 1 without experts.
    For each expert the router writes two numbers."""
    shares = [1.0] * len(plan.layers)
    for step in plan.steps:
        if step.name == StepName.STEP_EXPERTS:
            layer, _, routes, *_ = step.arguments
            expert_layer = plan.layers[layer]
            assert isinstance(expert_layer, ExpertLayer)
            shares[layer] = min(plan.widths[routes] / 2 / expert_layer.count, 1.0)
    return shares
