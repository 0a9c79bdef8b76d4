"""The screen of the output matrix in model files: a low-rank approximation of the logits, and how
many rows are computed exactly. It is in the model's file, or in a companion file beside it, as may
be limits of inputs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._shown import shown_value
from ..errors import ModelFileError, UnsupportedError
from ..gguf.reader import GgufFile
from ..weights.formats import weight_format

P, Q, BIAS = "output_screen_p.weight", "output_screen_q.weight", "output_screen.bias"
TENSORS = (P, Q, BIAS)
KEYS = "sparsefire.head."  # how the keys of a screen begin
ROWS_KEY = f"{KEYS}rows"
INPUT_KEYS = "sparsefire.inputs."  # how those of limits of inputs begin, see `arch.inputs`
NAMES_KEY, LIMITS_KEY = f"{INPUT_KEYS}tensors", f"{INPUT_KEYS}limits"
OF_KEY = "sparsefire.companion.of"  # in a companion: the `fingerprint` of its model

COPY_BITS = 8  # of a weight of an output matrix that has a copy; with fewer, that saves nothing
COPY_BLOCK = 32  # columns of the copy with a bound of their own

_SAMPLE = 64  # bytes of each tensor that tell models apart


@dataclass(frozen=True)
class Screen:
    """Scores (vocab) = Q · P · x + bias stand for the logits, but for the ``rows`` largest, which
    are computed exactly. P (rank, d), Q (vocab, rank)."""

    rank: int
    rows: int


def has_screen(file: GgufFile) -> bool:
    """Whether the file has one, or a part of one."""
    return ROWS_KEY in file.metadata or any(name in file.tensors for name in TENSORS)


def has_limits(file: GgufFile) -> bool:
    """Whether the file has limits, or a part of them."""
    return NAMES_KEY in file.metadata or LIMITS_KEY in file.metadata


def can_copy(format: str, columns: int) -> bool:
    """Whether an output matrix may have a copy in fewer bits, see `sparsefire.ffn.bounded`."""
    return weight_format(format).bits_per_weight >= COPY_BITS and columns % COPY_BLOCK == 0


def is_kept(key: str) -> bool:
    """Whether a key of a model's file stays in a new file with other predictors or cutoffs."""
    return key.startswith((KEYS, INPUT_KEYS)) or not key.startswith(("sparsefire.", "split."))


def read_screen(file: GgufFile, vocab: int) -> Screen | None:
    """The screen of a model's file, or None. The shapes of its tensors are checked with the
    others'; `ModelFileError` when one, or the number of rows, is missing or wrong."""
    if not has_screen(file):
        return None
    rows = file.metadata.get(ROWS_KEY)
    if not isinstance(rows, int) or isinstance(rows, bool) or not 1 <= rows <= vocab:
        raise ModelFileError(
            f"{file.name}: key {ROWS_KEY!r} is {shown_value(rows)}, not a number from 1 to "
            f"{vocab}; calibrate the model's head again"
        )
    return Screen(file.tensor(P).shape[0], rows)


def fingerprint(file: GgufFile) -> str:
    """A hash that tells a model from others: its keys, its tensors' shapes and formats and how each
    begins, all but those of a screen. `ModelFileError` if the file cannot be read any more."""
    digest = hashlib.sha256()
    prefix = f"{file.metadata.get('general.architecture')}."
    for key, value in sorted(file.metadata.items()):
        if key.startswith(prefix):
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            digest.update(f"{key}={plain!r}\n".encode())
    for name, info in sorted(file.tensors.items()):
        if name not in TENSORS:
            digest.update(f"{name} {info.shape} {info.format}\n".encode())
            digest.update(file.tensor_beginning(name, _SAMPLE).tobytes())
    return digest.hexdigest()[:32]


def companion_path(model: str | os.PathLike[str]) -> Path:
    """The companion of a model file: NAME.sparsefire.gguf beside NAME.gguf."""
    path = Path(model)
    stem = path.stem if path.suffix == ".gguf" else path.name
    return path.with_name(f"{stem}.sparsefire.gguf")


def attach_companion(
    file: GgufFile,
    mapped: bool,
    path: Path | None = None,
    *,
    screen: bool = True,
    inputs: bool = True,
) -> None:
    """Adds what is wanted of a companion, by default that beside the model's first file, if there
    is one: the screen, unless the model has one of its own, and the limits of inputs, likewise.
    `ModelFileError` when it is another model's."""
    screen, inputs = screen and not has_screen(file), inputs and not has_limits(file)
    if not screen and not inputs:
        return
    if path is None:
        path = companion_path(file.paths[0]) if file.paths else None
        if path is None or not path.is_file():
            return
    try:
        companion = GgufFile.open(path, mapped=mapped)
    except (ModelFileError, UnsupportedError) as error:
        raise type(error)(
            f"{error}. It is the companion of {file.name}, which runs without: remove it, or "
            "calibrate again"
        ) from None
    try:
        screen, inputs = screen and has_screen(companion), inputs and has_limits(companion)
        if not screen and not inputs:
            companion.close()
            return
        if companion.metadata.get(OF_KEY) != fingerprint(file):
            raise ModelFileError(
                f"{companion.name}: the companion of another model than {file.name}, or of another "
                "version of it; calibrate the head or the inputs again, remove the companion, or "
                "load the model with a dense head and dense inputs"
            )
        keys = (KEYS,) * screen + (INPUT_KEYS,) * inputs
        file.add(companion, TENSORS if screen else (), keys)
    except BaseException:
        companion.close()
        raise
