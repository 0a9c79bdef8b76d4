"""Microsoft's I2_S, which the gguf package lacks: against numpy written from the layout."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import tiny_model
from sparsefire.errors import ModelFileError, NotFiniteError, UnsupportedError
from sparsefire.files.quantize import quantize_model
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model
from sparsefire.weights.quantized import dequantize_rows
from tiny_model import Tiny

Array = npt.NDArray[np.float32]
TQ2_0 = gguf.GGMLQuantizationType.TQ2_0
SUB_NORMS = ("attn_sub_norm.weight", "ffn_sub_norm.weight")
TINY = Tiny(arch="bitnet-b1.58", activation=None, d=256, hidden=512, vectors=SUB_NORMS)


def ternary(values: Array, scale: float) -> Array:
    """The nearest of -scale, 0 and scale, of weights that are rather larger or smaller."""
    most = np.abs(values).mean()
    return (np.sign(values) * (np.abs(values) > most / 2) * np.float32(scale)).astype(np.float32)


def packed(values: Array, scale: float) -> bytes:
    """Numbers 0, 1 and 2 of two bits: 32 bytes hold 128, the first quarter in the upper bits."""
    numbers = (np.sign(values) + 1).astype(np.uint8).reshape(-1, 4, 32)
    quarters = (numbers[:, i] << (6 - 2 * i) for i in range(4))
    return b"".join((sum(quarters).tobytes(), struct.pack("<f", scale), bytes(28)))


def as_i2_s(path: Path, matrices: dict[str, Array], scale: float) -> bytearray:
    """The file with these matrices, which are F32 in it, in I2_S."""
    data = bytearray(path.read_bytes())
    file = GgufFile(path)
    for name, values in matrices.items():
        at = data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + 4 + 2 * 8
        assert data[at : at + 4] == bytes(4)
        data[at : at + 4] = struct.pack("<I", 36)
        stored = packed(values, scale)
        offset = file.tensors[name].offset
        data[offset : offset + 4 * values.size] = stored + bytes(4 * values.size - len(stored))
    return data


def model(tmp_path: Path, scale: float) -> tuple[Path, Path, dict[str, Array]]:
    """A BitNet in F32 and in I2_S, and its ternary matrices."""
    matrices = {
        name: ternary(values, scale)
        for name, values in tiny_model.weights(TINY).items()
        if values.ndim == 2 and name != "token_embd.weight"
    }
    floats = tiny_model.write(tmp_path / "f32.gguf", TINY, tensors=matrices)
    path = tmp_path / "ggml-model-i2_s.gguf"
    path.write_bytes(as_i2_s(floats, matrices, scale))
    return floats, path, matrices


@pytest.mark.parametrize("scale", [0.05078125, 0.0123, 1e6, 1e-30, 0.0])
def test_weights_are_read_as_they_lie(scale: float, tmp_path: Path) -> None:
    _, path, matrices = model(tmp_path, scale)
    for source in (path, BytesIO(path.read_bytes())):
        file = GgufFile(source)
        for name, values in matrices.items():
            info, data = file.tensors[name], file.tensor_data(name)
            assert (info.format, info.stored, info.shape) == ("tq2_0", "i2_s", values.shape)
            assert (info.nbytes, info.stored_bytes) == (data.size, values.size // 4 + 32)
            found = gguf.dequantize(data.reshape(len(values), -1), TQ2_0)
            read = file.tensor_data(name.replace("weight", "scale")).view(np.float32)
            assert read == np.float32(scale)
            assert np.array_equal(found * read, values)  # exact
            pieces = b"".join(piece.tobytes() for _, piece in file.tensor_pieces(name))
            assert pieces == data.tobytes()


def test_a_model_is_that_of_its_floats(tmp_path: Path) -> None:
    floats, path, matrices = model(tmp_path, 0.0123)
    tokens = [1, 2, 3, 40, 50]
    with Model.load(floats) as wanted, Model.load(path) as found:
        expected = wanted.logits(tokens)
        bound = 2e-3 if found.core.isa == "amx" else 1e-4  # which rounds to 8 bits what is not F32
        assert np.abs(found.logits(tokens) - expected).max() < bound * np.abs(expected).max()
        # Down matrices, one row a neuron, stay ternary and exact.
        down = found.layers[0].matrices[-1]
        assert down.format == "tq2_0"
        values = matrices["blk.0.ffn_down.weight"].T
        assert np.array_equal(down.dequantize(), values)


def test_written_again_it_is_tq2_0(tmp_path: Path) -> None:
    _, path, matrices = model(tmp_path, 0.0123)
    quantize_model(path, tmp_path / "out.gguf", "tq2_0", embedding_format="f32")
    file = GgufFile(tmp_path / "out.gguf")
    for name, values in matrices.items():
        assert (file.tensors[name].format, file.tensors[name].stored) == ("tq2_0", None)
        rows = file.tensor_data(name).reshape(len(values), -1)
        scale = file.tensor_data(name.replace("weight", "scale")).view(np.float32)
        assert np.array_equal(dequantize_rows(rows, "tq2_0", values.shape[1]) * scale, values)
    with Model.load(path) as before, Model.load(tmp_path / "out.gguf") as after:
        tokens = [1, 2, 3]
        assert np.array_equal(before.hidden_states(tokens), after.hidden_states(tokens))


def test_ternary_weights_with_several_scales_become_q8_0_by_neuron(tmp_path: Path) -> None:
    tiny = Tiny(d=256, hidden=512, format="TQ2_0")
    with Model.load(tiny_model.write(tmp_path / "in.gguf", tiny)) as loaded:
        assert loaded.layers[0].matrices[-1].format == "q8_0"


def test_files_that_are_refused(tmp_path: Path) -> None:
    floats, path, matrices = model(tmp_path, 1.0)
    name = next(iter(matrices))
    for scale in (float("nan"), float("inf")):
        path.write_bytes(as_i2_s(floats, matrices, scale))
        with pytest.raises(NotFiniteError, match="scale"):
            Model.load(path)
    cut = path.read_bytes()[: GgufFile(path).tensors[name].offset + 100]
    with pytest.raises(ModelFileError, match="go past the end of the file"):
        GgufFile(BytesIO(cut))
    narrow = tiny_model.write(tmp_path / "narrow.gguf", Tiny(d=128, heads=4))
    name = "blk.0.attn_q.weight"
    values = {name: np.zeros((128, 128), np.float32)}
    with pytest.raises(UnsupportedError, match=r"attn_q.*\(128, 128\) in I2_S; .*multiple of 256"):
        GgufFile(BytesIO(bytes(as_i2_s(narrow, values, 1.0))))
