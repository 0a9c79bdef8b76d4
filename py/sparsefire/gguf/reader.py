"""Reading GGUF model files: the header, and each tensor's bytes on demand.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2
and 3 are read, little-endian. Nothing in a file is trusted: every count, length and offset is
checked against the file's size before it is used. `write_gguf` in `writer` writes such files.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from .._shown import shown_value
from ..errors import ArgumentError, ModelFileError, UnsupportedError
from . import i2_s
from .header import DAMAGED, Cursor, TensorInfo
from .source import ByteArray, Source, open_source
from .types import TypedValue, ValueType

_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_PIECE_BYTES = 8 << 20  # of a tensor

_MAGICS = (b"GGUF", b"PWRI")  # the second is PowerInfer's, otherwise the same format
_WEB_PAGES = (b"<!doctype html", b"<html", b"<head", b"<!--")  # how they begin, in lower case


class GgufFile:
    """An open GGUF file, or a model that is split over several.

    `name` identifies it in messages, `version` is 2 or 3, `metadata` maps keys to values (numbers,
    bools, strings, lists of strings, numpy arrays of numbers), `metadata_types` maps keys to their
    `ValueType`, and `tensors` maps names to `TensorInfo`. All are in the file's order. `files` are
    what the file, or each file of a split model, was opened from, and `paths` those that are paths,
    which are mapped into memory."""

    def __init__(self, source: Source, *, mapped: bool = True, whole: bool = True) -> None:
        """See `open`, which also opens several files; `whole` false opens one file of a split
        model without the others."""
        self.name, first = open_source(source, mapped)
        self.files: tuple[Source, ...] = (source,)
        self._source = first
        self._sources = [first]
        self.metadata: dict[str, Any] = {}
        self.metadata_types: dict[str, ValueType] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            cursor = Cursor(first, self.name)
            tensors, keys = self._read_counts(cursor)
            self._read_metadata(cursor, keys)
            self.alignment = self._checked_alignment()
            self._read_tensors(cursor, tensors)
            if whole:
                self._open_parts(source, mapped)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, source: Source | Sequence[Source], *, mapped: bool = True) -> GgufFile:
        """Opens a path, a buffer of bytes or a seekable binary file, and reads the header.

        A model that is split over several files is opened by the path of the first, if they have
        their usual names, or by a list of all of them, with any names and in any order.

        mapped: whether a path is mapped into memory; otherwise its bytes are read on demand.

        Errors: `ModelFileError` (missing, truncated or damaged; the message names the position),
        `UnsupportedError` (big-endian, version 1), `ArgumentError`.
        """
        if not isinstance(source, (list, tuple)):
            return cls(cast("Source", source), mapped=mapped)
        if not source:
            raise ArgumentError("the list of a model's files is empty")
        files: list[GgufFile] = []
        try:
            files.extend(cls(each, mapped=mapped, whole=False) for each in source)
            return _joined(files)
        except BaseException:
            for each in files:
                each.close()
            raise

    def _open_parts(self, source: Source, mapped: bool) -> None:
        """Opens the other files of a split model, which contain only tensors."""
        number, count = self._split()
        if count == 1:
            return
        if not isinstance(source, (str, os.PathLike)):
            raise UnsupportedError(
                f"{self.name}: part {number + 1} of a model in {count} files; give all of them "
                "together, or join them, for example with `llama-gguf-split --merge`"
            )
        path = Path(source)
        names = _part_names(path, count)
        if path.name not in names:
            raise ModelFileError(
                f"{self.name}: part {number + 1} of a model in {count} files, which are found by "
                f"their names: put them in one folder as NAME-{1:05}-of-{count:05}.gguf to "
                f"NAME-{count:05}-of-{count:05}.gguf, and open the first; or join them with "
                "`llama-gguf-split --merge` (files joined end to end are not one model)"
            )
        if number != 0 or path.name != names[0]:
            raise ModelFileError(
                f"{self.name}: part {number + 1} of a model in {count} files; open the first, "
                f"which is called {names[0]}"
            )
        for index in range(1, count):
            other = path.with_name(names[index])
            if not other.exists():
                raise ModelFileError(
                    f"{other}: No such file: part {index + 1} of {count} of the model is missing "
                    f"beside {self.name}"
                )
            self._add_part(GgufFile(other, mapped=mapped, whole=False), index, count)
        self._end_parts()

    def add(self, other: GgufFile, tensors: Sequence[str], keys: tuple[str, ...]) -> None:
        """Adds these tensors of another file, and its keys that begin with one of `keys`; the file
        is closed with this one. `ModelFileError` when a tensor is missing there."""
        found = {name: other.tensor(name) for name in tensors}
        first = len(self._sources)
        self._sources += other._sources
        self.files += other.files
        for name, info in found.items():
            self.tensors[name] = replace(info, part=first + info.part)
        for key, value in other.metadata.items():
            if key.startswith(keys):
                self.metadata[key] = value
                self.metadata_types[key] = other.metadata_types[key]

    def _end_parts(self) -> None:
        """Checks that a split model is complete, and removes the keys that describe the split."""
        wanted = self._split_key("tensors.count", self._described)
        if self._described != wanted:
            raise ModelFileError(
                f"{self.name}: its {len(self._sources)} files hold {self._described} tensors, "
                f"not {wanted}; they do not all belong to one model"
            )
        for key in [key for key in self.metadata if key.startswith("split.")]:
            del self.metadata[key], self.metadata_types[key]

    def _add_part(self, part: GgufFile, index: int, count: int) -> None:
        self._sources += part._sources
        self.files += part.files
        if part._split() != (index, count):
            raise ModelFileError(f"{part.name}: not part {index + 1} of a model in {count} files")
        twice = self.tensors.keys() & part.tensors.keys()
        if twice:
            raise ModelFileError(f"{part.name}: tensor {min(twice)!r} is in another part already")
        self.tensors |= part.tensors
        self._described += part._described

    def _split(self) -> tuple[int, int]:
        """The index of the file among those of its model, and their number."""
        number, count = (self._split_key(name, 0) for name in ("no", "count"))
        return (number, count) if count > 1 else (0, 1)

    def _split_key(self, name: str, default: int) -> int:
        value = self.metadata.get(f"split.{name}", default)
        if not isinstance(value, int) or not 0 <= value <= _MAX_TENSORS:
            raise ModelFileError(
                f"{self.name}: key 'split.{name}' is {shown_value(value)}; {DAMAGED}"
            )
        return value

    def _read_counts(self, cursor: Cursor) -> tuple[int, int]:
        """Checks magic and version; returns the counts of tensors and of metadata keys."""
        self._check_magic()
        cursor.number("I")
        self.version: int = cursor.number("I")
        if self.version and not self.version & 0xFFFF:
            raise UnsupportedError(
                f"{self.name}: the file is big-endian; convert it to little-endian, for example "
                "with `gguf-convert-endian FILE little` from the gguf package"
            )
        if self.version not in (2, 3):
            raise UnsupportedError(
                f"{self.name}: GGUF version {self.version} is not supported; versions 2 and 3 are"
            )
        tensors, keys = cursor.number("Q"), cursor.number("Q")
        # A key takes at least 13 bytes (length, type, one byte), a tensor 32.
        for what, count, most, least_bytes in (
            ("tensors", tensors, _MAX_TENSORS, 32),
            ("metadata keys", keys, _MAX_KEYS, 13),
        ):
            if count > most or count * least_bytes > cursor.left:
                cursor.fail(f"a count of {count} {what} in {cursor.left} bytes; {DAMAGED}")
        return tensors, keys

    def _check_magic(self) -> None:
        start = bytes(self._source.read(0, min(self._source.size, 24)))
        if start[:4] in _MAGICS:
            return
        if not start:
            raise ModelFileError(f"{self.name}: the file is empty; download or copy it again")
        if start.startswith(b"version https://git-lfs"):
            raise ModelFileError(
                f"{self.name}: a Git LFS pointer, not the model itself; run `git lfs pull`"
            )
        if b"GGUF".startswith(start):
            raise ModelFileError(f"{self.name}: {len(start)} bytes long; {DAMAGED}")
        if start.lstrip().lower().startswith(_WEB_PAGES):
            raise ModelFileError(
                f"{self.name}: not a GGUF file but a web page (HTML); download the model itself, "
                "not the page about it"
            )
        raise ModelFileError(
            f"{self.name}: not a GGUF file: it does not begin with the letters GGUF"
        )

    def _read_metadata(self, cursor: Cursor, count: int) -> None:
        for index in range(count):
            cursor.where = f"metadata key {index + 1} of {count}"
            key = cursor.name()
            cursor.where = f"key {key!r}"
            if key in self.metadata:
                cursor.fail(f"the key occurs twice; {DAMAGED}")
            self.metadata_types[key], self.metadata[key] = cursor.value()

    def _checked_alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        whole = isinstance(alignment, int) and not isinstance(alignment, bool)
        if not whole or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise ModelFileError(
                f"{self.name}: key 'general.alignment': {shown_value(alignment)} is not a power "
                f"of two up to {_MAX_ALIGNMENT}; {DAMAGED}"
            )
        return int(alignment)

    def _read_tensors(self, cursor: Cursor, count: int) -> None:
        part, _ = self._split()
        described = []
        for _ in range(count):
            info, at = cursor.tensor()
            if info.offset % self.alignment:
                cursor.fail(
                    f"offset {info.offset} is not a multiple of {self.alignment}; {DAMAGED}"
                )
            if info.name in self.tensors:
                cursor.fail(f"the name occurs twice; {DAMAGED}")
            self.tensors[info.name] = info
            described.append((info, at))
        self._described = len(described)
        start = -(-cursor.position // self.alignment) * self.alignment
        for info, at in described:
            offset = start + info.offset
            if offset + info.stored_bytes > self._source.size:
                raise ModelFileError(
                    f"{self.name}: tensor {info.name!r} (offset at byte {at}): its "
                    f"{info.stored_bytes} "
                    f"bytes at byte {offset} go past the end of the file, which has "
                    f"{self._source.size} bytes; {DAMAGED}"
                )
            self.tensors[info.name] = replace(info, offset=offset, part=part)
            if info.stored:
                scale = i2_s.scale_name(info.name)
                if scale in self.tensors:
                    raise ModelFileError(
                        f"{self.name}: tensor {info.name!r} in I2_S holds a scale, and so does "
                        f"{scale!r}; {DAMAGED}"
                    )
                at = offset + math.prod(info.shape) // 4
                self.tensors[scale] = TensorInfo(scale, (1,), "f32", at, 4, part)

    @property
    def nbytes(self) -> int:
        """Bytes of the file, or of all the files of a split model."""
        return sum(source.size for source in self._sources)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths among `files`."""
        return tuple(Path(each) for each in self.files if isinstance(each, (str, os.PathLike)))

    @property
    def mapped(self) -> bool:
        """True if tensor data is a view of memory, false if it is read on demand."""
        return self._source.mapped

    def tensor(self, name: str) -> TensorInfo:
        """The description of a tensor; `ModelFileError` if the file has none of that name."""
        if name not in self.tensors:
            raise ModelFileError(f"{self.name}: tensor {name!r} is missing")
        return self.tensors[name]

    def tensor_data(self, name: str) -> ByteArray:
        """The packed bytes of a tensor, uint8 (nbytes,), read-only: a view of the mapped file or of
        the given buffer, or, for a file object or a tensor that is `stored` otherwise, a copy."""
        info = self.tensor(name)
        if info.stored:
            data = np.concatenate([piece for _, piece in self.tensor_pieces(name)])
        else:
            data = self._sources[info.part].read(info.offset, info.nbytes)
        data.flags.writeable = False
        return data

    def tensor_beginning(self, name: str, nbytes: int) -> ByteArray:
        """The first bytes of a tensor as it is stored, uint8, at most ``nbytes``."""
        info = self.tensor(name)
        return self._sources[info.part].read(info.offset, min(nbytes, info.stored_bytes))

    def tensor_pieces(self, name: str) -> Iterator[tuple[int, ByteArray]]:
        """The packed bytes in chunks of a few megabytes, each with its offset in the tensor."""
        info = self.tensor(name)
        if info.stored:
            yield from self._pieces_of_i2_s(info)
            return
        for start in range(0, info.nbytes, _PIECE_BYTES):
            nbytes = min(_PIECE_BYTES, info.nbytes - start)
            yield start, self._sources[info.part].read(info.offset + start, nbytes)

    def _pieces_of_i2_s(self, info: TensorInfo) -> Iterator[tuple[int, ByteArray]]:
        source, count = self._sources[info.part], math.prod(info.shape) // 4
        for start in range(0, count, _PIECE_BYTES):
            stored = source.read(info.offset + start, min(_PIECE_BYTES, count - start))
            yield start // i2_s.STORED_BYTES * i2_s.BLOCK_BYTES, i2_s.as_tq2_0(stored)

    def check_unchanged(self) -> None:
        """Raises `ModelFileError` if a file changed since it was opened: its size, or the time at
        which it was last written. Cheap enough for every call that uses mapped bytes."""
        for source in self._sources:
            source.check_unchanged()

    def close(self) -> None:
        """Closes the file. Tensor data that was returned stays valid."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def typed_metadata(self) -> dict[str, TypedValue]:
        """The metadata with its types, as `write_gguf` accepts it."""
        return {
            key: TypedValue(value, self.metadata_types[key]) for key, value in self.metadata.items()
        }

    def __repr__(self) -> str:
        return (
            f"GgufFile({self.name!r}, {len(self.metadata)} keys, {len(self.tensors)} tensors, "
            f"{self.nbytes:,} bytes)"
        )


def _joined(files: list[GgufFile]) -> GgufFile:
    """The model whose files these are, in any order."""
    files.sort(key=lambda each: each._split())
    numbers = [each._split()[0] for each in files]
    first, count = files[0], files[0]._split()[1]
    for each, number in zip(files, numbers, strict=True):
        if len(files) > 1 and each._split()[1] == 1:
            raise ModelFileError(f"{each.name}: a whole model, not one of several files of one")
        if numbers.count(number) > 1:
            raise ModelFileError(f"{each.name}: part {number + 1} of its model is given twice")
    missing = sorted(set(range(count)) - set(numbers))
    if missing:
        raise ModelFileError(
            f"{first.name}: the model is split over {count} files, and {len(files)} are given: "
            f"part {missing[0] + 1} is missing"
        )
    for index, part in enumerate(files[1:], 1):
        first._add_part(part, index, count)
    first._end_parts()
    return first


def _part_names(path: Path, count: int) -> list[str]:
    """The names of the files of a model in `count` files, one of which is `path`."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    return [f"{stem}-{index + 1:05}-of-{count:05}{path.suffix}" for index in range(count)]
