"""Workers that fail, for other processes to import."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsefire.batch.settings import OpenedModel
from sparsefire.batch.workers import Answer, Generator, Row


class KilledOnce(Generator):
    """Kills its process at the first row "poison", and notes each batch that it has begun."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        killed = Path(self.folder) / "killed"
        if any(row["prompt"] == "poison" for row in rows) and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._answers(found, rows)
