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

import numpy as np
import pytest

from sparsefire.batch import read_parts, run_job, shards, store
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
    """Lets its process write next to nothing of a part after row 20, while there is "no room"."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        write = vars(store)["write_bytes"]

        def limited(path: Path, data: bytes) -> None:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, most))
            try:
                write(path, data)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
                vars(store)["write_bytes"] = write

        if (Path(self.folder) / "no room").exists() and rows[0]["prompt"] >= FEW[20]["prompt"]:
            vars(store)["write_bytes"] = limited
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


def check_shards(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a calibration records, and a perplexity, are those of this process, bit for bit."""
    monkeypatch.setattr(shards, "_SHARD_TOKENS", 200)
    settings: dict[str, Any] = {"context": 64, "threads": 1}
    windows = np.arange(640, dtype=np.int32).reshape(10, 64) % 256
    tokens = np.tile(np.arange(0, 64, 4), (10, 1))
    found, expected = (
        shards.recorder(engine=each, **settings)(windows, tokens, lambda _share: None)
        for each in (engine, "local")
    )
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    text = " ".join(row["prompt"] for row in FEW)
    losses = [shards.perplexity(text, engine=each, **settings) for each in (engine, "local")]
    assert losses[0] == losses[1]
    assert losses[0].n_scored > 200


def run_guide(scope: dict[str, Any], engine: str = "") -> None:
    """Runs the blocks of the guide that need no engine, and those of one, in their order."""
    text = GUIDE.read_text(encoding="utf-8")
    for kind, block in re.findall(r"```python( \w+)?\n(.*?)```", text, re.DOTALL):
        if kind.strip() in ("", engine):
            exec(block, scope)
