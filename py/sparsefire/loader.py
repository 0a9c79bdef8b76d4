"""From a model file to a model in the core: weights are put into its memory tensor by tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import architecture as arch
from ._core import Core
from ._handle import CoreObject
from .architecture import ModelConfig
from .errors import NotFiniteError
from .ffn import SparseFfn
from .gguf import GgufFile
from .matrix import Matrix
from .predictor import LowRankPredictor
from .quant import dequantize_rows, quantize_rows, weight_format

FloatArray = npt.NDArray[np.float32]


class CoreModel(CoreObject):
    """A model of the core with its weights. `ffns` holds one `SparseFfn` a layer.

    On the native core the weights that are used as they are stored stay in the mapped file. The
    feed-forward layers of ReLU-like models are laid out neuron by neuron, as sparse modes need.
    """

    def __init__(self, core: Core, file: GgufFile, config: ModelConfig) -> None:
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
            config.rope_base,
            config.norm_epsilon,
            what=file.name,
        )
        super().__init__(core, handle, "sf_model_close")
        self.file = file
        self.config = config
        self.ffns: list[SparseFfn] = []
        self._matrices: list[Matrix] = []
        self._load_part(-1, "", arch.MODEL_MATRICES, arch.MODEL_VECTORS)
        self._set_rope_factors()
        for layer in range(config.layers):
            prefix = f"blk.{layer}."
            self._load_part(layer, prefix, arch.LAYER_MATRICES, arch.LAYER_VECTORS)
            ffn = self._ffn(layer, prefix)
            core.check("sf_model_set_ffn", handle, layer, ffn.handle, what=f"{prefix}ffn")
            self.ffns.append(ffn)

    def _load_part(
        self,
        layer: int,
        prefix: str,
        matrices: dict[str, arch.Role],
        vectors: dict[str, arch.Role],
    ) -> None:
        """Loads the tensors of a layer, or with layer -1 those of the model itself."""
        for name, role in matrices.items():
            full = f"{prefix}{name}.weight"
            if full in self.file.tensors:
                matrix = self._matrix(full)
                self._matrices.append(matrix)
                self.core.check(
                    "sf_model_set_matrix", self.handle, layer, role.code, matrix.handle, what=full
                )
        for name, role in vectors.items():
            full = f"{prefix}{name}.weight"
            self._set_vector(layer, role.code, read_vector(self.file, full), full)

    def _set_vector(self, layer: int, role: int, values: FloatArray, what: str) -> None:
        values_in = self.core.inp(values)
        self.core.check(
            "sf_model_set_vector", self.handle, layer, role, values_in, values.size, what=what
        )

    def _set_rope_factors(self) -> None:
        name, scale = "rope_freqs.weight", self.config.rope_scale
        factors = np.full(self.config.rope_dims // 2, scale, np.float32)
        if name in self.file.tensors:
            factors *= read_vector(self.file, name)
        if (factors != 1).any():
            if not (factors > 0).all():
                raise NotFiniteError(f"{self.file.name}: tensor {name!r} holds factors ≤ 0 or NaN")
            self._set_vector(-1, arch.ROPE_FACTORS, factors, name)

    def _matrix(self, name: str) -> Matrix:
        """A matrix as it is stored."""
        return read_matrix(self.core, self.file, name)

    # -- feed-forward layers ---------------------------------------------------------------------

    def _ffn(self, layer: int, prefix: str) -> SparseFfn:
        if f"{prefix}ffn_bundle.weight" in self.file.tensors:
            gate, up, down = self._stored_bundle(f"{prefix}ffn_bundle.weight")
            layout = "neuron"
        elif self.config.activation.is_relu_family:
            gate, up, down = self._new_bundle(prefix)
            layout = "neuron"
        else:
            gate, up, down = (self._matrix(f"{prefix}{name}.weight") for name in arch.FFN_MATRICES)
            layout = "output"
        hot = self.config.hot_counts
        return SparseFfn.from_matrices(
            self.core,
            gate,
            up,
            down,
            activation=self.config.activation,
            down_layout=layout,
            parameter=self.config.activation_parameter,
            predictor=read_predictor(self.core, self.file, layer, hot[layer] if hot else 0),
            **read_biases(self.file, layer),
        )

    def _stored_bundle(self, name: str) -> tuple[Matrix | None, Matrix, Matrix]:
        """The gate, up and transposed down of a bundle: one neuron's rows side by side."""
        info, d = self.file.tensors[name], self.config.d
        memory = self.core.upload(self.file.tensor_data(name))
        kind = weight_format(info.format)
        rows, columns = info.shape
        views = [
            Matrix(
                self.core,
                memory,
                kind,
                rows,
                d,
                offset=kind.row_bytes(d) * part,
                row_stride=kind.row_bytes(columns),
            )
            for part in range(columns // d)
        ]
        return (views[0] if len(views) == 3 else None), views[-2], views[-1]

    def _new_bundle(self, prefix: str) -> tuple[Matrix, Matrix, Matrix]:
        """The same from separate tensors. Gate and up keep their bytes; down is transposed, which
        rounds again in block formats."""
        names = [f"{prefix}{name}.weight" for name in arch.FFN_MATRICES]
        gate, up, down = (self.file.tensors[name] for name in names)
        if not gate.format == up.format == down.format:
            return self._matrix(names[0]), self._matrix(names[1]), self._transposed(names[2])
        kind, hidden, d = weight_format(gate.format), self.config.hidden, self.config.d
        width = kind.row_bytes(d)
        bundle = np.empty((hidden, 3 * width), np.uint8)
        for part, name in enumerate(names[:2]):
            rows = self.file.tensor_data(name).reshape(hidden, width)
            bundle[:, part * width : (part + 1) * width] = rows
        bundle[:, 2 * width :] = quantize_rows(self._down(names[2]).T, kind, self.core)
        memory = self.core.upload(bundle)
        views = [
            Matrix(self.core, memory, kind, hidden, d, part * width, 3 * width) for part in range(3)
        ]
        return views[0], views[1], views[2]

    def _transposed(self, name: str) -> Matrix:
        """The down matrix with one row a neuron, in its own format, or F16 where the format's
        blocks do not divide the new rows."""
        kind = weight_format(self.file.tensors[name].format)
        if self.config.d % kind.block:
            kind = weight_format("f16")
        memory = self.core.upload(quantize_rows(self._down(name).T, kind, self.core))
        return Matrix(self.core, memory, kind, self.config.hidden, self.config.d)

    def _down(self, name: str) -> FloatArray:
        """The down matrix as float32 (d, hidden)."""
        values = _floats(self.core, self.file, name)
        if not np.isfinite(values).all():
            raise NotFiniteError(_damaged(self.file, name))
        return values

    def why_not_finite(self) -> str:
        """Names the first tensor that holds NaN or infinity, for the message of an error."""
        for name, info in self.file.tensors.items():
            if len(info.shape) == 2 and not np.isfinite(_floats(self.core, self.file, name)).all():
                return _damaged(self.file, name)
        return f"{self.file.name}: the weights are finite, but too large for 32-bit arithmetic"


def read_matrix(core: Core, file: GgufFile, name: str) -> Matrix:
    """A matrix of the file as it is stored."""
    info = file.tensors[name]
    memory = core.upload(file.tensor_data(name))
    return Matrix(core, memory, info.format, *info.shape)


def read_vector(file: GgufFile, name: str) -> FloatArray:
    """A vector of plain numbers as float32; `NotFiniteError` when it holds NaN or infinity."""
    info, data = file.tensors[name], file.tensor_data(name)
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
        for name in arch.FFN_BIASES
        if f"blk.{layer}.{name}.bias" in file.tensors
    }


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


def _floats(core: Core, file: GgufFile, name: str) -> FloatArray:
    """A matrix of the file as float32 (rows, columns)."""
    info = file.tensors[name]
    packed = file.tensor_data(name).reshape(info.shape[0], -1)
    return dequantize_rows(packed, info.format, info.shape[1], core)


def _damaged(file: GgufFile, name: str) -> str:
    return f"{file.name}: tensor {name!r} holds NaN or infinity; the model is damaged"
