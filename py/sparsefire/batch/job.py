"""Jobs over files: rows in, parts with results out, and a rerun does what is not done yet."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from .._options import one_of, positive
from .._progress import Progress
from ..errors import ArgumentError
from ..lm.opening import default_model
from .careful import careful_answers
from .engines import ENGINES, Settings
from .rows import Format, Row, checksum, count_rows, encoded, format_of, parts_of, read_rows
from .store import Folder, expanded, is_url, version_of
from .tables import table_of
from .workers import Worker

PART_ROWS = 1000
_NOTE = "job.json"
_PART = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.(jsonl|parquet)")


class Done(NamedTuple):
    """A part that was written: its number, rows, those of them with an error, and tokens."""

    part: int
    rows: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """A part to be computed and written."""

    worker: Worker
    rows: Sequence[Row]
    index: int
    name: str
    folder: str
    format: Format
    careful: bool = False  # its rows may end the process

    def carefully(self) -> Task:
        """The same, with the rows in another process than that of the task."""
        return replace(self, careful=True)

    def __call__(self) -> Done:
        began = time.process_time()
        answer = functools.partial(careful_answers, self.worker) if self.careful else None
        columns, answers = self.worker.columns_of(table_of(self.rows), answer)
        name = self.worker.columns.get("error", "error")
        for place, row in enumerate(self.rows):
            if set(row) == {"error"}:  # a line that could not be read
                answers[place] = dict(row)
                if name is not None:
                    columns[name].values[place] = row["error"]
        kept = [{k: v for k, v in row.items() if k not in self.worker.drops} for row in self.rows]
        Folder(self.folder).write(self.name, encoded(kept, columns, self.format))

        def total(name: str) -> int:
            return sum(answer.get(name) or 0 for answer in answers)

        return Done(
            self.index,
            len(self.rows),
            sum(answer.get("error") is not None for answer in answers),
            total("prompt_tokens"),
            total("completion_tokens"),
            time.process_time() - began,
        )


@dataclass(frozen=True)
class JobReport:
    """What a job did. `rows` are all that the input has; `skipped_rows` of them were there from an
    earlier run, which the other numbers leave out: `failed` rows have an error, `cpu_seconds` are
    those of all processes."""

    output: str
    rows: int = 0
    skipped_rows: int = 0
    failed: int = 0
    parts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def plus(self, done: Done, seconds: float) -> JobReport:
        """With a further part."""
        return replace(
            self,
            rows=self.rows + done.rows,
            failed=self.failed + done.failed,
            parts=self.parts + 1,
            prompt_tokens=self.prompt_tokens + done.prompt_tokens,
            completion_tokens=self.completion_tokens + done.completion_tokens,
            seconds=seconds,
            cpu_seconds=self.cpu_seconds + done.seconds,
        )

    @property
    def tokens_per_s(self) -> float:
        """Tokens of prompts and results, per second of the job."""
        tokens = self.prompt_tokens + self.completion_tokens
        return tokens / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}


def run_job(
    worker: Worker,
    inputs: str | Sequence[str],
    output: str,
    *,
    engine: str = "local",
    format: str | None = None,
    part_rows: int = PART_ROWS,
    workers: int | None = None,
    address: str | None = None,
    retries: int = 3,
    force: bool = False,
    progress: Progress | None = None,
) -> JobReport:
    """Maps the rows of files and writes them with their results to `output`, a folder, in parts.

    inputs: paths, fsspec URLs or patterns with `*` of JSON lines (.jsonl) and Parquet files.
    format: of the parts, "jsonl" or "parquet"; default: that of the first file.
    engine: "local", "ray" or "dask". workers: processes that work at the same time; by default 1,
      and on a cluster one for each of its processors, or of `threads` of the worker. address: of a
      cluster that runs; by default one is started on this machine.
    part_rows: rows of a part. A part is written when all of its rows are done, in one step, under a
      name with a checksum of its rows and of the settings: it is there complete, or not at all.
    retries: how often a part is tried again whose process ended. Then its rows are computed in a
      process of their own, and those that end it get an error. (In a job of this process alone,
      they end the job.)
    force: removes the parts of a job with other settings that are in `output`.

    A rerun computes the parts that are not there. Errors: `ArgumentError` (no input, `output` holds
    another job), those of `Model.load`, `BackendError` (a package is missing, processes end that
    have no rows), OSError. What is done until then stays.
    """
    files = [file for each in _listed(inputs) for file in expanded(each)]
    chosen: Any = one_of("jsonl", "parquet")(format or format_of(files[0]), "format")
    positive(part_rows, "part_rows")
    start = ENGINES[one_of(*ENGINES)(engine, "engine")]
    settings = {**worker.description(), "model_file": _identity(worker.settings.model)}
    folder = Folder(output)
    folder.make()
    key = _claim(folder, settings, force)
    there = {match[0]: match for each in folder.names() if (match := _PART.fullmatch(each))}
    total = sum(map(count_rows, files)) if progress is not None else 0
    report, expected = JobReport(output), set[str]()
    began = time.perf_counter()

    def tasks() -> Iterator[Task]:
        nonlocal report
        for index, rows in enumerate(parts_of(files, part_rows)):
            name = f"part-{index:06}-{checksum([key, rows])}.{chosen}"
            expected.add(name)
            if name in there:
                report = replace(
                    report,
                    rows=report.rows + len(rows),
                    skipped_rows=report.skipped_rows + len(rows),
                )
            else:
                yield Task(sent, rows, index, name, folder.place, chosen)

    sent = worker.on(engine, workers)
    cluster = Settings(workers, address, retries, sent.settings.threads)
    for done in start(tasks(), cluster):
        report = report.plus(done, time.perf_counter() - began)
        if progress is not None:
            speed = f"{report.tokens_per_s:.0f} tokens/s"
            said = f"{report.rows:,} rows, {report.failed:,} errors, {speed}"
            progress(said, report.rows / max(total, 1))
    for name in set(there) - expected:  # of rows that are no longer so
        folder.remove(name)
    return report


def _listed(inputs: str | Sequence[str]) -> list[str]:
    return [inputs] if isinstance(inputs, (str, Path)) else list(inputs)


def _identity(model: str | None) -> Any:
    """What tells a model file from another one under its name: its size, and when it changed."""
    if model is not None and is_url(model):
        return version_of(model.partition("#")[0])[1]
    file = default_model() if model is None else Path(model)
    return [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else None


def _claim(folder: Folder, settings: Mapping[str, Any], force: bool) -> str:
    """The checksum of the settings, which the folder is for from now on."""
    key = checksum(settings)
    names = folder.names()
    if _NOTE in names:
        if json.loads(folder.read(_NOTE))["checksum"] == key:
            return key
        if not force:
            raise ArgumentError(
                f"{folder.place}: holds a job with other settings, see its {_NOTE}; choose another "
                "folder, or --force (force=True) to replace it"
            )
        for name in filter(_PART.fullmatch, names):
            folder.remove(name)
    elif any(map(_PART.fullmatch, names)) and not force:
        raise ArgumentError(f"{folder.place}: holds parts, but no {_NOTE}")
    note = {"checksum": key, "settings": settings}
    folder.write(_NOTE, f"{json.dumps(note, indent=1, default=str)}\n".encode())
    return key


def read_parts(output: str) -> Iterator[Row]:
    """The rows of a job's parts, in the order of its input."""
    folder = Folder(output)
    for name in filter(_PART.fullmatch, folder.names()):
        yield from read_rows(f"{folder.place}/{name}")
