"""Where the parts of a job are computed: in this process, in several, on Ray, or on Dask."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .._options import count, positive
from ..errors import ArgumentError, BackendError

Task = Callable[[], Any]
"""A function that can be pickled. With a method `carefully` it has one in its place, marked as
`careful`, for when its process has ended too often."""
Tasks = Iterator[Task]

_AHEAD = 2  # tasks that wait for each process


@dataclass(frozen=True)
class Settings:
    """Processes, the address of a cluster, how often a task is tried again, and threads of each
    process; None: see `run_job`."""

    workers: int | None = None
    address: str | None = None
    retries: int = 3
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            positive(self.workers, "workers")
        count(self.retries, "retries")


def call(task: Task) -> Any:
    """Computes a task: a function of a module, which engines can send."""
    return task()


def run_local(tasks: Tasks, settings: Settings) -> Iterator[Any]:
    """In this process, or with `workers` in so many others. A process that ends is started anew,
    and what it worked on is done again."""
    if settings.address is not None:
        raise ArgumentError("address: the local engine has none")
    if settings.workers in (None, 1):
        yield from map(call, tasks)
    else:
        yield from _in_processes(tasks, settings.workers or 1, settings.retries)


def _in_processes(tasks: Tasks, workers: int, retries: int) -> Iterator[Any]:
    # Pyodide has no processes, and not these modules.
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    tried: list[tuple[Task, int]] = []  # tasks, and how often their process ended
    again: list[Task] = []
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    while True:
        pending: dict[Future[Any], Task] = {}
        following: list[Task] = []
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_end_with, initargs=(watched,)
        ) as pool:
            try:
                while True:
                    room = _AHEAD * workers - len(pending)
                    following += [again.pop() for _ in range(min(room, len(again)))]
                    following += islice(tasks, room - len(following))
                    while following:
                        pending[pool.submit(call, following[0])] = following[0]
                        del following[0]
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        del pending[future]
                        yield result
            except (KeyboardInterrupt, GeneratorExit):
                held.close()  # nobody waits for what they do
                raise
            except BrokenProcessPool:
                again += [*pending.values(), *following]
        tried = _counted(again, tried, retries)
        again = [task for task, _ in tried]


def _end_with(watched: Any) -> None:
    """Lets this process end when the other end of a pipe is closed, also by the end of the process
    that holds it, by whatever signal: the processes of a pool would wait for work for ever. An
    interrupt from the keyboard is for that process."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            watched.recv()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def _counted(
    ended: Sequence[Task], before: Sequence[tuple[Task, int]], retries: int
) -> list[tuple[Task, int]]:
    """Tasks of processes that have ended, each with how often, or in place of those for which that
    is too often a careful one. Which of them ended the processes is not known: those that are
    careful are blamed last."""
    counts = {id(task): times for task, times in before}
    only_careful = all(_is_careful(task) for task in ended)
    found: list[tuple[Task, int]] = []
    for task in ended:
        times = counts.get(id(task), 0) + 1
        if times > retries and (only_careful or not _is_careful(task)):
            reason = f"a process ended {times} times while it computed a part"
            found.append((_careful(task, reason), 0))
        else:
            found.append((task, times))
    return found


def _is_careful(task: Task) -> bool:
    return getattr(task, "careful", False)


def _careful(task: Task, reason: str) -> Task:
    """A task in place of one whose process ended again and again: it finds out which rows are to
    blame. `BackendError` where there is none."""
    make = getattr(task, "carefully", None)
    if make is None or _is_careful(task):
        raise BackendError(f"{reason}, perhaps for lack of memory")
    careful: Task = make()
    return careful


@contextlib.contextmanager
def _connecting(name: str, address: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each engine has its own
        where = f"at {address}" if address else "here"
        raise BackendError(f"there is no cluster of {name} {where}: {error}") from error


def _check_listening(address: str) -> None:
    """Raises an OSError if nothing answers at HOST:PORT, which Ray would wait for for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def run_ray(tasks: Tasks, settings: Settings) -> Iterator[Any]:
    """As tasks of Ray, which starts them again on other nodes when theirs is lost."""
    try:
        import ray
    except ImportError as error:
        raise BackendError("the engine needs Ray: pip install 'sparsefire[ray]'") from error
    ours, threads = not ray.is_initialized(), settings.threads or 1
    if ours:
        with _connecting("Ray", settings.address):
            _check_listening(settings.address or "")
            ray.init(address=settings.address, log_to_driver=False)
    remote = ray.remote(num_cpus=threads, max_retries=settings.retries)(call).remote
    cores = int(ray.cluster_resources().get("CPU", 1))
    room = _AHEAD * (settings.workers or max(1, cores // threads))
    if settings.workers is not None:
        room = settings.workers
    pending: dict[Any, Task] = {}
    try:
        if ours and settings.address is None and threads > cores:
            raise ArgumentError(f"threads: {threads}; Ray has {cores} processors, and would wait")
        while True:
            pending |= {remote(task): task for task in islice(tasks, room - len(pending))}
            if not pending:
                return
            (done,), _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:  # of its process, or of its node
                task = _careful(task, f"a process of Ray ended again and again: {error}")
                pending[remote(task)] = task
            else:
                yield result
    finally:
        for each in pending:
            ray.cancel(each, force=True)
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def started_dask(workers: int | None) -> Iterator[Any]:
    """A client of so many workers of Dask on this machine, by default one for each processor. They
    have no profiler, which takes about 2 % of them and shows what it finds on a page that these do
    not have, and log no errors, which the caller has."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def run_dask(tasks: Tasks, settings: Settings) -> Iterator[Any]:
    """As tasks of Dask, which starts them again on other workers when theirs is lost."""
    try:
        from distributed import Client, KilledWorker, as_completed, get_client
    except ImportError as error:
        raise BackendError("the engine needs Dask: pip install 'sparsefire[dask]'") from error
    with contextlib.ExitStack() as stack:
        client = None
        if settings.address is not None:
            with _connecting("Dask", settings.address):
                client = stack.enter_context(Client(settings.address))
        else:
            with contextlib.suppress(ValueError):  # there is none yet
                client = get_client()
        if client is None:
            client = stack.enter_context(started_dask(settings.workers))
        room = _AHEAD * (settings.workers or len(client.nthreads()) or 1)
        retries = settings.retries

        submitted: dict[str, Task] = {}

        def submit(task: Task) -> Any:
            future = client.submit(call, task, pure=False, retries=retries)
            submitted[future.key] = task
            return future

        running = as_completed([submit(task) for task in islice(tasks, room)])
        for future in running:
            task = submitted.pop(future.key)
            try:
                result = future.result()
            except KilledWorker as error:
                task = _careful(task, f"a process of Dask ended again and again: {error}")
                running.add(submit(task))
                continue
            yield result
            for task in islice(tasks, 1):
                running.add(submit(task))


ENGINES: dict[str, Callable[[Tasks, Settings], Iterator[Any]]] = {
    "local": run_local,
    "ray": run_ray,
    "dask": run_dask,
}
