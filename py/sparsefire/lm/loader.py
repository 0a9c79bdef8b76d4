"""From a model file to a model in the core: weights are put into its memory tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._arrays import FloatArray
from ..arch import tensors as roles
from ..arch.config import ModelConfig
from ..arch.read import (
    damaged,
    read_biases,
    read_floats,
    read_matrix,
    read_vector,
    rows_by_neuron,
    upload_tensor,
)
from ..arch.rope import FACTORS_TENSOR
from ..core.core import Core
from ..core.handle import CoreObject
from ..errors import NotFiniteError
from ..ffn.files import read_predictor
from ..ffn.layer import SparseFfn
from ..gguf.reader import GgufFile
from ..weights.matrix import Matrix, bundle_views

if TYPE_CHECKING:
    from .neurons import ModelNeurons


class CoreModel(CoreObject):
    """A model of the core with its weights. `ffns` holds one `SparseFfn` a layer.

    On the native core the weights that are used as they are stored stay in the mapped file. Of the
    feed-forward layers of ReLU-like models, the down matrix is transposed, as sparse modes need.
    With ``neurons`` the feed-forward layers are those, and `ffns` is empty.
    """

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
        self.ffns: list[SparseFfn] = []
        self._matrices: list[Matrix] = []
        self._load_part(-1, "", roles.MODEL_MATRICES, roles.MODEL_VECTORS)
        self._set_numbers()
        for layer in range(config.layers):
            prefix = f"blk.{layer}."
            self._load_part(layer, prefix, roles.LAYER_MATRICES, roles.LAYER_VECTORS)
            self._set_rope(layer)
            if neurons is None:
                self.ffns.append(self._ffn(layer, prefix))
            ffn = self.ffns[layer] if neurons is None else neurons.layers[layer]
            core.check("sf_model_set_ffn", handle, layer, ffn.handle, what=f"{prefix}ffn")

    def _load_part(
        self,
        layer: int,
        prefix: str,
        matrices: dict[str, roles.Role],
        vectors: dict[str, roles.Role],
    ) -> None:
        """Loads the tensors of a layer, or with layer -1 those of the model itself."""
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
        self._set_number(-1, roles.NORM_KIND, float(kind.layer_norm), "norm")
        self._set_number(-1, roles.ROPE_HALVES, float(kind.rope_halves), "pairs of rotation")
        self._set_number(-1, roles.ROPE_AMPLITUDE, config.rope.amplitude, "rotation amplitude")
        self._set_number(-1, roles.PREDICTOR_INPUT, float(config.powerinfer), "predictors")

    def _set_rope(self, layer: int) -> None:
        """How the positions of a layer turn, and how many it sees."""
        config, name = self.config, FACTORS_TENSOR
        window = config.windows[layer]
        rope = config.window_rope if window else config.rope
        self._set_number(layer, roles.WINDOW, window, "window")
        self._set_number(layer, roles.ROPE_BASE, rope.base, "rotation base")
        factors = np.ones(config.rope_pairs, np.float32)
        if rope.factors:
            factors *= np.array(rope.factors, np.float32)
        if name in self.file.tensors:
            factors *= read_vector(self.file, name)
        if (factors != 1).any():
            if not (factors > 0).all():
                raise NotFiniteError(f"{self.file.name}: tensor {name!r} holds factors ≤ 0 or NaN")
            self._set_vector(layer, roles.ROPE_FACTORS, factors, name)

    # -- feed-forward layers ---------------------------------------------------------------------

    def _ffn(self, layer: int, prefix: str) -> SparseFfn:
        layout, second = "neuron", None
        if f"{prefix}ffn_bundle.weight" in self.file.tensors:
            *gate, up, down = self._stored_bundle(f"{prefix}ffn_bundle.weight")
        else:
            names = [f"{prefix}{name}.weight" for name in roles.ffn_matrices(self.config)]
            *gate, up = (read_matrix(self.core, self.file, name) for name in names[:-1])
            if f"{prefix}{roles.DOWN_BY_NEURON}" in self.file.tensors:
                down = read_matrix(self.core, self.file, f"{prefix}{roles.DOWN_BY_NEURON}")
                if names[-1] in self.file.tensors:
                    second = read_matrix(self.core, self.file, names[-1])
            elif self.config.activation.is_relu_family:
                rows, kind, shape = rows_by_neuron(self.core, self.file, names[-1])
                down = Matrix(self.core, self.core.upload(rows), kind, *shape)
            else:
                down = read_matrix(self.core, self.file, names[-1])
                layout = "output"
        hot = self.config.hot_counts
        ffn = SparseFfn.from_matrices(
            self.core,
            gate[0] if gate else None,
            up,
            down,
            activation=self.config.activation,
            down_layout=layout,
            parameter=self.config.activation_parameter,
            predictor=read_predictor(
                self.core,
                self.file,
                layer,
                hot[layer] if hot else 0,
                self.config.powerinfer_threshold,
            ),
            **read_biases(self.file, layer),
        )
        if second is not None:
            ffn.set_second_down(second)
        for on, cutoffs in self.config.cutoffs.items():
            ffn.set_cutoff(cutoffs[layer], on)
        if self.config.kind.both_active:
            ffn.set_both_active(True)
        sub_norm = f"{prefix}ffn_sub_norm.weight"
        if sub_norm in self.file.tensors:
            ffn.set_sub_norm(read_vector(self.file, sub_norm), self.config.norm_epsilon)
        return ffn

    def _stored_bundle(self, name: str) -> list[Matrix]:
        """The gate (if there is one), up and transposed down of a bundle: one neuron's rows side
        by side."""
        info, d = self.file.tensors[name], self.config.d
        memory = upload_tensor(self.core, self.file, name)
        hidden, columns = info.shape
        return bundle_views(self.core, memory, hidden, [(info.format, d)] * (columns // d))

    def why_not_finite(self) -> str:
        """Names the first tensor that holds NaN or infinity, for the message of an error."""
        for name, info in self.file.tensors.items():
            if (
                len(info.shape) == 2
                and not np.isfinite(read_floats(self.core, self.file, name)).all()
            ):
                return damaged(self.file, name)
        return f"{self.file.name}: the weights are finite, but too large for 32-bit arithmetic"
