"""Batches and jobs on Dask, started on this machine: the results are those of one process, also
when a process is killed meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_workers import (
    FEW,
    GREEDY,
    ROWS,
    check_job_on_a_full_disk,
    check_job_with_a_killed_process,
    check_job_with_a_row_that_kills,
    check_shards,
    run_guide,
    write_lines,
)
from conftest import ROOT, missing
from sparsefire.batch import Embedder, Generator, close_models, run_job
from sparsefire.errors import BackendError

try:
    import dask.bag
    import pandas as pd
    from distributed import Client, LocalCluster
except ImportError as error:
    missing(f"{error}; pip install 'sparsefire[dask]' pandas")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask


@pytest.fixture(scope="module", autouse=True)
def _models() -> Iterator[None]:
    yield
    close_models()


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(sys.path.append, str(ROOT / "tests"))
        yield client


def test_collections(dask_client: Client) -> None:
    worker = Embedder(columns={"text": "prompt"}, threads=1)
    bag = dask.bag.from_sequence(ROWS, npartitions=4)
    found = bag.map_partitions(lambda rows: worker(list(rows))).compute()
    expected = [row["embedding"] for row in worker(ROWS)]
    np.testing.assert_array_equal([row["embedding"] for row in found], expected)
    generate = Generator(**GREEDY)
    frames = dask_client.map(generate, [pd.DataFrame(FEW[:20]), pd.DataFrame(FEW[20:])])
    framed = pd.concat(dask_client.gather(frames))
    assert framed["generated_text"].tolist() == [row["generated_text"] for row in generate(FEW)]


def test_jobs(dask_client: Client, tmp_path: Path) -> None:
    check_job_with_a_killed_process("dask", tmp_path)
    check_job_on_a_full_disk("dask", tmp_path)
    scheduler = dask_client.cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    check_job_with_a_row_that_kills("dask", tmp_path)
    scheduler.allowed_failures = allowed


def test_shards(dask_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    check_shards("dask", monkeypatch)


def test_no_cluster(tmp_path: Path) -> None:
    source = str(write_lines(tmp_path / "rows.jsonl", FEW))
    for address in ("nonsense://host", "tcp://127.0.0.1"):
        with pytest.raises(BackendError, match=f"no cluster of Dask at {address}"):
            run_job(Generator(), source, str(tmp_path / "out"), engine="dask", address=address)


def test_the_guide(dask_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    run_guide(scope, "dask")
    assert len(scope["found"]) == 10
