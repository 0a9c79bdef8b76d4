"""The companion of a model: what one kind of calibration writes beside what another one wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..arch import screen as stored
from ..arch.config import SPARSEFIRE_VERSION
from ..gguf.reader import GgufFile
from ..gguf.types import TypedValue, ValueType
from ..gguf.writer import TensorData, Writable, write_gguf


def can_add_limits(path: Path) -> bool:
    """Whether the file is a companion that limits of inputs can be added to, as it has none."""
    if not path.is_file():
        return False
    with GgufFile.open(path, mapped=False) as file:
        return stored.OF_KEY in file.metadata and not stored.has_limits(file)


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
    stay, and the screen's tensors if these are its keys. Errors as `write_gguf`."""
    if keeps and target.is_file():
        with GgufFile.open(target, mapped=False) as before:
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
