"""Where the parts of a job are computed: in this process, in several, on Ray, or on Dask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import ArgumentError, BackendError

Tasks = Iterator[Callable[[], Any]]

_AHEAD = 2  # tasks that wait for each process


@dataclass(frozen=True)
class Settings:
    """Processes, the address of a cluster, how often a task is tried again, and threads of each
    process; None: see `run_job`."""

    workers: int | None = None
    address: str | None = None
    retries: int = 3
    threads: int | None = None


def call(task: Callable[[], Any]) -> Any:
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

    tried: dict[int, int] = {}
    again: list[Callable[[], Any]] = []
    while True:
        pending: dict[Future[Any], Callable[[], Any]] = {}
        following: list[Callable[[], Any]] = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                while True:
                    room = _AHEAD * workers - len(pending)
                    following += [again.pop() for _ in range(min(room, len(again)))]
                    following += islice(tasks, room - len(following))
                    while following:
                        pending[pool.submit(call, following[-1])] = following[-1]
                        following.pop()
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        del pending[future]
                        yield result
            except BrokenProcessPool:
                again += [*pending.values(), *following]
        for task in again:
            tried[id(task)] = tried.get(id(task), 0) + 1
            if tried[id(task)] > retries:
                raise BackendError(
                    f"a process ended {tried[id(task)]} times while it computed a part, perhaps "
                    "for lack of memory"
                )


def run_ray(tasks: Tasks, settings: Settings) -> Iterator[Any]:
    """As tasks of Ray, which starts them again on other nodes when theirs is lost."""
    try:
        import ray
    except ImportError as error:
        raise BackendError("the engine needs Ray: pip install 'sparsefire[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=settings.address, log_to_driver=False)
    threads = settings.threads or 1
    remote = ray.remote(num_cpus=threads, max_retries=settings.retries)(call)
    cores = int(ray.cluster_resources().get("CPU", 1))
    room = _AHEAD * (settings.workers or max(1, cores // threads))
    if settings.workers is not None:
        room = settings.workers
    pending: list[Any] = []
    try:
        while True:
            pending += [remote.remote(task) for task in islice(tasks, room - len(pending))]
            if not pending:
                return
            done, pending = ray.wait(pending, num_returns=1)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.WorkerCrashedError as error:
                raise BackendError(f"a process of Ray ended again and again: {error}") from error
    finally:
        for each in pending:
            ray.cancel(each, force=True)
        if ours:
            ray.shutdown()


def run_dask(tasks: Tasks, settings: Settings) -> Iterator[Any]:
    """As tasks of Dask, which starts them again on other workers when theirs is lost."""
    try:
        from distributed import Client, KilledWorker, LocalCluster, as_completed, get_client
    except ImportError as error:
        raise BackendError("the engine needs Dask: pip install 'sparsefire[dask]'") from error
    with contextlib.ExitStack() as stack:
        client = None
        if settings.address is not None:
            client = stack.enter_context(Client(settings.address))
        else:
            with contextlib.suppress(ValueError):  # there is none yet
                client = get_client()
        if client is None:
            cluster = LocalCluster(
                n_workers=settings.workers, threads_per_worker=1, dashboard_address=None
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        room = _AHEAD * (settings.workers or len(client.nthreads()) or 1)
        retries = settings.retries

        def submitted(count: int) -> list[Any]:
            return [
                client.submit(call, task, pure=False, retries=retries)
                for task in islice(tasks, count)
            ]

        running = as_completed(submitted(room))
        for future in running:
            try:
                yield future.result()
            except KilledWorker as error:
                raise BackendError(f"a process of Dask ended again and again: {error}") from error
            for following in submitted(1):
                running.add(following)


ENGINES: dict[str, Callable[[Tasks, Settings], Iterator[Any]]] = {
    "local": run_local,
    "ray": run_ray,
    "dask": run_dask,
}
