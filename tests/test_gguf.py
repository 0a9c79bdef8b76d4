"""The GGUF reader and writer, against the `gguf` package and against damaged files."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefire.errors import (
    ArgumentError,
    ModelFileError,
    SparsefireError,
    UnsupportedError,
)
from sparsefire.gguf import header as gguf_header
from sparsefire.gguf import types as gguf_types
from sparsefire.gguf.reader import GgufFile
from sparsefire.gguf.types import TypedValue, ValueType
from sparsefire.gguf.writer import TensorData, write_gguf
from sparsefire.weights.quantized import QuantizedWeights

U8, U32, STRING, ARRAY = 0, 4, 8, 9


# -- files made by hand, so that they can lie --------------------------------------------------


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, code: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", code) + value


def tensor(name: bytes, shape: tuple[int, ...], code: int, offset: int) -> bytes:
    dimensions = struct.pack(f"<{len(shape)}Q", *shape)
    return (
        text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", code, offset)
    )


def document(
    keys: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
    version: int = 3,
) -> bytes:
    n_tensors, n_keys = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


ARCHITECTURE = key(b"general.architecture", STRING, text(b"llama"))
SMALL = document(
    [
        ARCHITECTURE,
        key(b"numbers", ARRAY, struct.pack("<IQ3I", U32, 3, 1, 2, 3)),
        key(b"words", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"one") + text(b"two")),
    ],
    [tensor(b"a", (4, 2), 0, 0), tensor(b"b", (32,), 8, 32)],
    bytes(range(32)) + bytes(34),
)


def test_small_document() -> None:
    file = GgufFile.open(SMALL)
    assert file.version == 3
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["numbers"].tolist() == [1, 2, 3]
    assert file.metadata["words"] == ["one", "two"]
    assert file.metadata_types["words"] == ValueType("array", "string")
    assert file.tensors["a"].shape == (2, 4)  # GGUF stores the columns first
    assert file.tensors["a"].format == "f32"
    assert file.tensor_data("a").tobytes() == bytes(range(32))
    assert file.tensor_data("b").nbytes == 34


# -- against the gguf package ------------------------------------------------------------------


def test_formats_are_those_of_the_gguf_package() -> None:
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        ours = gguf_types.TENSOR_FORMATS[int(kind)]
        assert ours.name.lower() == kind.name.lower()
        if kind.name != "Q8_1":  # ggml's block has two halves since 2024; files never hold it
            assert (ours.block, ours.block_bytes) == sizes
    assert len(gguf_types.TENSOR_FORMATS) >= len(gguf.GGML_QUANT_SIZES)


def test_value_types_are_those_of_the_gguf_package() -> None:
    assert set(gguf_types.VALUE_TYPES) == {int(kind) for kind in gguf.GGUFValueType}


NUMBER_RANGES = {
    "u8": (0, 255),
    "i8": (-128, 127),
    "u16": (0, 2**16 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "u32": (0, 2**32 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(low, high) for name, (low, high) in NUMBER_RANGES.items()},
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(max_size=20),
}
SCALARS = st.sampled_from(sorted(ELEMENTS)).flatmap(
    lambda name: ELEMENTS[name].map(lambda value: TypedValue(value, ValueType(name)))
)
ARRAYS = st.sampled_from(sorted(ELEMENTS)).flatmap(
    lambda name: st.lists(ELEMENTS[name], min_size=1, max_size=5).map(
        lambda values: TypedValue(values, ValueType("array", name))
    )
)
METADATA = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
        lambda name: not name.startswith("general.")
    ),
    SCALARS | ARRAYS,
    max_size=6,
)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@settings(max_examples=60)
@given(metadata=METADATA, shapes=st.lists(SHAPES, max_size=4), half=st.booleans())
def test_written_by_us_read_by_both(
    tmp_path_factory: pytest.TempPathFactory,
    metadata: dict[str, TypedValue],
    shapes: list[tuple[int, ...]],
    half: bool,
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "file.gguf"
    random = np.random.default_rng(0)
    dtype = np.float16 if half else np.float32
    tensors = {f"t{i}": random.random(shape).astype(dtype) for i, shape in enumerate(shapes)}
    write_gguf(path, {"general.architecture": "llama", **metadata}, tensors)

    ours = GgufFile.open(path)
    for name, (value, kind) in metadata.items():
        assert ours.metadata_types[name] == kind
        read = ours.metadata[name]
        assert (read.tolist() if isinstance(read, np.ndarray) else read) == value
    for name, array in tensors.items():
        info = ours.tensors[name]
        assert info.shape == array.shape
        assert info.format == ("f16" if half else "f32")
        assert ours.tensor_data(name).tobytes() == array.tobytes()

    if tensors:  # the package's reader maps the file, which must reach the data
        theirs = gguf.GGUFReader(path)
        assert set(metadata) <= set(theirs.fields)
        for each in theirs.tensors:
            assert each.data_offset == ours.tensors[each.name].offset
            assert np.array_equal(each.data, tensors[each.name])


def test_copy_keeps_every_byte(tmp_path: Path) -> None:
    source, target = tmp_path / "a.gguf", tmp_path / "b.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_custom_alignment(64)
    writer.add_uint8("x.u8", 200)
    writer.add_float64("x.f64", 1e300)
    writer.add_bool("x.yes", True)
    writer.add_array("x.odd", [b"\xff\xfe", b"ok"])
    writer.add_token_list(["ä", "bc", "\u2028"])
    writer.add_tensor("w", np.arange(96, dtype=np.float32).reshape(3, 32))
    quantised = gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = GgufFile.open(source)
    assert file.tensors["q"].shape == (2, 64)
    assert file.tensors["q"].offset % 64 == 0
    tensors = {
        name: TensorData(info.format, info.shape, file.tensor_data(name))
        for name, info in file.tensors.items()
    }
    write_gguf(target, file.typed_metadata(), tensors)
    assert target.read_bytes() == source.read_bytes()


def test_plain_values_get_fitting_types(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    metadata = {
        "general.architecture": "llama",
        "small": 3,
        "negative": -3,
        "large": 2**40,
        "share": 0.5,
        "flag": False,
        "names": ["a", "b"],
        "counts": np.array([1, 2], np.int32),
        "one": np.float64(2.5),
        "nothing": [],
    }
    write_gguf(path, metadata, {})
    file = GgufFile.open(path)
    kinds = {name: tuple(kind) for name, kind in file.metadata_types.items()}
    assert kinds["small"] == ("u32", None)
    assert kinds["negative"] == ("i32", None)
    assert kinds["large"] == ("i64", None)
    assert kinds["share"] == ("f32", None)
    assert kinds["flag"] == ("bool", None)
    assert kinds["names"] == ("array", "string")
    assert kinds["counts"] == ("array", "i32")
    assert kinds["one"] == ("f64", None)
    assert "nothing" not in kinds


def test_quantised_weights_are_written(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    quantised = QuantizedWeights.quantize(weights, "q8_0")
    path = tmp_path / "file.gguf"
    write_gguf(path, {"general.architecture": "llama"}, {"w": quantised})
    read = gguf.GGUFReader(path).tensors[0]
    assert read.tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert np.array_equal(gguf.dequantize(read.data, read.tensor_type), quantised.dequantize())


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(b"precious")

    def broken() -> Any:
        raise RuntimeError("no more")

    tensors = {"w": TensorData("f32", (2, 2), broken)}
    with pytest.raises(RuntimeError, match="no more"):
        write_gguf(path, {"general.architecture": "llama"}, tensors)
    assert path.read_bytes() == b"precious"
    assert [each.name for each in tmp_path.iterdir()] == ["file.gguf"]


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({}, {}, "general.architecture"),
        ({"general.architecture": "llama", "x": object()}, {}, "'x'"),
        ({"general.architecture": "llama", "x": 2**70}, {}, "'x'"),
        ({"general.architecture": "llama"}, {"w": np.zeros(3, np.int8)}, "'w'.*int8"),
        (
            {"general.architecture": "llama"},
            {"w": TensorData("f32", (2, 2), np.zeros(3, np.uint8))},
            "'w'.*16 bytes, got 3",
        ),
        (
            {"general.architecture": "llama"},
            {"w": TensorData("q8_0", (2, 2), np.zeros(3, np.uint8))},
            "q8_0",
        ),
        ({"general.architecture": "llama"}, {"w": TensorData("q9", (1,), b"")}, "'q9'"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        write_gguf(tmp_path / "file.gguf", metadata, tensors)
    assert not list(tmp_path.iterdir())


# -- kinds of source ---------------------------------------------------------------------------


class CountingFile(io.BytesIO):
    """Counts the bytes that are read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_every_source_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "_WINDOW_BYTES", 16)
    path = tmp_path / "file.gguf"
    path.write_bytes(SMALL)
    from_bytes = GgufFile.open(SMALL)
    sources: list[Any] = [path, str(path), bytearray(SMALL), memoryview(SMALL), io.BytesIO(SMALL)]
    for source in sources:
        file = GgufFile.open(source)
        assert file.tensors == from_bytes.tensors
        assert file.metadata["words"] == ["one", "two"]
        assert file.metadata["numbers"].tolist() == [1, 2, 3]
        assert file.tensor_data("a").tobytes() == bytes(range(32))
        with pytest.raises(ValueError, match="read-only"):
            file.tensor_data("a")[0] = 1
        file.close()


