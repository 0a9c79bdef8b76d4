"""What `sparsefire web` serves and exports, without a browser."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from sparsefire.cli import main
from sparsefire.errors import BackendError
from sparsefire.page import compile as page_compile
from sparsefire.page import fetch as page_fetch
from sparsefire.page.server import WebServer
from sparsefire.page.site import ISOLATION, SiteFile, build_wheel, export_site, page_directory
from web_harness import running

pytest_plugins = ("web_fixtures",)


def test_the_page_names_no_other_server_and_no_file_that_is_missing(
    site: dict[str, SiteFile],
) -> None:
    described = json.loads(site["site.json"].read())
    paths = [described["wheel"], described["numpy"], *described["model"]["files"]]
    paths += [described["chat"]] if described["chat"] else []
    for path in paths:
        assert path.split("?")[0] in site
    for path, size in described["bytes"].items():
        assert site[path].nbytes == size
    for name, file in site.items():
        if name.endswith((".html", ".js", ".css")):
            text = file.read().decode()
            known = text.replace('"http://www.w3.org/', "").replace("https://…", "")
            known = known.replace("begin with https://", "")
            assert "http://" not in known, name
            assert "https://" not in known, name


def test_modules_of_the_page_do_not_import_each_other() -> None:
    """Imports form no cycle, and every imported module exists."""
    modules = {path.name: path.read_text() for path in page_directory().glob("*.js")}
    pattern = r'^import (?:[^;"]* from )?"\./([^"]+)";'
    graph = {name: re.findall(pattern, text, re.M) for name, text in modules.items()}
    assert "lifecycle.js" in graph["app.js"]
    assert set(TopologicalSorter(graph).static_order()) == set(modules)  # a cycle raises an error


def test_the_installed_package_has_the_page() -> None:
    """The page is next to the package in a source tree, and inside it when installed."""
    script = "import sparsefire.page.site as w; print(w.page_directory())"
    found = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    installed = {path.name for path in Path(found.stdout.strip()).iterdir()}
    assert installed >= {path.name for path in page_directory().iterdir()}
    assert {"index.html", "worker.js", "sw.js"} <= installed


def test_the_wheel_is_the_package_without_what_only_a_desktop_runs() -> None:
    with zipfile.ZipFile(io.BytesIO(build_wheel())) as wheel:
        names = set(wheel.namelist())
    assert {
        "sparsefire/page/engine.py",
        "sparsefire/core/helper.js",
        "sparsefire/wasm/sparsefire_core.wasm",
    } <= names
    assert not any(name.endswith((".so", ".gguf", ".html")) for name in names)


def test_compiled_python_takes_the_place_of_sources(site: dict[str, SiteFile]) -> None:
    wheel = next(file for name, file in site.items() if name.startswith("wheel/sparsefire"))
    with zipfile.ZipFile(io.BytesIO(wheel.read())) as archive:
        names = archive.namelist()
    assert "sparsefire/page/engine.pyc" in names
    assert not any(name.endswith(".py") for name in names)


def test_without_node_the_page_has_the_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_compile.shutil, "which", lambda name: None)
    assert page_compile.compile_archives({"a.zip": b"PK"}, tmp_path / "pyodide") == {}


def test_compiled_archives_that_are_not_used_any_more_go(tmp_path: Path) -> None:
    archives = {"a.zip": b"PK", "b.zip": b"PKPK"}
    kept = tmp_path / f"compiled-{page_fetch.PYODIDE_VERSION}"
    kept.mkdir()
    old = time.time() - 40 * 86400
    names = [f"{page_compile._key(data)}.zip" for data in archives.values()] + ["older.zip"]
    for name in names:
        (kept / name).write_bytes(b"compiled")
        os.utime(kept / name, (old, old))
    made = page_compile.compile_archives(archives, tmp_path / "pyodide")
    assert {path.name for path in made.values()} == set(names[:2])
    assert {path.name for path in kept.iterdir()} == set(names[:2])


@pytest.fixture
def small_site() -> dict[str, SiteFile]:
    return {"index.html": SiteFile(data=b"0123456789"), "a/b.wasm": SiteFile(data=b"wasm")}


@pytest.mark.parametrize(
    ("path", "headers", "status", "body"),
    [
        ("/", {}, 200, b"0123456789"),
        ("/a/b.wasm?v=1", {}, 200, b"wasm"),
        ("/", {"Range": "bytes=2-4"}, 206, b"234"),
        ("/", {"Range": "bytes=7-"}, 206, b"789"),
        ("/", {"Range": "bytes=10-"}, 416, b""),
        ("/", {"Range": "lines=1-2"}, 200, b"0123456789"),
        ("/../pyproject.toml", {}, 404, None),
        ("/a", {}, 404, None),
    ],
)
def test_the_server_answers(
    small_site: dict[str, SiteFile],
    path: str,
    headers: dict[str, str],
    status: int,
    body: bytes | None,
) -> None:
    with running(WebServer(small_site)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
    assert answer.status == status
    if body is not None:
        assert found == body
    if status == 200:
        assert ISOLATION.items() <= dict(answer.getheaders()).items()


def test_an_unchanged_file_is_not_sent_again(small_site: dict[str, SiteFile]) -> None:
    with running(WebServer(small_site)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        connection.request("GET", "/", headers={"If-None-Match": str(answer.getheader("ETag"))})
        assert connection.getresponse().status == 304
        connection.close()


def test_a_site_is_exported(small_site: dict[str, SiteFile], tmp_path: Path) -> None:
    assert export_site(small_site, tmp_path / "site") == 14
    assert (tmp_path / "site" / "a" / "b.wasm").read_bytes() == b"wasm"


def test_without_a_network_the_command_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSEFIRE_CACHE", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    monkeypatch.setattr(page_fetch.shutil, "which", lambda name: None)
    assert main(["web", "--export", str(tmp_path / "site")]) != 0
    said = capsys.readouterr().err
    assert "Pyodide 0.27.7 could not be downloaded" in said
    assert "run the command again with a connection to npm" in said
    assert not (tmp_path / "site").exists()


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A cache of Pyodide without numpy, in which all files but the lock file are empty."""
    home = tmp_path / "cache" / f"pyodide-{page_fetch.PYODIDE_VERSION}"
    home.mkdir(parents=True)
    for name in page_fetch.RUNTIME_FILES:
        (home / name).touch()
    numpy = {"file_name": "numpy-1-wasm32.whl", "sha256": hashlib.sha256(b"numpy").hexdigest()}
    (home / "pyodide-lock.json").write_text(json.dumps({"packages": {"numpy": numpy}}))
    return home


