"""A worker that kills its process, for others to import; and what all engines have to do."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparsefire.batch import read_parts, run_job
from sparsefire.batch.settings import OpenedModel
from sparsefire.batch.workers import Answer, Generator, Row

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "batch.md"
GREEDY: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "threads": 1}
ROWS = [{"id": place, "prompt": f"In the year {1800 + place}, the"} for place in range(300)]
FEW = ROWS[:40]


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


class Killed(Generator):
    """Is killed by every row "poison", like a process that has no memory left."""

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        if any(row["prompt"] == "poison" for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._answers(found, rows)


class OnFullDisk(Generator):
    """Lets its process write next to nothing after row 20, while there is "no room"."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        full = (Path(self.folder) / "no room").exists()
        late = rows[0]["prompt"] >= FEW[20]["prompt"]
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 if full and late else most, most))
        return super()._answers(found, rows)


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    """Writes rows as JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def check_job_with_a_killed_process(engine: str, folder: Path) -> None:
    """A job whose process is killed once has every row once, and as one process computes it."""
    rows = [*FEW[:15], {"id": 999, "prompt": "poison"}, *FEW[15:]]
    source, output = str(write_lines(folder / "rows.jsonl", rows)), str(folder / "out")
    worker = KilledOnce(str(folder), **GREEDY)
    report = run_job(worker, source, output, engine=engine, part_rows=10, workers=2)
    assert (folder / "killed").exists()
    assert (report.rows, report.failed, report.parts) == (41, 0, 5)
    assert list(read_parts(output)) == Generator(**GREEDY)(rows)
    assert run_job(worker, source, output, engine=engine, part_rows=10).skipped_rows == 41


def check_job_with_a_row_that_kills(engine: str, folder: Path) -> None:
    """A job in which a row kills every process has all others, and an error in place of that."""
    rows = [*FEW[:2], {"id": 999, "prompt": "poison"}, *FEW[2:4]]
    source, output = str(write_lines(folder / "rows.jsonl", rows)), str(folder / "poisoned")
    options: dict[str, Any] = {"engine": engine, "part_rows": 2, "workers": 2, "retries": 0}
    report = run_job(Killed(**GREEDY), source, output, **options)
    assert (report.rows, report.failed, report.parts) == (5, 1, 3)
    found = list(read_parts(output))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert "signal 9" in found.pop(2)["error"]
    assert found == Generator(**GREEDY)(FEW[:4])


def check_job_on_a_full_disk(engine: str, folder: Path) -> None:
    """A job whose processes cannot write ends, leaves no half files, and goes on later."""
    source, output = str(write_lines(folder / "rows.jsonl", FEW)), folder / "full"
    worker = OnFullDisk(str(folder), **GREEDY)
    full = folder / "no room"
    full.touch()
    with pytest.raises(OSError, match="too large"):
        run_job(worker, source, str(output), engine=engine, part_rows=10, workers=2, retries=0)
    full.unlink()
    names = {each.name for each in output.iterdir()}
    assert all(name == "job.json" or name.startswith("part-00000") for name in names)
    assert "part-000002" not in " ".join(names)
    report = run_job(worker, source, str(output), engine=engine, part_rows=10)
    assert report.rows == 40
    assert list(read_parts(str(output))) == Generator(**GREEDY)(FEW)


def run_guide(scope: dict[str, Any], engine: str = "") -> None:
    """Runs the blocks of the guide that need no engine, and those of one, in their order."""
    text = GUIDE.read_text(encoding="utf-8")
    for kind, block in re.findall(r"```python( \w+)?\n(.*?)```", text, re.DOTALL):
        if kind.strip() in ("", engine):
            exec(block, scope)
