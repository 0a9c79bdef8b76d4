"""Writing files in one step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Gives the path of a new file beside ``target``, and moves what was written there to
    ``target`` when the context ends; after an error neither file is left or changed. The caller
    flushes its file to disk (`os.fsync`) before the context ends."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_json(target: Path, value: object) -> None:
    """Writes a JSON file in one step. Errors: OSError."""
    with replaced(target) as part, part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())
