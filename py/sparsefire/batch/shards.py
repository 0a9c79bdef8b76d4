"""What is measured on an engine and put together in memory: the inputs of calibration and
perplexity, window by window of a text, and the answers of rows. They do not depend on each other
and are put together in their order, so that the whole is what one process gives, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._options import one_of
from .._progress import Progress
from ..calibrate.samples import Recorder, recorder_of
from ..errors import ArgumentError
from ..lm.scoring import TextLoss, perplexity_of, windows_of
from .engines import ENGINES, Settings
from .settings import ModelSettings, opened
from .workers import Answer, Row, Worker

_SHARD_TOKENS = 1 << 14  # of a task
_SHARD_ROWS = 64


@dataclass(frozen=True)
class _Recording:
    """Records the FFN inputs of some windows."""

    settings: ModelSettings
    place: int
    windows: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.intp]

    def __call__(self) -> tuple[int, npt.NDArray[np.float32]]:
        with opened(self.settings) as found:
            record = recorder_of(found.model)
            return self.place, record(self.windows, self.tokens, lambda _share: None)


@dataclass(frozen=True)
class _Losses:
    """The loss of some windows, each with the number of tokens that it scores."""

    settings: ModelSettings
    place: int
    windows: Sequence[npt.NDArray[np.int32]]

    def __call__(self) -> tuple[int, list[tuple[float, int]]]:
        mode = self.settings.mode
        with opened(self.settings) as found:
            measured = [found.model.perplexity(each, mode=mode) for each in self.windows]
        return self.place, [(each.total, each.n_scored) for each in measured]


@dataclass(frozen=True)
class _Answers:
    """Answers some rows."""

    worker: Worker
    place: int
    rows: Sequence[Row]

    def __call__(self) -> tuple[int, list[Answer]]:
        return self.place, self.worker.answers(self.rows)


def _collected(
    tasks: Sequence[Callable[[], Any]],
    engine: str,
    settings: Settings,
    announce: Callable[[float], object],
) -> list[Any]:
    """The results of tasks in their order, each of which says its place."""
    results: dict[int, Any] = {}
    start = ENGINES[one_of(*ENGINES)(engine, "engine")]
    for place, result in start(iter(tasks), settings):
        results[place] = result
        announce(len(results) / len(tasks))
    return [results[place] for place in range(len(tasks))]


def recorder(
    model: str | None = None,
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    retries: int = 3,
    **settings: Any,
) -> Recorder:
    """For `calibrate_model`: runs the text through the model on an engine, see `run_job`, and
    gives the same bits as one process. model, settings: see `ModelSettings`; the same file,
    `activation` and `pre` as `calibrate_model` is given.

    What is recorded comes back to the calling process, which fits the predictors.
    """
    wanted = ModelSettings(model, **settings).on(engine, workers)
    cluster = Settings(workers, address, retries, wanted.threads)

    def record(
        windows: npt.NDArray[np.int32],
        tokens: npt.NDArray[np.intp],
        announce: Callable[[float], object],
    ) -> npt.NDArray[np.float32]:
        tasks = [
            _Recording(wanted, place, windows[shard], tokens[shard])
            for place, shard in enumerate(_shards(len(windows), windows.shape[1]))
        ]
        return np.concatenate(_collected(tasks, engine, cluster, announce))

    return record


def _shards(windows: int, length: int) -> Iterator[slice]:
    """Windows of about `_SHARD_TOKENS` tokens each."""
    step = max(1, _SHARD_TOKENS // length)
    for start in range(0, windows, step):
        yield slice(start, start + step)


def perplexity(
    text: str,
    model: str | None = None,
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    retries: int = 3,
    progress: Progress | None = None,
    **settings: Any,
) -> TextLoss:
    """`Model.perplexity` on an engine, see `run_job`, with the same number to the last bit. The
    windows are of `context` tokens, one of the `settings`, see `ModelSettings`."""
    wanted = ModelSettings(model, **settings).on(engine, workers)
    with opened(wanted) as found:
        ids = np.array(found.model.tokenize(text, special=False), np.int32)
        windows = [window for _, window in windows_of(ids, found.model.context)]
        length = found.model.context
    if not windows:
        raise ArgumentError(f"perplexity needs 2 tokens or more, the text has {len(ids)}")
    tasks = [
        _Losses(wanted, place, windows[shard])
        for place, shard in enumerate(_shards(len(windows), length))
    ]
    announce = progress or (lambda _what, _share: None)
    cluster = Settings(workers, address, retries, wanted.threads)
    shards = _collected(tasks, engine, cluster, lambda share: announce("reading the text", share))
    loss, scored = 0.0, 0
    for of_window, count in (each for shard in shards for each in shard):
        loss, scored = loss + of_window, scored + count
    return TextLoss(perplexity_of(loss, scored), loss / scored, scored)


def answers(
    worker: Worker,
    rows: Sequence[Row],
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    retries: int = 3,
    progress: Progress | None = None,
) -> list[Answer]:
    """`Worker.answers` on an engine, see `run_job`, for rows and results that fit into memory."""
    sent = worker.on(engine, workers)
    tasks = [
        _Answers(sent, place, rows[start : start + _SHARD_ROWS])
        for place, start in enumerate(range(0, len(rows), _SHARD_ROWS))
    ]
    announce = progress or (lambda _what, _share: None)
    cluster = Settings(workers, address, retries, sent.settings.threads)
    shards = _collected(tasks, engine, cluster, lambda share: announce("answering rows", share))
    return [answer for shard in shards for answer in shard]
