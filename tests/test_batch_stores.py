"""Models and data of an S3 server and of an HTTP server, both on this machine: read in ranges,
copied once, going on after an interruption."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import missing
from sparsefire.batch import Generator, close_models, read_parts, run_job, store
from sparsefire.errors import ModelFileError
from sparsefire.lm.opening import default_model

try:
    import aiohttp  # noqa: F401, of fsspec's HTTP
    import fsspec
    import s3fs  # noqa: F401, of fsspec's S3
    from moto.server import ThreadedMotoServer
except ImportError as error:
    missing(f"{error}; pip install s3fs 'moto[server]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # of botocore

GREEDY: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "threads": 1}
ROWS = [{"id": place, "prompt": f"In the year {1800 + place}"} for place in range(25)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPARSEFIRE_CACHE", str(tmp_path / "cache"))
    yield
    close_models()
    fsspec.get_filesystem_class("http").clear_instance_cache()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an S3 server with the bucket "farm"."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    system = kind()
    system.mkdir("farm")
    yield system
    kind.clear_instance_cache()
    server.stop()


def test_s3(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = default_model().read_bytes()
    bucket.pipe_file("farm/a.gguf", model)
    lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    bucket.pipe_file("farm/in/rows.jsonl", lines.encode())
    asked: list[int] = []
    fetch = store._block

    def noted(system: Any, path: str, start: int, size: int) -> bytes:
        asked.append(start)
        return fetch(system, path, start, size)

    monkeypatch.setattr(store, "_block", noted)
    monkeypatch.setattr(store, "_BLOCK", 1 << 22)
    digest = hashlib.sha256(model).hexdigest()
    worker = Generator(f"s3://farm/a.gguf#sha256={digest}", **GREEDY)
    for skipped in (0, 25):
        report = run_job(worker, "s3://farm/in/*.jsonl", "s3://farm/out", part_rows=10)
        assert (report.rows, report.failed, report.skipped_rows) == (25, 0, skipped)
    assert asked == [0, 1 << 22]
    assert list(read_parts("s3://farm/out")) == Generator(**GREEDY)(ROWS)
    with pytest.raises(ModelFileError, match="SHA-256"):
        store.local_path(f"s3://farm/in/rows.jsonl#sha256={digest}")
    with pytest.raises(ModelFileError, match="no such file"):
        run_job(Generator("s3://farm/b.gguf", **GREEDY), "s3://farm/in/*.jsonl", "s3://farm/none")


class Host(http.server.ThreadingHTTPServer):
    """Serves one file. `ranges`: whether parts of it can be asked for; `breaks`: how many answers
    end in their middle. `sent`: the first byte and the number of bytes of each answer."""

    def __init__(self, data: bytes, *, ranges: bool = True, breaks: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data, self.ranges, self.breaks = data, ranges, breaks
        self.sent: list[tuple[int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.gguf"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Host

    def do_HEAD(self) -> None:
        self._answer(200, len(self.server.data))

    def do_GET(self) -> None:
        start, end = 0, len(self.server.data)
        if wanted := self.headers["Range"] if self.server.ranges else None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, end)
        self._answer(206 if wanted else 200, end - start)
        if self.server.breaks:
            self.server.breaks -= 1
            end = (start + end) // 2
        self.server.sent.append((start, end - start))
        self.wfile.write(self.server.data[start:end])

    def _answer(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{hashlib.sha256(self.server.data).hexdigest()}"')
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def running(host: Host) -> Iterator[Host]:
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield host
    finally:
        host.shutdown()
        thread.join()
        host.server_close()


DATA = bytes(range(256)) * 4096


def test_a_copy_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BLOCK", 1 << 18)
    with running(Host(DATA, breaks=1)) as host:  # one broken connection is tried again
        assert store.local_path(host.url).read_bytes() == DATA
        assert [start for start, _ in host.sent] == [0, 0, 1 << 18, 2 << 18, 3 << 18]
        host.data = DATA[::-1]  # another file under that name
        host.sent.clear()
        fetch = store._block

        def fails(system: Any, path: str, start: int, size: int) -> bytes:
            if start == 2 << 18:
                host.breaks = 3
            return fetch(system, path, start, size)

        monkeypatch.setattr(store, "_block", fails)
        with pytest.raises(ModelFileError, match=f"after {2 << 18} of {len(DATA)} bytes"):
            store.local_path(host.url)
        monkeypatch.setattr(store, "_block", fetch)
        host.sent.clear()
        assert store.local_path(host.url).read_bytes() == DATA[::-1]
        assert [start for start, _ in host.sent] == [2 << 18, 3 << 18]


def test_a_server_without_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BLOCK", 1 << 18)
    with running(Host(DATA, ranges=False)) as host:
        copy = store.local_path(host.url)
        assert copy.read_bytes() == DATA
        assert host.sent == [(0, len(DATA))]
        copy.rename(copy.with_name(f"{copy.name}.part")).write_bytes(DATA[:1000])
        assert store.local_path(host.url).read_bytes() == DATA
    with pytest.raises(ModelFileError, match="no such file"):
        store.local_path(host.url)


def test_processes_copy_once() -> None:
    code = "import sys; from sparsefire.batch import store; print(store.local_path(sys.argv[1]))"
    with running(Host(DATA)) as host:
        command = [sys.executable, "-c", code, host.url]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        copies = {each.communicate()[0] for each in started}
        assert [each.returncode for each in started] == [0, 0, 0]
        assert len(copies) == 1
        assert host.sent == [(0, len(DATA))]
