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
from .rows import (
    Format,
    Part,
    Row,
    Unreadable,
    arrow,
    checksum,
    count_rows,
    encoded,
    format_of,
    parts_of,
    read_rows,
)
from .store import Folder, expanded, is_url, version_of
from .tables import table_of
from .workers import Worker

PART_ROWS = 1000
_NOTE = "job.json"
_PART = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.(jsonl|parquet)")


class Done(NamedTuple):
    """A part that was written: its number, rows, those of them with an error, the first of these
    errors, and tokens."""

    part: int
    rows: int
    failed: int
    first_error: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """A part to be computed and written."""

    worker: Worker
    given: Part
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
        rows, drops = self.given.rows, self.worker.drops
        answer = functools.partial(careful_answers, self.worker) if self.careful else None
        columns, answers = self.worker.columns_of(table_of(rows), answer)
        name = self.worker.columns.get("error", "error")
        for place, row in enumerate(rows):
            if isinstance(row, Unreadable):
                answers[place] = row
                if name is not None:
                    columns[name].values[place] = row["error"]
        kept = [
            {} if isinstance(row, Unreadable) else {k: v for k, v in row.items() if k not in drops}
            for row in rows
        ]
        done = self.given._replace(rows=kept)
        Folder(self.folder).write(self.name, encoded(done, columns, self.format))

        errors = [each["error"] for each in answers if each.get("error") is not None]

        def total(name: str) -> int:
            return sum(answer.get(name) or 0 for answer in answers)

        return Done(
            self.index,
            len(rows),
            len(errors),
            errors[0] if errors else None,
            total("prompt_tokens"),
            total("completion_tokens"),
            time.process_time() - began,
        )


@dataclass(frozen=True)
class JobReport:
    """What a job did. `rows` are all that the input has; `skipped_rows` of them were there from an
    earlier run, which the other numbers leave out: `failed` rows have an error, such as
    `first_error`, `cpu_seconds` are those of all processes."""

    output: str
    rows: int = 0
    skipped_rows: int = 0
    failed: int = 0
    parts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_error: str | None = None

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
            first_error=self.first_error or done.first_error,
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

    inputs: paths, fsspec URLs or patterns with `*` of JSON lines (.jsonl, .jsonl.gz) and Parquet
      files, each of which is read once, or folders of them. Parts in `output` are no input.
    format: of the parts, "jsonl" or "parquet"; default: that of the first file.
    engine: "local", "ray" or "dask". workers: processes that work at the same time; by default 1,
      and on a cluster one for each of its processors, or of `threads` of the worker. address: of a
      cluster; by default that of this process or machine is used, or else one is started here.
    part_rows: rows of a part. A part is written when all of its rows are done, in one step, under a
      name with a checksum of its rows and of the settings: it is there complete, or not at all.
    retries: how often a part is tried again whose process ended. Then its rows are computed in a
      process of their own, and those that end it get an error. (In a job of this process alone,
      they end the job.)
    force: removes parts of other settings, and of files that are no longer input.

    A rerun computes the parts that are not there; the input may have further files, and files with
    other rows. Errors: `ArgumentError` (no input, a file that is not what its name says, `output`
    holds another job), those of `Model.load`, `BackendError` (a package is missing, processes end
    that have no rows), OSError. What is done until then stays.
    """
    folder = Folder(output)
    files = _files(inputs, folder)
    chosen: Any = one_of("jsonl", "parquet")(format or format_of(files[0]), "format")
    if chosen == "parquet":
        arrow()  # so that it is not missed when a part is done
    positive(part_rows, "part_rows")
    start = ENGINES[one_of(*ENGINES)(engine, "engine")]
    settings = {
        **worker.description(),
        "model_file": _identity(worker.settings.model),
        "part_rows": part_rows,
        "format": chosen,
    }
    folder.make()
    note = _claim(folder, settings, files, force)
    there = _parts(folder)
    by_rows = {same: name for name, same in there.items()}
    total = sum(map(count_rows, files)) if progress is not None else 0
    report, expected = JobReport(output), set[str]()
    began = time.perf_counter()

    def tasks() -> Iterator[Task]:
        nonlocal report
        for index, part in enumerate(parts_of(files, part_rows)):
            same, count = checksum([note.checksum, part.rows]), len(part.rows)
            name = f"part-{index:06}-{same}.{chosen}"
            expected.add(name)
            if name not in there and same in by_rows:  # under another number
                folder.write(name, folder.read(by_rows[same]))
            if same in by_rows:
                skipped = report.skipped_rows + count
                report = replace(report, rows=report.rows + count, skipped_rows=skipped)
            else:
                yield Task(sent, part, index, name, folder.place, chosen)

    sent = worker.on(engine, workers)
    cluster = Settings(workers, address, retries, sent.settings.threads)
    for done in start(tasks(), cluster):
        report = report.plus(done, time.perf_counter() - began)
        if progress is not None:
            speed = f"{report.tokens_per_s:.0f} tokens/s"
            said = f"{report.rows:,} rows, {report.failed:,} errors, {speed}"
            progress(said, report.rows / max(total, 1))
    if _noted(folder) != note:
        raise ArgumentError(f"{folder.place}: another job has begun in it meanwhile")
    for name in set(_parts(folder)) - expected:  # of rows that are no longer so
        folder.remove(name)
    return report


def _files(inputs: str | Sequence[str], output: Folder) -> list[str]:
    """The files of the input, without those of the output, and without what jobs say of theirs."""
    listed = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    found = dict.fromkeys(file for each in listed for file in expanded(str(each)))
    files = [each for each in found if not output.holds(each) and Path(each).name != _NOTE]
    if not files:
        raise ArgumentError(f"{output.place}: the output is the input; choose another folder")
    return files


def _identity(model: str | None) -> Any:
    """What tells a model file from another one under its name: its size, and when it changed."""
    if model is not None and is_url(model):
        return version_of(model.partition("#")[0])[1]
    file = default_model() if model is None else Path(model)
    return [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else None


def _parts(folder: Folder) -> dict[str, str]:
    """The parts that are there, and the checksum of each, in their order."""
    return {match[0]: match[2] for each in folder.names() if (match := _PART.fullmatch(each))}


class _Note(NamedTuple):
    """What a folder is for: the checksum of a job's settings, and its files."""

    checksum: str
    files: list[str]


