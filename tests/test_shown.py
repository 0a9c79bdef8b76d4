"""What model files say is shown as text, never obeyed: no escape codes, no broken UTF-8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import tiny_model
from sparsefire._shown import json_line, shown
from sparsefire.cli import main
from sparsefire.cli.common import Progress
from sparsefire.files.inspect import inspect_file
from sparsefire.lm.model import Model
from sparsefire.serve.app import Server
from sparsefire.serve.fields import Limits
from sparsefire.serve.requests import Requests

HOSTILE = "good\x1b[2J\x1b]0;title\x07\n  runs         yes\x9b2J\u202egpj\u2028\x7f"
CLEAN = "good\ufffd[2J\ufffd]0;title\ufffd\ufffd  runs         yes\ufffd2J\ufffdgpj\ufffd\ufffd"


def write(path: Path, name: str | bytes) -> Path:
    """A model of that name, given as text or as bytes that are not UTF-8."""
    if isinstance(name, str):
        return tiny_model.write(path, keys={"general.name": name})
    placeholder = "N" * len(name)
    tiny_model.write(path, keys={"general.name": placeholder})
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name))
    return path


def test_characters() -> None:
    assert shown(HOSTILE) == CLEAN
    assert shown("caf\udce9 \udcff") == "caf\ufffd \ufffd"
    for kept in ("Zoë 模型 عربى עברית 👩\u200d💻", "a b\u00a0c"):
        assert shown(kept) == kept
        assert kept in json_line(kept)
    line = json_line({"name": HOSTILE + "\udcff"})
    assert shown(line) == line
    assert json.loads(line) == {"name": HOSTILE + "\udcff"}


@pytest.mark.parametrize("name", [HOSTILE, b"caf\xe9 \xff\xfeX"])
def test_commands_print_no_escape_codes(
    name: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "m.gguf", name)
    clean = CLEAN if isinstance(name, str) else "caf\ufffd \ufffd\ufffdX"
    for options in ([], ["--metadata", "--tensors"], ["--json"]):
        assert main(["inspect", str(path), *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(shown(each) == each for each in lines)
        if not options:
            assert lines[1] == f"  name         {clean}"
            assert sum(each.startswith("  runs") for each in lines) == 1
    assert main(["generate", "ab", "-n", "1", "-m", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == clean


def test_errors_and_progress_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["inspect", str(tmp_path / "a\x1b[2J\nb.gguf")]) == 1
    assert "a\ufffd[2J b.gguf: No such file" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    Progress()("\x1b[2J", 0.5)
    assert "\ufffd[2J" in capsys.readouterr().err


@pytest.mark.parametrize("name", [HOSTILE, b"caf\xe9 \xff\xfeX"])
def test_routes_work(name: str | bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", name)
    assert inspect_file(path).runs
    with Model.load(path) as model:
        requests = Requests(model, [model.config.name], Limits())
        with TestClient(Server(requests).app) as client:
            listed = client.get("/v1/models").json()["data"][0]["id"]
            assert listed == shown(listed) == model.config.name
            answer = client.post("/v1/completions", json={"prompt": "ab", "max_tokens": 1})
            assert answer.status_code == 200
            assert answer.json()["model"] == listed
