"""From a model file to a model in the core: weights are put into its memory tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..arch import tensors as roles
from ..arch.config import ModelConfig
from ..arch.rope import FACTORS_TENSOR
from ..core.core import Core, Memory
from ..core.handle import CoreObject
from ..errors import ModelFileError, NotFiniteError
from ..ffn.layer import SparseFfn
from ..ffn.predictor import LowRankPredictor
from ..gguf.reader import GgufFile
from ..weights.matrix import Matrix, bundle_views
from ..weights.quantized import WeightFormat, dequantize_rows, quantize_rows, weight_format

if TYPE_CHECKING:
    from .neurons import ModelNeurons

FloatArray = npt.NDArray[np.float32]

_TILE = 1 << 20  # weights that are transposed at a time, so that they stay in cache


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
            predictor=self._predictor(layer, hot[layer] if hot else 0),
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

    def _predictor(self, layer: int, hot: int) -> LowRankPredictor | None:
        """The layer's predictor, ours or PowerInfer's: fc2 · ReLU(fc1 · x) ≥ threshold."""
        names = [f"blk.{layer}.{name}.weight" for name in ("fc1", "fc2")]
        if names[0] not in self.file.tensors:
            return read_predictor(self.core, self.file, layer, hot)
        threshold = np.float32(self.config.powerinfer_threshold)
        p, q = (read_matrix(self.core, self.file, name) for name in names)
        return LowRankPredictor.from_matrices(
            self.core,
            p,
            q,
            None,
            # Ours selects above the threshold, theirs from it on.
            threshold=float(np.nextafter(threshold, np.float32(-np.inf))),
            relu_between=True,
        )

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
            if len(info.shape) == 2 and not np.isfinite(_floats(self.core, self.file, name)).all():
                return _damaged(self.file, name)
        return f"{self.file.name}: the weights are finite, but too large for 32-bit arithmetic"


def format_by_neuron(format: str, d: int) -> WeightFormat:
    """What a down matrix is packed in when it gets one row of d numbers a neuron. Plain numbers
    stay what they are; the blocks of other formats lie along the other axis, so they are packed
    anew: in Q8_0, which is fine enough for all of them, or F16 where its blocks do not divide d."""
    stored = weight_format(format)
    return stored if stored.block == 1 else weight_format("q8_0" if d % 32 == 0 else "f16")


def rows_by_neuron(
    core: Core, file: GgufFile, name: str
) -> tuple[npt.NDArray[np.uint8], WeightFormat, tuple[int, int]]:
    """A down matrix (d, hidden) with one row a neuron: packed rows, their format (see
    `format_by_neuron`), and the shape (hidden, d)."""
    d, hidden = file.tensors[name].shape
    stored = weight_format(file.tensors[name].format)
    kind = format_by_neuron(stored.name, d)
    packed = file.tensor_data(name).reshape(d, -1)
    rows = np.empty((hidden, kind.row_bytes(d)), np.uint8)
    step = max(_TILE // d // stored.block, 1) * stored.block
    for first in range(0, hidden, step):
        last = min(first + step, hidden)
        span = slice(*(each // stored.block * stored.block_bytes for each in (first, last)))
        tile = np.ascontiguousarray(packed[:, span])
        values = dequantize_rows(tile, stored, last - first, core)
        if not np.isfinite(values).all():
            raise NotFiniteError(_damaged(file, name))
        rows[first:last] = quantize_rows(values.T, kind, core)
    return rows, kind, (hidden, d)


def upload_tensor(core: Core, file: GgufFile, name: str) -> Memory:
    """Core memory with the bytes of a tensor. The native core uses a mapped file as it is; from a
    file that is read, and into a core with memory of its own, the bytes go piece by piece."""
    if file.mapped:
        return core.upload(file.tensor_data(name))
    memory = core.memory(file.tensor(name).nbytes)
    for offset, piece in file.tensor_pieces(name):
        memory.write(piece, offset)
    return memory


def read_matrix(core: Core, file: GgufFile, name: str) -> Matrix:
    """A matrix of the file as it is stored. `ModelFileError` when it is missing or no matrix,
    `UnsupportedError` when the core does not compute on its format."""
    info = file.tensor(name)
    if len(info.shape) != 2 or max(info.shape) >= 1 << 31:
        raise ModelFileError(
            f"{file.name}: tensor {name!r} has shape {info.shape}; a matrix was expected"
        )
    roles.check_format(file, info)
    return Matrix(core, upload_tensor(core, file, name), info.format, *info.shape)


def read_vector(file: GgufFile, name: str) -> FloatArray:
    """A vector of plain numbers as float32; `ModelFileError` when it is missing or no vector,
    `UnsupportedError` for another format, `NotFiniteError` when it holds NaN or infinity."""
    info = file.tensor(name)
    if len(info.shape) != 1:
        raise ModelFileError(
            f"{file.name}: tensor {name!r} has shape {info.shape}; a vector was expected"
        )
    roles.check_format(file, info)
    data = file.tensor_data(name)
    if info.format == "bf16":  # the upper half of a float32
        values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        stored = np.float32 if info.format == "f32" else np.float16
        values = data.view(stored).astype(np.float32)
    if not np.isfinite(values).all():
        raise NotFiniteError(_damaged(file, name))
    return values


def read_biases(file: GgufFile, layer: int) -> dict[str, FloatArray]:
    """Those of "gate_bias", "up_bias" and "down_bias" that a feed-forward layer has."""
    return {
        f"{name.removeprefix('ffn_')}_bias": read_vector(file, f"blk.{layer}.{name}.bias")
        for name in roles.FFN_BIASES
        if f"blk.{layer}.{name}.bias" in file.tensors
    }


_PREDICTOR_MATRICES = tuple(f".{each}.weight" for each in roles.PREDICTOR_MATRICES)


def read_predictor(core: Core, file: GgufFile, layer: int, hot: int) -> LowRankPredictor | None:
    """The predictor of a calibrated layer, None for a layer without one."""
    prefix = f"blk.{layer}.ffn_predictor"
    if f"{prefix}_p.weight" not in file.tensors:
        return None
    return LowRankPredictor.from_matrices(
        core,
        read_matrix(core, file, f"{prefix}_p.weight"),
        read_matrix(core, file, f"{prefix}_q.weight"),
        read_vector(file, f"{prefix}.bias"),
        hot=hot,
    )


def predictor_copies(file: GgufFile) -> int:
    """Bytes of predictors that the core lays out a second time, with rows interleaved: those of
    Q4_0 and Q8_0 (see sf_predictor_open)."""
    return sum(
        info.nbytes
        for name, info in file.tensors.items()
        if name.endswith(_PREDICTOR_MATRICES) and info.format in ("q4_0", "q8_0")
    )


def _floats(core: Core, file: GgufFile, name: str) -> FloatArray:
    """A matrix of the file as float32 (rows, columns)."""
    info = file.tensors[name]
    packed = file.tensor_data(name).reshape(info.shape[0], -1)
    return dequantize_rows(packed, info.format, info.shape[1], core)


def _damaged(file: GgufFile, name: str) -> str:
    return f"{file.name}: tensor {name!r} holds NaN or infinity; the model is damaged"
