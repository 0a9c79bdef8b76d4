"""The model in the core: its weights, uploaded tensor by tensor, and its numbers."""

from __future__ import annotations

import threading

import numpy as np

from .._arrays import FloatArray
from ..arch import tensors as roles
from ..arch.config import ModelConfig
from ..arch.read import damaged, read_floats, read_matrix, read_vector
from ..arch.rope import FACTORS_TENSOR
from ..core.core import Core
from ..core.enums import Norm, NumberRole, VectorRole
from ..core.handle import CoreObject
from ..errors import NotFiniteError
from ..ffn.layer import SparseFfn
from ..ffn.stored import read_layer
from ..gguf.reader import GgufFile
from ..weights.matrix import Matrix
from .neurons import ModelNeurons


class CoreModel(CoreObject):
    """A model in the core with its weights. `ffns` has one `SparseFfn` per layer.

    On the native core, weights that need no conversion stay in the mapped file. With ``neurons``
    the feed-forward layers are its layers, and `ffns` is empty.

    `lock` is held by whoever evaluates tokens: sessions of a model share its layers' predictors,
    cutoffs and caches. The layers themselves take the same lock."""

    def __init__(
        self,
        core: Core,
        file: GgufFile,
        config: ModelConfig,
        neurons: ModelNeurons | None = None,
    ) -> None:
        handle = core.open(
            "sf_model_open",
            core.context,
            config.layers,
            config.d,
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.vocab,
            config.rope_dims,
            config.rope.base,
            config.norm_epsilon,
            what=file.name,
        )
        super().__init__(core, handle, "sf_model_close")
        self.file = file
        self.config = config
        self.neurons = neurons
        self._uses_file = neurons is not None or (file.mapped and core.shares_buffers)
        self.lock = threading.RLock() if neurons is None else neurons.lock
        self.ffns: list[SparseFfn] = []
        self._matrices: list[Matrix] = []
        self._load_part(-1, "", roles.MODEL_MATRICES, roles.MODEL_VECTORS)
        self._set_numbers()
        for layer in range(config.layers):
            prefix = f"blk.{layer}."
            self._load_part(layer, prefix, roles.LAYER_MATRICES, roles.LAYER_VECTORS)
            self._set_rope(layer)
            if neurons is None:
                self.ffns.append(read_layer(core, file, config, layer))
                self.ffns[layer].lock = self.lock
            ffn = self.ffns[layer] if neurons is None else neurons.layers[layer]
            core.check("sf_model_set_ffn", handle, layer, ffn.handle, what=f"{prefix}ffn")

    def _load_part(
        self,
        layer: int,
        prefix: str,
        matrices: dict[str, roles.Role],
        vectors: dict[str, roles.Role],
    ) -> None:
        """Uploads the tensors of a layer, or for layer -1 those outside of layers."""
        for name, role in matrices.items():
            full = f"{prefix}{name}"
            if full in self.file.tensors:
                matrix = read_matrix(self.core, self.file, full)
                self._matrices.append(matrix)
                self.core.check(
                    "sf_model_set_matrix", self.handle, layer, role.code, matrix.handle, what=full
                )
        for name, role in vectors.items():
            full = f"{prefix}{name}"
            if full in self.file.tensors:
                self._set_vector(layer, role.code, read_vector(self.file, full), full)

    def _set_vector(self, layer: int, role: int, values: FloatArray, what: str) -> None:
        values_in = self.core.inp(values)
        self.core.check(
            "sf_model_set_vector", self.handle, layer, role, values_in, values.size, what=what
        )

    def _set_number(self, layer: int, role: int, value: float, what: str) -> None:
        self.core.check(
            "sf_model_set_number", self.handle, layer, role, float(value), what=f"{what} {value}"
        )

    def _set_numbers(self) -> None:
        config, kind = self.config, self.config.kind
        for name, role in roles.NUMBERS.items():
            self._set_number(-1, role, getattr(config, name), name)
        self._set_number(
            -1, NumberRole.NORM_KIND, Norm.NORM_LAYER if kind.layer_norm else Norm.NORM_RMS, "norm"
        )
        self._set_number(-1, NumberRole.ROPE_HALVES, float(kind.rope_halves), "pairs of rotation")
        self._set_number(-1, NumberRole.ROPE_AMPLITUDE, config.rope.amplitude, "rotation amplitude")
        self._set_number(-1, NumberRole.PREDICTOR_INPUT, float(config.powerinfer), "predictors")

    def _set_rope(self, layer: int) -> None:
        """Sets the rotary embedding and the attention window of a layer."""
        config, name = self.config, FACTORS_TENSOR
        window = config.windows[layer]
        rope = config.window_rope if window else config.rope
        self._set_number(layer, NumberRole.ATTENTION_WINDOW, window, "window")
        self._set_number(layer, NumberRole.ROPE_BASE, rope.base, "rotation base")
        factors = np.ones(config.rope_pairs, np.float32)
        if rope.factors:
            factors *= np.array(rope.factors, np.float32)
        if name in self.file.tensors:
            factors *= read_vector(self.file, name)
        if (factors != 1).any():
            if not (factors > 0).all():
                raise NotFiniteError(f"{self.file.name}: tensor {name!r} holds factors ≤ 0 or NaN")
            self._set_vector(layer, VectorRole.ROPE_FACTORS, factors, name)

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
