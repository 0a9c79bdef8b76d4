"""The companion of a model: what one kind of calibration writes beside what another one wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..arch import screen as stored
from ..arch.config import SPARSEFIRE_VERSION
from ..errors import ModelFileError, UnsupportedError
from ..gguf.reader import GgufFile
from ..gguf.types import TypedValue, ValueType
from ..gguf.writer import TensorData, Writable, write_gguf


def can_add(path: Path, has: Callable[[GgufFile], bool], of: str | None = None) -> bool:
    """Whether the file is a companion, of any model or of that with the fingerprint ``of``, to
    which something can be added that it does not have yet."""
    file = _readable(path)
    if file is None:
        return False
    with file:
        found = file.metadata.get(stored.OF_KEY)
        return found is not None and of in (None, found) and not has(file)


def _readable(path: Path) -> GgufFile | None:
    """The file, unless there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        return GgufFile.open(path, mapped=False)
    except (ModelFileError, UnsupportedError):
        return None


def write_companion(
    target: Path,
    architecture: str,
    of: str,
    metadata: dict[str, Any],
    tensors: dict[str, Writable],
    *,
    keeps: str = "",
    force: bool,
) -> None:
    """Writes a companion. Of one that is there for the same model, keys that begin with ``keeps``
    stay, and the screen's tensors if these are its keys; of a damaged one nothing. Errors as
    `write_gguf`."""
    file = _readable(target) if keeps else None
    if file is not None:
        with file as before:
            if before.metadata.get(stored.OF_KEY) == of:
                kept = {
                    key: value
                    for key, value in before.typed_metadata().items()
                    if key.startswith(keeps)
                }
                metadata = kept | metadata
                if keeps == stored.KEYS and stored.has_screen(before):
                    tensors = screen_tensors(before) | tensors
    first = {
        "general.architecture": architecture,
        "sparsefire.version": TypedValue(SPARSEFIRE_VERSION, ValueType("u32")),
        stored.OF_KEY: of,
    }
    write_gguf(target, first | metadata, tensors, force=force)


def screen_tensors(file: GgufFile) -> dict[str, Writable]:
    """The tensors of a file's screen, in memory of their own."""
    return {
        name: TensorData(
            file.tensor(name).format, file.tensor(name).shape, np.array(file.tensor_data(name))
        )
        for name in stored.TENSORS
    }