def test_numpy_comes_from_the_distribution_of_pyodide(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"v0.27.7/numpy-1-wasm32.whl": SiteFile(data=b"numpy")}
    with running(WebServer(files)) as server:
        monkeypatch.setattr(page_fetch, "_CDN", server.origin + "/v{version}")
        assert page_fetch.ensure_pyodide(runtime.parent) == runtime
    assert page_fetch.numpy_wheel(runtime).read_bytes() == b"numpy"
    assert page_fetch.ensure_pyodide(runtime.parent) == runtime  # without the server


@pytest.mark.parametrize("data", [b"another file", None])
def test_another_numpy_is_refused(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None
) -> None:
    """One with another digest, or an answer of 404."""
    files = {} if data is None else {"numpy-1-wasm32.whl": SiteFile(data=data)}
    with running(WebServer(files)) as server:
        monkeypatch.setattr(page_fetch, "_CDN", server.origin)
        with pytest.raises(BackendError, match="404" if data is None else "has the SHA-256"):
            page_fetch.ensure_pyodide(runtime.parent)
    assert not page_fetch.numpy_wheel(runtime).exists()


def test_without_the_distribution_the_command_says_how_to_get_numpy(
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPARSEFIRE_CACHE", str(runtime.parent))
    monkeypatch.setattr(page_fetch, "_CDN", "http://127.0.0.1:9")
    export = ["web", "--export", str(tmp_path / "site")]
    assert main(export) != 0
    said = capsys.readouterr().err
    assert "numpy for Pyodide could not be downloaded (http://127.0.0.1:9/numpy-1-wasm32" in said
    assert "--numpy-wheel" in said
    assert "scripts/fetch_numpy_for_pyodide.py" in said
    wheel = tmp_path / "download.whl"
    assert main([*export, "--numpy-wheel", str(wheel)]) != 0
    assert "No such file" in capsys.readouterr().err
    wheel.write_bytes(b"numpy")
    assert page_fetch.ensure_pyodide(runtime.parent, numpy=wheel) == runtime
    assert page_fetch.numpy_wheel(runtime).read_bytes() == b"numpy"


def test_a_download_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pyodide.tgz"
    path.write_bytes(b"something else")
    with pytest.raises(OSError, match="has the SHA-256"):
        page_fetch.check_digest(path, page_fetch.PYODIDE_SHA256)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535"),
        (["--model", "missing.gguf"], "missing.gguf: no such file"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", *arguments]) != 0
    assert said in capsys.readouterr().err


def test_without_the_module_the_wheel_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sparsefire.page.site._PACKAGE", tmp_path)
    with pytest.raises(BackendError, match=r"build_wasm\.sh"):
        build_wheel()
