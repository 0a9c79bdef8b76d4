"""Batches and jobs on Ray, started on this machine: the results are those of one process, also when
a process is killed or a node is lost meanwhile."""

from __future__ import annotations

import threading
import time
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
from sparsefire.batch import Embedder, Generator, Scorer, close_models, read_parts, run_job
from sparsefire.batch.processor import (
    ERROR,
    InferenceError,
    ProcessorConfig,
    Stage,
    build_processor,
)
from sparsefire.errors import ArgumentError, BackendError, ModelFileError

try:
    import pyarrow as pa
    import ray
    from ray.cluster_utils import Cluster
except ImportError as error:
    missing(f"{error}; pip install 'sparsefire[ray]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 1 << 27}


@pytest.fixture(scope="module")
def texts() -> Iterator[list[str]]:
    yield [row["generated_text"] for row in Generator(**GREEDY)(FEW)]
    close_models()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one processor each, whose processes find the modules of the tests: by their
    environment, since Ray would start processes of its own for each `runtime_env`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            nodes.add_node(**NODE)
            ray.init(address=nodes.address, log_to_driver=False)
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def test_data(cluster: Cluster) -> None:
    columns = {"text": "prompt"}
    dataset = ray.data.from_items(ROWS).map_batches(
        Embedder,
        fn_constructor_kwargs={"columns": columns, "threads": 1},
        batch_format="numpy",
        batch_size=64,
        concurrency=1,
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    expected = [row["embedding"] for row in Embedder(columns=columns, threads=1)(ROWS)]
    np.testing.assert_array_equal([row["embedding"] for row in found], expected)


def test_processors(cluster: Cluster, texts: list[str]) -> None:
    config = ProcessorConfig(
        apply_chat_template=False, should_continue_on_error=True, batch_size=16, worker_kwargs={}
    )
    process = build_processor(
        config,
        lambda row: {
            "prompt": row["question"],
            "sampling_params": {"max_tokens": 4, "temperature": 0},
        },
        lambda row: {"key": row["key"], "answer": row["generated_text"].upper()},
        postprocess_map_kwargs={"num_cpus": 0.5},
    )
    rows = [{"key": row["id"], "question": row["prompt"]} for row in FEW]
    found = process(ray.data.from_items([*rows, {"key": 999, "question": "a " * 5000}])).take_all()
    found.sort(key=lambda row: row["key"])
    assert [row["answer"] for row in found[:-1]] == [each.upper() for each in texts]
    assert {row[ERROR] for row in found[:-1]} == {""}
    assert "context" in found[-1][ERROR]
    assert found[-1]["question"] == "a " * 5000  # as it is: no postprocessing of what failed


def test_the_tasks_of_processors() -> None:
    rows = [{"prompt": "The people of the United", "context": "War", "continuation": " and peace"}]
    choices = {"choices": [" States", " Nations"]}
    config = ProcessorConfig(task_type="classify", worker_kwargs=choices)
    assert config.worker()(rows)[0]["label"] == "States"
    scored = Scorer(columns={"error": ERROR}, threads=1)(rows)
    stage = Stage(ProcessorConfig(task_type="score").worker(), strict=True)
    assert stage(pa.Table.from_pylist(rows)).column("logprob").to_pylist() == [scored[0]["logprob"]]
    with pytest.raises(InferenceError, match="empty"):
        stage(pa.Table.from_pylist([*rows, {**rows[0], "continuation": None}]))
    assert ProcessorConfig(task_type="score").worker()(rows) == scored
    vector = Embedder(threads=1)([{"text": rows[0]["prompt"]}])[0]["embedding"]
    found = ProcessorConfig(task_type="embed").worker()(rows)[0]["embedding"]
    np.testing.assert_array_equal(found, vector)


def test_configurations_that_cannot_be() -> None:
    for options, words in (
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": (3, 1)}, "least, most"),
        ({"concurrency": (1, 2, 3)}, "least, most"),
        ({"task_type": "rank"}, "task_type"),
        ({"task_type": "classify"}, "choices"),
        ({"worker_kwargs": {"tempature": 0}}, "tempature"),
        ({"worker_kwargs": {"columns": 5}}, "columns"),
    ):
        given: Any = options
        with pytest.raises(ArgumentError, match=words):
            build_processor(ProcessorConfig(**given))


def test_jobs(cluster: Cluster, tmp_path: Path) -> None:
    check_job_with_a_killed_process("ray", tmp_path)
    check_job_on_a_full_disk("ray", tmp_path)
    check_job_with_a_row_that_kills("ray", tmp_path)
    source, worker = str(tmp_path / "rows.jsonl"), Generator("nowhere.gguf", **GREEDY)
    with pytest.raises(ModelFileError, match="nowhere"):
        run_job(worker, source, str(tmp_path / "none"), engine="ray")


def test_shards(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    check_shards("ray", monkeypatch)


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    source = str(write_lines(tmp_path / "rows.jsonl", FEW))
    with pytest.raises(BackendError, match=r"no cluster of Ray at 127\.0\.0\.1:1: .*refused"):
        run_job(Generator(), source, str(tmp_path / "out"), engine="ray", address="127.0.0.1:1")


def test_the_guide(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    run_guide(scope, "ray")
    assert len(scope["texts"]) == 10


def test_a_node_is_lost(cluster: Cluster, tmp_path: Path, texts: list[str]) -> None:
    """Of two, in the middle of a job, whose parts the other one computes again."""
    source, output = write_lines(tmp_path / "rows.jsonl", FEW), tmp_path / "out"
    (lost,) = cluster.worker_nodes
    written: list[Path] = []

    def lose() -> None:
        while not written:
            time.sleep(0.01)
            written.extend(output.glob("part-*"))
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    report = run_job(
        Generator(**GREEDY), str(source), str(output), engine="ray", part_rows=2, workers=2
    )
    thread.join()
    assert 0 < len(written) < 20
    assert (report.rows, report.failed) == (40, 0)
    assert [row["generated_text"] for row in read_parts(str(output))] == texts