def test_a_stream_is_read_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "_WINDOW_BYTES", 256)
    data = bytes(range(256)) * 4096
    tensors = [tensor(b"a", (len(data) // 4,), 0, 0), tensor(b"b", (8,), 0, len(data))]
    stream = CountingFile(document([ARCHITECTURE], tensors, data + bytes(32)))
    file = GgufFile.open(stream)
    assert stream.taken < 1024
    file.tensor_data("b")
    assert stream.taken < 1024
    assert file.tensor_data("a").tobytes() == data


def test_a_stream_that_shrank_is_an_error() -> None:
    stream = io.BytesIO(SMALL)
    file = GgufFile.open(stream)
    stream.truncate(len(SMALL) - 50)
    with pytest.raises(ModelFileError, match="truncated"):
        file.tensor_data("b")


@pytest.mark.parametrize("source", [17, None, [17], [], memoryview(bytes(8))[::2]])
def test_sources_that_are_none(source: Any) -> None:
    with pytest.raises(ArgumentError, match="model"):
        GgufFile.open(source)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.gguf: No such file"):
        GgufFile.open(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelFileError, match="directory"):
        GgufFile.open(tmp_path)


def test_missing_tensor() -> None:
    with pytest.raises(ModelFileError, match="tensor 'nope' is missing"):
        GgufFile.open(SMALL).tensor_data("nope")


# -- damaged files -----------------------------------------------------------------------------


def test_every_truncation_is_an_error() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(ModelFileError):
            GgufFile.open(SMALL[:length])
        with pytest.raises(ModelFileError):
            GgufFile.open(io.BytesIO(SMALL[:length]))


WORDS = b"words"
LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "magic": (b"PK\x03\x04" + SMALL, "not a GGUF file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "key count": (document([ARCHITECTURE], [], counts=(0, 2**63)), "metadata keys"),
    "tensor count": (document([ARCHITECTURE], [], counts=(2**63, 1)), "tensors"),
    "too many keys": (document([], [], bytes(2**21), counts=(0, 2**16 + 1)), "metadata keys"),
    "key length": (document([struct.pack("<Q", 2**63) + b"abc" * 9], []), "name of 9223372036"),
    "key not text": (document([key(b"\xff\xff", U8, b"1")], []), "not UTF-8"),
    "string length": (
        document([key(WORDS, STRING, struct.pack("<Q", 2**40) + b"abc")], []),
        "'words'.*1099511627776 bytes are wanted",
    ),
    "string count": (
        document([key(WORDS, ARRAY, struct.pack("<IQ", STRING, 2**60))], []),
        "'words'.*count of",
    ),
    "number count": (
        document([key(WORDS, ARRAY, struct.pack("<IQ", U32, 2**62))], []),
        "'words'.*array of",
    ),
    "string in array": (
        document([key(WORDS, ARRAY, struct.pack("<IQQ", STRING, 1, 2**50))], []),
        "'words'.*are wanted",
    ),
    "value type": (document([key(WORDS, 13, b"12345678")], []), "value type 13"),
    "element type": (document([key(WORDS, ARRAY, struct.pack("<IQ", 77, 1))], []), "type 77"),
    "nested": (document([key(WORDS, ARRAY, struct.pack("<IQ", ARRAY, 1))], []), "array of arrays"),
    "twice": (document([ARCHITECTURE, ARCHITECTURE], []), "'general.architecture'.*twice"),
    "no dimensions": (document([], [tensor(b"a" * 30, (), 0, 0)]), "'aaa.*0 dimensions"),
    "5 dimensions": (document([], [tensor(b"a", (1,) * 5, 0, 0)]), "'a'.*5 dimensions"),
    "zero": (document([], [tensor(b"a", (4, 0), 0, 0)]), "'a'.*zero"),
    "huge": (document([], [tensor(b"a", (2**62, 2**62), 0, 0)], bytes(64)), "'a'.*past the end"),
    "wraps": (document([], [tensor(b"a", (2**32, 2**32), 0, 0)], bytes(64)), "'a'.*past the end"),
    "format": (document([], [tensor(b"a", (32,), 4, 0)], bytes(64)), "'a'.*format number 4"),
    "block": (document([], [tensor(b"a", (33,), 8, 0)], bytes(64)), "'a'.*Q8_0's blocks of 32"),
    "outside": (document([], [tensor(b"a", (8,), 0, 64)], bytes(64)), "'a'.*past the end"),
    "far": (document([], [tensor(b"a", (8,), 0, 2**64 - 32)], bytes(64)), "'a'.*past the end"),
    "unaligned": (document([], [tensor(b"a", (4,), 0, 8)], bytes(64)), "'a'.*multiple of 32"),
    "names": (document([], [tensor(b"a", (8,), 0, 0)] * 2, bytes(64)), "'a'.*twice"),
    **{
        f"alignment {value}": (
            document([key(b"general.alignment", U32, struct.pack("<I", value))], []),
            "general.alignment.*power of two",
        )
        for value in (0, 3, 2**31)
    },
    "alignment text": (document([key(b"general.alignment", STRING, text(b"32"))], []), "power"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_named(name: str) -> None:
    data, message = LIES[name]
    for source in (data, io.BytesIO(data)):
        with pytest.raises(ModelFileError, match=message):
            GgufFile.open(source)


def test_other_versions() -> None:
    with pytest.raises(UnsupportedError, match="version 1 "):
        GgufFile.open(document([], [], version=1))
    with pytest.raises(UnsupportedError, match="version 4 "):
        GgufFile.open(document([], [], version=4))
    assert GgufFile.open(document([ARCHITECTURE], [], version=2)).version == 2
    with pytest.raises(UnsupportedError, match="big-endian"):
        GgufFile.open(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


def test_tensors_may_overlap() -> None:
    tensors = [tensor(b"a", (8,), 0, 0), tensor(b"b", (4,), 0, 0)]
    file = GgufFile.open(document([], tensors, bytes(32)))
    assert file.tensors["a"].offset == file.tensors["b"].offset


def only_named_errors(open_file: Callable[[], GgufFile]) -> None:
    """Opens and reads everything; any error must be one of ours."""
    with contextlib.suppress(SparsefireError):
        file = open_file()
        for name in file.tensors:
            file.tensor_data(name)


@settings(max_examples=400)
@given(flips=st.lists(st.integers(0, 8 * len(SMALL) - 1), min_size=1, max_size=8))
def test_flipped_bits(flips: list[int]) -> None:
    data = bytearray(SMALL)
    for flip in flips:
        data[flip // 8] ^= 1 << flip % 8
    only_named_errors(lambda: GgufFile.open(bytes(data)))
    only_named_errors(lambda: GgufFile.open(io.BytesIO(data)))


@settings(max_examples=200)
@given(start=st.integers(0, len(SMALL)), junk=st.binary(max_size=64))
def test_overwritten_bytes(start: int, junk: bytes) -> None:
    data = SMALL[:start] + junk + SMALL[start + len(junk) :]
    only_named_errors(lambda: GgufFile.open(data))


# -- models in several files -------------------------------------------------------------------


def write_parts(folder: Path, count: int, **changes: Any) -> list[Path]:
    """A model of six tensors in `count` files; `changes` replace keys of the last one."""
    paths = []
    random = np.random.default_rng(4)
    for part in range(count):
        path = folder / f"model-{part + 1:05}-of-{count:05}.gguf"
        keys: dict[str, Any] = {
            "general.architecture": "llama",
            "split.no": part,
            "split.count": count,
            "split.tensors.count": 6,
        }
        if part == 0:
            keys["words"] = ["one", "two"]
        if part == count - 1:
            keys |= changes
        each = 6 // count
        names = [f"t{i}" for i in range(part * each, (part + 1) * each)]
        write_gguf(path, keys, {n: random.random((3, 4)).astype(np.float32) for n in names})
        paths.append(path)
    return paths


@pytest.mark.parametrize("mapped", [True, False])
def test_parts_are_one_model(tmp_path: Path, mapped: bool) -> None:
    paths = write_parts(tmp_path, 3)
    with GgufFile.open(paths[0], mapped=mapped) as file:
        assert list(file.tensors) == [f"t{i}" for i in range(6)]
        assert file.nbytes == sum(path.stat().st_size for path in paths)
        assert file.metadata["words"] == ["one", "two"]
        assert not any(key.startswith("split.") for key in file.metadata)
        random = np.random.default_rng(4)
        for name in file.tensors:
            wanted = random.random((3, 4)).astype(np.float32).tobytes()
            assert file.tensor_data(name).tobytes() == wanted
            pieces = b"".join(piece.tobytes() for _, piece in file.tensor_pieces(name))
            assert pieces == wanted


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_list_of_parts_needs_no_names(tmp_path: Path, order: list[int]) -> None:
    """As paths under other names, as bytes, and as streams."""
    paths = write_parts(tmp_path, 3)
    with GgufFile.open(paths[0]) as file:
        wanted = {name: file.tensor_data(name).tobytes() for name in file.tensors}
    renamed = [path.rename(tmp_path / f"sha256-{'bca'[i]}") for i, path in enumerate(paths)]
    opened: list[Any] = [
        [renamed[i] for i in order],
        [renamed[i].read_bytes() for i in order],
        [io.BytesIO(renamed[i].read_bytes()) for i in order],
    ]
    for sources in opened:
        with GgufFile.open(sources) as file:
            assert {name: file.tensor_data(name).tobytes() for name in file.tensors} == wanted
            assert list(file.tensors) == list(wanted)
            assert not any(key.startswith("split.") for key in file.metadata)


def test_a_list_that_is_not_one_model(tmp_path: Path) -> None:
    first, second, third = (path.read_bytes() for path in write_parts(tmp_path, 3))
    for sources, message in (
        ([third, first], "split over 3 files, and 2 are given: part 2 is missing"),
        ([first, first, second], "part 1 of its model is given twice"),
        ([SMALL, first], "a whole model, not one of several files"),
        ([second], "split over 3 files, and 1 are given: part 1 is missing"),
    ):
        with pytest.raises(ModelFileError, match=message):
            GgufFile.open(sources)
    with GgufFile.open([SMALL]) as file:
        assert file.tensors == GgufFile.open(SMALL).tensors


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    first, second = write_parts(tmp_path, 2)
    with pytest.raises(ModelFileError, match=r"part 2 of a model in 2 files.*model-00001-of-00002"):
        GgufFile.open(second)
    with pytest.raises(UnsupportedError, match="part 1 of a model in 2 files; give all of them"):
        GgufFile.open(first.read_bytes())
    for name in ("other.gguf", "model-00001-of-00002 (1).gguf", "sha256-0123"):
        renamed = tmp_path / name
        renamed.write_bytes(first.read_bytes())
        with pytest.raises(ModelFileError, match=r"found by their names: .*NAME-00001-of-00002"):
            GgufFile.open(renamed)
    second.unlink()
    with pytest.raises(ModelFileError, match=r"model-00002-of-00002.gguf: No such file: part 2"):
        GgufFile.open(first)
    for changes, message in (
        ({"split.no": 0}, "not part 2 of a model in 2"),
        ({"split.count": 3}, "not part 2 of a model in 2"),
        ({"split.no": "x"}, "split.no' is 'x'"),
    ):
        with pytest.raises(ModelFileError, match=message):
            GgufFile.open(write_parts(tmp_path, 2, **changes)[0])
    first, second = write_parts(tmp_path, 2)
    second.write_bytes(second.read_bytes().replace(b"t3", b"t0"))
    with pytest.raises(ModelFileError, match="'t0' is in another part"):
        GgufFile.open(first)
    write_parts(tmp_path, 2, **{"split.tensors.count": 6})
    first.write_bytes(
        first.read_bytes().replace(
            key(b"split.tensors.count", U32, struct.pack("<I", 6)),
            key(b"split.tensors.count", U32, struct.pack("<I", 7)),
        )
    )
    with pytest.raises(ModelFileError, match="hold 6 tensors, not 7"):
        GgufFile.open(first)


def test_powerinfers_magic() -> None:
    assert GgufFile.open(b"PWRI" + SMALL[4:]).tensors == GgufFile.open(SMALL).tensors
