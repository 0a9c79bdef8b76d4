"""The request queue of one model, and the thread that processes it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import SparsefireError
from ..lm.generation import Cancel

Work = Callable[[Cancel], Iterator[dict[str, Any]]]


class QueueFullError(SparsefireError):
    """The request queue is full."""


class ShuttingDownError(SparsefireError):
    """The server is shutting down."""


class TimeLimitError(SparsefireError):
    """A request reached its time limit before there was an answer."""


class Job:
    """Work for the model's thread. `next` returns what it yields, in the event loop that created
    the job."""

    def __init__(self, queue: ModelQueue, work: Work, seconds: float) -> None:
        self.cancel = Cancel(seconds)
        self._queue = queue
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self._timer = self._loop.call_later(seconds, self._expire)

    async def next(self) -> dict[str, Any] | None:
        """The next result, None after the last. Exceptions of the work are raised here."""
        result = await self._results.get()
        if isinstance(result, Exception):
            raise result
        return result

    def abandon(self) -> None:
        """Cancels the job: running work stops soon, waiting work never starts."""
        self._timer.cancel()
        self.cancel.cancel()
        if self._queue.forget(self):
            self._results.put_nowait(None)

    def refuse(self, error: SparsefireError) -> None:
        """Fails a waiting job with this error."""
        if self._queue.forget(self):
            self._results.put_nowait(error)

    def _expire(self) -> None:
        self.refuse(TimeLimitError("the request waited for its turn until its time was over"))

    def run(self) -> None:
        """Does the work, in the model's thread."""
        try:
            for result in self._work(self.cancel):
                self._post(result)
            self._post(None)
        except Exception as error:
            self._post(error)

    def _post(self, result: dict[str, Any] | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._results.put_nowait, result)
        except RuntimeError:  # the loop is closed, so nobody is waiting
            self.cancel.cancel()


class ModelQueue:
    """First come, first served, one at a time in one thread. At most `length` jobs wait.

    `running` is 1 while a job runs; `busy_seconds` adds up how long jobs ran.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._current: Job | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self.busy_seconds = 0.0

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many jobs run, 0 or 1."""
        return int(self._current is not None)

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._serve, name="sparsefire-model", daemon=True)
        self._thread.start()

    def submit(self, work: Work, seconds: float) -> Job:
        """Queues a job with a time limit in seconds, queueing included. Must be called in an event
        loop. Raises `QueueFullError`, `ShuttingDownError`."""
        with self._changed:
            if self._closed:
                raise ShuttingDownError("the server is shutting down")
            # A job that can start immediately does not count as waiting.
            if len(self._waiting) - (self._current is None) >= self._length:
                raise QueueFullError(f"the queue is full ({self._length} waiting); try again later")
            job = Job(self, work, seconds)
            self._waiting.append(job)
            self._changed.notify()
            return job

    def forget(self, job: Job) -> bool:
        """Removes a job from the queue; false if it is not waiting."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                job = self._current = self._waiting.popleft()
            started = time.monotonic()
            job.run()
            self.busy_seconds += time.monotonic() - started

    def stop(self) -> None:
        """Stops the running job with the reason "shutdown" and fails waiting ones. Must be called
        in the event loop. Stopping twice is allowed."""
        with self._changed:
            self._closed = True
            if self._current is not None:
                self._current.cancel.cancel("shutdown")
            self._changed.notify()
        for job in list(self._waiting):
            job.refuse(ShuttingDownError("the server is shutting down"))

    def join(self) -> None:
        """Waits for the thread to exit, after `stop`."""
        if self._thread is not None:
            self._thread.join()
