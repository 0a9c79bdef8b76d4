"""Answers of rows that may end the process that works on them: in a child process, whose rows are
halved until those that end it are found."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from ..errors import BackendError
from .workers import Answer, Row, Worker


def careful_answers(worker: Worker, rows: Sequence[Row]) -> list[Answer]:
    """`Worker.answers`, with an error for each row that ends a process. Errors: those of
    `Worker.answers`; `BackendError` if a process ends that has no rows at all."""
    found, status = _in_child(worker, rows)
    if found is not None:
        return found
    if not rows:
        raise BackendError(f"a process that loads the model ends with status {status}")
    if len(rows) == 1:
        careful_answers(worker, [])
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return [{"error": f"BackendError: the process ended ({how}) while it worked on this row"}]
    middle = len(rows) // 2
    return [*careful_answers(worker, rows[:middle]), *careful_answers(worker, rows[middle:])]


def _in_child(worker: Worker, rows: Sequence[Row]) -> tuple[list[Answer] | None, int]:
    """What a child process answers, None if it ends before, and its exit status."""
    given = pickle.dumps(sys.path) + pickle.dumps((worker, rows))
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, env=_environment())
    if done.returncode != 0:
        return None, done.returncode
    found, error = pickle.loads(done.stdout)
    if error is not None:
        raise error
    return found, 0


def _environment() -> dict[str, str]:
    """In which the child finds this package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}


def _main() -> None:
    """Of a child process: reads a worker and rows from standard input, and writes their answers, or
    the error instead of them, to standard output, on which nothing else is to be."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path[:] = pickle.load(sys.stdin.buffer)
    worker, rows = pickle.load(sys.stdin.buffer)
    found: list[Answer] | None = None
    raised: Exception | None = None
    try:
        found = worker.answers(rows)
    except Exception as error:
        raised = error
    with answer:
        pickle.dump((found, raised), answer)


if __name__ == "__main__":
    _main()
