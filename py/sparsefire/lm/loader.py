"""The model in the core: its weights, uploaded tensor by tensor, and its numbers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from .._arrays import FloatArray
from .._options import DEFAULT_KV_FORMAT
from ..arch import screen
from ..arch.config import ModelConfig
from ..arch.inputs import Site, check_limits, input_sites
from ..arch.plan import ExpertLayer, Plan
from ..arch.read import (
    damaged,
    read_floats,
    read_matrix,
    read_scale,
    read_vector,
    upload_integers,
    upload_tensor,
)
from ..core.core import Argument, Core, Memory
from ..core.enums import Site as CoreSite
from ..core.enums import StepName
from ..core.handle import CoreObject
from ..errors import NotFiniteError
from ..ffn.bounded import CoreBounded
from ..ffn.experts import ExpertsFfn, read_experts
from ..ffn.layer import SparseFfn
from ..ffn.low_rank import CoreLowRank
from ..ffn.stored import read_layer
from ..gguf.i2_s import scale_name
from ..gguf.reader import GgufFile
from ..weights.formats import weight_format
from ..weights.matrix import Matrix
from .neurons import ModelNeurons
from .saved import description


def kv_codes(formats: tuple[str, str]) -> tuple[int, int]:
    """The core's numbers of these formats of keys and values."""
    k_format, v_format = (int(weight_format(name).code) for name in formats)
    return k_format, v_format