def _claim(folder: Folder, settings: Mapping[str, Any], files: list[str], force: bool) -> _Note:
    """Makes a folder one for these settings and files."""
    files = [each if is_url(each) else str(Path(each).absolute()) for each in files]
    note, instead = _Note(checksum(settings), files), "choose another folder, or --force"
    parts = _parts(folder)
    if _NOTE in folder.names():
        before = _noted(folder)
        gone = sorted({*before.files} - {*files})
        if before.checksum != note.checksum and parts and not force:
            raise ArgumentError(
                f"{folder.place}: holds a job with other settings, see its {_NOTE}; {instead} "
                "(force=True) to replace it"
            )
        if gone and parts and not force:
            raise ArgumentError(
                f"{folder.place}: holds results of {gone[0]}, which is not in the input; name it, "
                f"too, {instead} (force=True) to remove them"
            )
        if before.checksum != note.checksum:
            for name in parts:
                folder.remove(name)
    elif parts and not force:
        raise ArgumentError(f"{folder.place}: holds parts, but no {_NOTE}; {instead} (force=True)")
    kept = {"checksum": note.checksum, "settings": settings, "files": files}
    folder.write(_NOTE, f"{json.dumps(kept, indent=1, default=str)}\n".encode())
    return note


def _noted(folder: Folder) -> _Note:
    """What the job's file in a folder says."""
    try:
        note = json.loads(folder.read(_NOTE))
        return _Note(str(note["checksum"]), list(note["files"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"{folder.place}/{_NOTE}: is not a job's ({error!r})") from error


def read_parts(output: str) -> Iterator[Row]:
    """The rows of a job's parts, in the order of its input."""
    folder = Folder(output)
    for name in _parts(folder):
        yield from read_rows(f"{folder.place}/{name}")
