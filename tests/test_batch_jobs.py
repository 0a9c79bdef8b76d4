"""Jobs over files: every row once, after whatever happened in between."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_workers import (
    check_job_with_a_killed_process,
    check_job_with_a_row_that_kills,
    run_guide,
    write_lines,
)
from conftest import missing
from sparsefire.batch import (
    Embedder,
    Generator,
    JobReport,
    OpenAILines,
    Scorer,
    close_models,
    read_parts,
    run_job,
    store,
)
from sparsefire.cli import main
from sparsefire.errors import ArgumentError, ModelFileError
from sparsefire.lm.model import Model
from sparsefire.lm.opening import default_model

try:
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    missing(f"{error}; pip install 'sparsefire[batch]'")

GREEDY: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "threads": 1}
ROWS = [{"id": place, "prompt": f"The people of {'the ' * (place % 4)}"} for place in range(25)]


@pytest.fixture(scope="module", autouse=True)
def _models() -> Iterator[None]:
    yield
    close_models()


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Generator(**GREEDY)(ROWS)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "rows.jsonl", ROWS)


def job(source: Path, **options: Any) -> JobReport:
    """A job in parts of 10 rows, in the folder "out" beside its input."""
    output = str(source.parent / "out")
    worker = options.pop("worker", None) or Generator(**GREEDY)
    return run_job(worker, str(source), output, part_rows=10, **options)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_rows_are_those_of_the_worker(
    format: str, source: Path, expected: list[dict[str, Any]]
) -> None:
    shares: list[float] = []
    report = job(source, format=format, progress=lambda _what, share: shares.append(share))
    assert (report.rows, report.failed, report.parts, report.skipped_rows) == (25, 0, 3, 0)
    assert report.completion_tokens == sum(row["completion_tokens"] for row in expected)
    assert list(read_parts(report.output)) == expected
    assert shares == [10 / 25, 20 / 25, 1]
    parts = sorted((source.parent / "out").glob(f"part-*.{format}"))
    if format == "parquet":  # as input, too
        again = run_job(Generator(**GREEDY), [str(each) for each in parts], report.output + "2")
        assert again.rows == 25
        assert [len(pq.read_table(each)) for each in parts] == [10, 10, 5]


def test_a_rerun_does_what_is_not_done(source: Path, expected: list[dict[str, Any]]) -> None:
    job(source)
    parts = sorted((source.parent / "out").glob("part-*"))
    times = [each.stat().st_mtime_ns for each in parts]
    assert job(source).skipped_rows == 25
    parts[1].unlink()
    report = job(source)
    assert (report.parts, report.skipped_rows, report.rows) == (1, 15, 25)
    assert list(read_parts(report.output)) == expected
    assert [parts[each].stat().st_mtime_ns for each in (0, 2)] == [times[0], times[2]]
    # A row that changes is computed again with its part, whose older one goes.
    write_lines(source, [*ROWS[:12], {"id": 12, "prompt": "War"}, *ROWS[13:]])
    assert job(source).skipped_rows == 15
    assert [row["id"] for row in read_parts(report.output)] == list(range(25))
    write_lines(source, ROWS[:10])
    assert job(source).skipped_rows == 10
    assert list(read_parts(report.output)) == expected[:10]


def test_other_settings_are_another_job(source: Path) -> None:
    job(source)
    other = Generator(**{**GREEDY, "max_tokens": 2})
    with pytest.raises(ArgumentError, match="other settings"):
        job(source, worker=other)
    assert job(source, worker=Generator(**{**GREEDY, "threads": 2})).skipped_rows == 25
    assert job(source, worker=other, force=True).parts == 3
    assert all(row["completion_tokens"] == 2 for row in read_parts(str(source.parent / "out")))


def test_lines_that_are_no_rows(source: Path) -> None:
    with source.open("a") as file:
        file.write('no JSON\n[1]\n\n{"id": 25}\n')
    report = job(source)
    assert (report.rows, report.failed) == (28, 3)
    errors = [row["error"] for row in read_parts(report.output)][25:]
    for error, words in zip(errors, ("no JSON", "no JSON object", "no column"), strict=True):
        assert words in error


def test_columns_named_as_results(tmp_path: Path) -> None:
    """What a row has under the name of a result is replaced, also where it is all that it has."""
    rows = [{"error": "mine"}, {"prompt": "War", "error": "mine", "generated_text": "old"}]
    source = write_lines(tmp_path / "rows.jsonl", rows)
    (absent, whole) = read_parts(job(source).output)
    assert "no column 'prompt'" in absent["error"]
    assert whole["error"] is None
    assert whole["generated_text"] not in (None, "old")
    names = {"prompt": "error", "error": "wrong", "generated_text": "answer"}
    (own, _) = Generator(columns=names, **GREEDY)(rows)
    assert (own["error"], own["wrong"]) == ("mine", None)
    worker = Generator(template="{generated_text}!", columns={"generated_text": "answer"}, **GREEDY)
    (chained,) = worker([{"generated_text": "War"}])
    assert chained["generated_text"] == "War"
    assert chained["answer"] == Generator(**GREEDY)([{"prompt": "War!"}])[0]["generated_text"]
    with pytest.raises(ArgumentError, match="two columns of results are named 'a'"):
        Generator(columns={"generated_text": "a", "error": "a"})


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_values_that_formats_lack(format: str, tmp_path: Path) -> None:
    """Halves of surrogate pairs, NaN inside of lists, whole numbers of any size."""
    values: list[Any] = ["half \ud800", [float("nan"), {"a": float("inf")}], 10**30, "\u0000", None]
    source = write_lines(
        tmp_path / "rows.jsonl", [{"prompt": "War", f"v{k}": v} for k, v in enumerate(values)]
    )
    report = job(source, format=format)
    assert (report.rows, report.failed) == (5, 0)
    found = list(read_parts(report.output))
    expected = ["half ?" if format == "parquet" else values[0], [None, {"a": None}], *values[2:]]
    if format == "jsonl":
        assert [row[f"v{k}"] for k, row in enumerate(found)] == expected
    else:
        assert [row[f"v{k}"] for k, row in enumerate(found)][::3] == expected[::3]
        assert json.loads(found[2]["v2"]) == 10**30


def test_columns_of_parquet_keep_their_types(tmp_path: Path) -> None:
    """Also where all of a part's values are null, and those that Python has no type for."""
    table = pa.table(
        {
            "prompt": ["War", None, "Peace"],
            "small": pa.array([1, None, 3], pa.int8()),
            "null": pa.array([None] * 3, pa.large_string()),
            "nested": [{"a": 1, "b": ["x"]}, None, {"a": 2, "b": []}],
            "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
            "time": pa.array([1, 2, None], pa.timestamp("ns", "UTC")),
            "bytes": pa.array([b"\xff", b"", None], pa.binary()),
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )
    source = tmp_path / "rows.parquet"
    pq.write_table(table, source)
    report = job(source)
    assert (report.rows, report.failed) == (3, 1)
    assert "prompt is empty" in str(report.first_error)
    (part,) = Path(report.output).glob("part-*")
    found = pq.read_table(part)
    assert found.select(table.column_names).equals(pq.read_table(source))
    report = run_job(Generator(**GREEDY), str(source), report.output + "2", format="jsonl")
    assert [row["bytes"] for row in read_parts(report.output)] == ["/w==", "", None]


def test_files_of_lines(source: Path, expected: list[dict[str, Any]]) -> None:
    """Compressed, of no rows, and broken ones, whose error names them."""
    packed = source.with_name("packed.jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert list(read_parts(job(packed, progress=lambda *_: None).output)) == expected
    packed.write_bytes(gzip.compress(source.read_bytes())[:-9])
    for name, data in (("empty.parquet", b""), ("lines.parquet", b"[1]"), ("a.jsonl.gz", b"[1]")):
        source.with_name(name).write_bytes(data)
    for name in ("packed.jsonl.gz", "empty.parquet", "lines.parquet", "a.jsonl.gz"):
        with pytest.raises(ArgumentError, match=name):
            run_job(Generator(), str(source.with_name(name)), str(source.parent / "none"))
    source.write_text("\n")
    assert run_job(Generator(), str(source), str(source.parent / "empty")).rows == 0
    for name in ("workers", "part_rows"):
        with pytest.raises(ArgumentError, match=name):
            run_job(Generator(), str(source), str(source.parent / "empty"), **{name: 0})


def test_the_files_of_a_job(tmp_path: Path) -> None:
    """Each is read once, and none of the output's; further ones may come before them, and what one
    gave goes only if that is wanted."""
    folder, output = tmp_path / "rows", tmp_path / "rows" / "out"
    (folder / "_SUCCESS").parent.mkdir()
    for name, rows in (("b", ROWS[:12]), ("c", ROWS[12:])):
        write_lines(folder / f"{name}.jsonl", rows)
    for name in ("_SUCCESS", ".b.jsonl.crc", "_b.jsonl"):
        (folder / name).write_text("?")

    def run(*inputs: str, **options: Any) -> JobReport:
        given = [str(folder / each) for each in inputs]
        return run_job(Generator(**GREEDY), given, str(output), part_rows=10, **options)

    assert run("", "b.jsonl", "*.jsonl").rows == 25
    expected = list(read_parts(str(output)))
    assert run("**/*.jsonl").skipped_rows == 25
    with pytest.raises(ArgumentError, match=r"holds results of .*c\.jsonl"):
        run("b.jsonl")
    write_lines(folder / "a.jsonl", ROWS[:1])
    report = run("")
    assert (report.rows, report.skipped_rows) == (26, 25)
    assert list(read_parts(str(output))) == [expected[0], *expected]
    assert run("b.jsonl", force=True).skipped_rows == 12
    assert list(read_parts(str(output))) == expected[:12]
    with pytest.raises(ArgumentError, match="the output is the input"):
        run("out")
    with pytest.raises(ArgumentError, match="other settings"):
        run_job(Generator(**GREEDY), str(folder / "b.jsonl"), str(output), part_rows=11)
    (output / "job.json").write_text("{}")
    with pytest.raises(ArgumentError, match=r"job\.json"):
        run("b.jsonl")


def test_a_model_that_changes_ends_the_job(tmp_path: Path) -> None:
    """It is to blame for no row."""
    model = tmp_path / "a.gguf"
    shutil.copyfile(default_model(), model)
    body = {"prompt": "War", "max_tokens": 1}
    line = {"custom_id": "a", "url": "/v1/completions", "body": body}
    rows = [{"prompt": "War", "text": "War", "continuation": "War", **line}]
    workers = [Generator, Embedder, Scorer, OpenAILines]
    made = [kind(str(model), threads=1) for kind in workers]
    assert all(each(rows)[0]["error"] is None for each in made)
    os.utime(model, (1, 1))
    for each in made:
        with pytest.raises(ModelFileError, match="changed"):
            each(rows)
    close_models()


def test_two_jobs_in_a_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that began first does not take the other's parts for old ones of its own."""
    worker = Generator(**{**GREEDY, "max_tokens": 2})
    write = store.write_bytes

    def other_begins(path: Path, data: bytes) -> None:
        write(path, data)
        if "part-000000" in path.name:
            monkeypatch.undo()
            job(source, worker=worker, force=True)

    monkeypatch.setattr(store, "write_bytes", other_begins)
    with pytest.raises(ArgumentError, match="another job has begun"):
        job(source)
    assert job(source, worker=worker).skipped_rows == 25
    found = list(read_parts(str(source.parent / "out")))
    assert [row["completion_tokens"] for row in found] == [2] * 25


def test_a_full_disk(
    source: Path, expected: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write_bytes

    def full(path: Path, data: bytes) -> None:
        if "part-000001" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    monkeypatch.setattr(store, "write_bytes", full)
    with pytest.raises(OSError, match="part-000001"):
        job(source)
    monkeypatch.undo()
    report = job(source)
    assert (report.skipped_rows, report.parts) == (10, 2)
    assert list(read_parts(report.output)) == expected


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    check_job_with_a_killed_process("local", tmp_path)


def test_a_row_that_kills(tmp_path: Path) -> None:
    check_job_with_a_row_that_kills("local", tmp_path)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(sent: signal.Signals) -> None:
    """Also when that is killed or interrupted: whoever holds standard output is gone."""
    code = """
import os, signal, time
from functools import partial
signal.signal(signal.SIGINT, signal.default_int_handler)
from sparsefire.batch.engines import Settings, run_local
tasks = [os.getpid, *[partial(time.sleep, 60)] * 3]
for number in run_local(iter(tasks), Settings(workers=2)):
    print(number, flush=True)
"""
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) != process.pid
    process.send_signal(sent)
    assert process.communicate(timeout=30)[0] == ""


def test_object_stores(
    source: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPARSEFIRE_CACHE", str(tmp_path / "cache"))
    stored = fsspec.filesystem("memory")
    model = default_model().read_bytes()
    stored.pipe_file("/models/a.gguf", model)
    stored.pipe_file("/in/rows.jsonl", source.read_bytes())
    worker = Generator("memory://models/a.gguf", **GREEDY)
    # An interrupted copy: the rest is fetched.
    asked: list[tuple[int, int]] = []
    fetch = type(stored).cat_file

    def noted(self: Any, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        if path.endswith(".gguf"):
            asked.append((start, end))
        data: bytes = fetch(self, path, start=start, end=end, **more)
        return data

    copied = store.local_path("memory://models/a.gguf")
    assert copied.read_bytes() == model
    copied.rename(copied.with_name(f"{copied.name}.part"))
    copied.with_name(f"{copied.name}.part").write_bytes(model[:1000])
    monkeypatch.setattr(type(stored), "cat_file", noted)
    output = "memory://out"
    for skipped in (0, 25):
        report = run_job(worker, "memory://in/*.jsonl", output, part_rows=10)
        assert (report.rows, report.skipped_rows) == (25, skipped)
    assert asked == [(1000, len(model))]
    assert list(read_parts(output)) == expected
    with pytest.raises(ModelFileError, match="SHA-256"):
        store.local_path(f"memory://in/rows.jsonl#sha256={'0' * 64}")
    with pytest.raises(ModelFileError, match="no such file"):
        store.local_path("memory://models/c.gguf")
    with pytest.raises(ArgumentError, match="nosuch"):
        store.local_path("nosuch://models/c.gguf")


def test_openai_lines(tmp_path: Path) -> None:
    bodies: list[tuple[str, Any]] = [
        ("/v1/completions", {"model": "gpt", "prompt": "War", "max_tokens": 4, "temperature": 0}),
        ("/v1/embeddings", {"model": "gpt", "input": "War"}),
        ("/v1/completions", {"prompt": "War", "n_tokens": 4}),
        ("/v1/completions", {"prompt": "a " * 5000}),
        ("/v1/audio", {}),
        ("/v1/completions", "no JSON"),
    ]
    lines = [
        {"custom_id": f"request-{place}", "method": "POST", "url": url, "body": body}
        for place, (url, body) in enumerate(bodies)
    ]
    source = write_lines(tmp_path / "rows.jsonl", lines)
    report = job(source, worker=OpenAILines(threads=1))
    assert (report.rows, report.failed, report.completion_tokens) == (6, 4, 4)
    found = list(read_parts(report.output))
    assert [set(row) for row in found] == [{"custom_id", "id", "response", "error"}] * 6
    assert [row["custom_id"] for row in found] == [line["custom_id"] for line in lines]
    assert [row["response"]["status_code"] for row in found] == [200, 200, 400, 400, 404, 400]
    with Model.load() as model:
        text = model.create_completion("War", 4, temperature=0)["choices"][0]["text"]
        vector = model.embed("War").tolist()
    assert found[0]["response"]["body"]["choices"][0]["text"] == text
    assert found[1]["response"]["body"]["data"][0]["embedding"] == vector
    assert found[2]["response"]["body"]["error"]["param"] == "n_tokens"


def test_the_command(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(source.parent / "out")
    command = ["batch", "--input", str(source), "--output", output, "--threads", "1"]
    assert main([*command, "--task", "embed", "--column", "text=prompt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 25
    found = [row["embedding"] for row in read_parts(output)]
    assert found == [
        row["embedding"].tolist() for row in Embedder(columns={"text": "prompt"})(ROWS)
    ]
    assert main([*command, "--temp", "0", "-n", "2"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*command, "--temp", "0", "-n", "2", "--force"]) == 0
    assert "50 new tokens" in capsys.readouterr().out
    assert main([*command, "--input", "none/*.jsonl"]) == 2


def test_it_is_imported_without_the_packages_of_its_extras(source: Path) -> None:
    code = """
import sys
for name in ("fsspec", "pyarrow", "pandas", "ray", "dask", "distributed"):
    sys.modules[name] = None
import sparsefire.batch as batch
from sparsefire.errors import BackendError
assert batch.Generator(max_tokens=1)({"prompt": ["a"]})["error"] == [None]
for given in (
    {"output": "memory://a"}, {"format": "parquet"}, {"engine": "ray"}, {"engine": "dask"}
):
    try:
        batch.run_job(batch.Generator(), sys.argv[1], **{"output": sys.argv[2], **given})
    except BackendError as error:
        assert "pip install 'sparsefire[" in str(error)
    else:
        raise AssertionError(given)
"""
    command = [sys.executable, "-c", code, str(source), str(source.parent / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks of Python that need no engine, as a reader would type them in."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    run_guide(scope)
    assert scope["label"] == "States"
    assert len(scope["texts"]) == 10