class CoreModel(CoreObject):
    """A model in the core with its weights. `layers` has one layer for each of the plan's.

    On the native core, weights that need no conversion stay in the mapped file. With ``neurons``
    the feed-forward layers are its layers, and `layers` is empty.

    `lock` is held by whoever evaluates tokens: sessions of a model share its layers' predictors,
    cutoffs and caches. The layers themselves take the same lock."""

    def __init__(
        self,
        core: Core,
        file: GgufFile,
        config: ModelConfig,
        plan: Plan,
        neurons: ModelNeurons | None = None,
        kv_formats: tuple[str, str] = (DEFAULT_KV_FORMAT, DEFAULT_KV_FORMAT),
    ) -> None:
        handle = core.open("sf_model_open", core.context, plan.vocab, plan.d, what=file.name)
        super().__init__(core, handle, "sf_model_close")
        self.file = file
        self.config = config
        self.plan = plan
        self.neurons = neurons
        self.kv_formats = kv_formats
        self._uses_file = neurons is not None or (file.mapped and core.shares_buffers)
        self.lock = threading.RLock() if neurons is None else neurons.lock
        self.layers: list[SparseFfn | ExpertsFfn] = []
        self._matrices: list[Matrix] = []
        self.screen: CoreLowRank | CoreBounded | None = None
        self.input_limits: dict[str, float] = {}  # of sites where inputs are left out
        self._add("sf_model_set_kv_formats", *kv_codes(kv_formats), what="keys and values")
        self._add_buffers()
        self._add_matrices()
        self._add_vectors()
        self._add_ropes()
        for layer in range(len(plan.layers)):
            self._add_layer(layer)
        self._add_screen()
        self._add_steps()

    @cached_property
    def description(self) -> dict[str, str | int]:
        """What tells the model from others."""
        return description(self.file, self.config)

    def _add(self, function: str, *arguments: Argument, what: str) -> None:
        """Adds to the model in the core."""
        self.core.check(function, self.handle, *arguments, what=f"{self.file.name}: {what}")

    def _add_buffers(self) -> None:
        for width in self.plan.widths[1:]:  # the first is there
            self._add("sf_model_add_buffer", width, what="buffers")

    def _add_matrices(self) -> None:
        memories: dict[str, Memory] = {}
        used = {each.name for each in self.plan.vectors}  # by steps, whatever they are called
        for each in self.plan.matrices:
            if each.name not in memories:
                upload = upload_integers if each.integers else upload_tensor
                memories[each.name] = upload(self.core, self.file, each.name)
            stored = self.file.tensors[each.name].format
            kind = weight_format("f32" if each.integers else stored)
            offset = each.first * kind.row_bytes(each.columns)
            memory = memories[each.name]
            matrix = Matrix(self.core, memory, kind, each.rows, each.columns, offset)
            if scale_name(each.name) not in used:
                matrix.set_scale(read_scale(self.file, each.name))
            self._matrices.append(matrix)
            self._add("sf_model_add_matrix", matrix.handle, what=each.name)

    def _add_vectors(self) -> None:
        for each in self.plan.vectors:
            values = each.values
            if each.name is not None:
                dimensions = len(self.file.tensor(each.name).shape)  # which suits the plan
                values = read_vector(self.file, each.name, dimensions)
                values = values if each.taken is None else values[each.taken]
            assert values is not None
            what = each.name or "a vector"
            self._add("sf_model_add_vector", self.core.inp(values), values.size, what=what)

    def _add_ropes(self) -> None:
        for rope, tensor in self.plan.ropes:
            factors = np.ones(rope.dims // 2, np.float32)
            if rope.factors:
                factors *= np.array(rope.factors, np.float32)
            if tensor is not None:
                more = read_vector(self.file, tensor)
                if not (more > 0).all():
                    raise NotFiniteError(
                        f"{self.file.name}: tensor {tensor!r} holds factors ≤ 0 or NaN"
                    )
                factors *= more
            scaled = self.core.inp(factors) if (factors != 1).any() else None
            arguments = rope.dims, rope.base, scaled, rope.amplitude
            self._add("sf_model_add_rope", *arguments, what=f"the rotary embedding {rope}")

    def _add_layer(self, index: int) -> None:
        """Adds a feed-forward layer."""
        layer, what = self.plan.layers[index], f"blk.{self.plan.layers[index].block}.ffn"
        if self.neurons is not None and index in self.neurons.places:
            cached = self.neurons.at(index)
            kind = "experts" if isinstance(layer, ExpertLayer) else "ffn"
            self._add(f"sf_model_add_{kind}", cached.handle, what=what)
            return
        if isinstance(layer, ExpertLayer):
            experts = read_experts(self.core, self.file, layer)
            self.layers.append(experts)
            self._add("sf_model_add_experts", experts.handle, what=what)
        else:
            ffn = read_layer(self.core, self.file, self.config, layer)
            self.layers.append(ffn)
            self._add("sf_model_add_ffn", ffn.handle, what=what)
        self.layers[-1].lock = self.lock

    def site_matrices(self, site: Site) -> list[Matrix]:
        """The matrices that the inputs of a site are multiplied by; none if some are elsewhere."""
        if site.layer is None:
            return [self._matrices[index] for index in site.matrices]
        ffn = self.layers[site.layer] if site.layer < len(self.layers) else None
        if not isinstance(ffn, SparseFfn) or ffn.predictor is not None:
            return []
        gate, up, down = ffn.matrices
        if site.part == CoreSite.SITE_DOWN:
            return [down] if ffn.down_layout == "output" else []
        return [up] if gate is None else [up, gate]

    def set_input_limits(self, limits: Mapping[str, float]) -> None:
        """Sets the limits of inputs by the names of their sites, 0 where there is none. Their
        matrices get a copy in column order. Errors: `ModelFileError` (no such site),
        `UnsupportedError` (not in Q4_0), `CoreMemoryError`."""
        check_limits(self.file, self.plan, dict(limits))
        for site in input_sites(self.plan):
            limit = limits.get(site.name, 0.0)
            for matrix in self.site_matrices(site) if limit > 0 else ():
                if not matrix.column_bytes:
                    matrix.add_columns(f"{self.file.name}: the inputs of {site.name}")
            self._add("sf_model_set_input_limit", site.step, site.part, limit, what=site.name)
        self.input_limits = {name: limit for name, limit in limits.items() if limit > 0}

    def _add_screen(self) -> None:
        if self.plan.proven:
            assert self.output is not None
            self.screen = CoreBounded.of(self.output[0])
        elif self.plan.screen is not None:
            p, q = (read_matrix(self.core, self.file, name) for name in (screen.P, screen.Q))
            self.screen = CoreLowRank(self.core, p, q, read_vector(self.file, screen.BIAS))
        else:
            return
        self._add("sf_model_add_screen", self.screen.handle, what="the screen")

    @property
    def output(self) -> tuple[Matrix, FloatArray | None] | None:
        """The matrix that makes the logits, and what is added to its products (vocab,), if
        anything. None for a model without logits."""
        for step in self.plan.steps:
            if step.name == StepName.STEP_HEAD:
                _, matrix, bias, *_ = step.arguments
                name = None if bias < 0 else self.plan.vectors[bias].name
                added = None if name is None else read_vector(self.file, name)
                return self._matrices[matrix], added
        return None

    @cached_property
    def head_bytes(self) -> tuple[int, int]:
        """Bytes of a row of the output matrix, and those of the screen, 0 where there is none."""
        if self.output is None:
            return 0, 0
        matrix, _ = self.output
        return matrix.nbytes // matrix.rows, 0 if self.screen is None else self.screen.nbytes

    def _add_steps(self) -> None:
        for place, step in enumerate(self.plan.steps):
            arguments = np.array(step.arguments, np.int32)
            numbers = np.array(step.numbers, np.float32)
            self._add(
                "sf_model_add_step",
                step.name,
                self.core.inp(arguments),
                arguments.size,
                self.core.inp(numbers) if numbers.size else None,
                numbers.size,
                what=f"step {place} of the plan, {step.name.name} {step.arguments}",
            )

    def check_file(self) -> None:
        """Raises `ModelFileError` if weights are still in the file, mapped or to be read, and it
        changed: a mapped file that was cut off ends the process, and other weights give another
        model's text."""
        if self._uses_file:
            self.file.check_unchanged()

    def why_not_finite(self) -> str:
        """Names the first tensor that holds NaN or infinity, for the message of an error."""
        for name, info in self.file.tensors.items():
            if (
                len(info.shape) == 2
                and not np.isfinite(read_floats(self.core, self.file, name)).all()
            ):
                return damaged(self.file, name)
        return f"{self.file.name}: the weights are finite, but too large for 32-bit arithmetic"
