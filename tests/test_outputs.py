"""Files that are written: never over an input, over others only when asked, and whole or not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hf_checkpoint
import sparsefire as sf
import tiny_model
from sparsefire._files import check_output, replaced
from sparsefire.cli import main
from sparsefire.errors import ArgumentError
from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile, export_site


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.write(tmp_path / "model.gguf", bundled=True, rank=16, context=64)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("ab cd abcd\n" * 12, encoding="utf-8")
    return file


def commands(model: Path, text: Path, output: Path) -> dict[str, list[str]]:
    calibrate = ["calibrate", "-m", str(model), "--text", str(text), "-o", str(output)]
    return {
        "quantize": ["quantize", str(model), str(output), "f16"],
        "predictors": [*calibrate, "--method", "predictors"],
        "cutoffs": [*calibrate, "--method", "cutoffs"],
    }


COMMANDS = list(commands(Path(), Path(), Path()))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_keep_their_inputs_and_other_files(
    command: str, model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, link, twin = (tmp_path / name for name in ("other.gguf", "link.gguf", "twin.gguf"))
    other.write_text("precious")
    link.symlink_to(model)
    os.link(model, twin)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    assert main(commands(model, text, other)[command]) == 2
    assert "other.gguf: the file exists; --force" in capsys.readouterr().err
    inputs = [model, link, twin] + ([text] if command != "quantize" else [])
    for target in inputs:
        assert main([*commands(model, text, target)[command], "--force"]) == 2
        assert "the output is the input" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_convert_keeps_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "checkpoint"
    hf_checkpoint.write(folder)
    before = {each: each.read_bytes() for each in folder.iterdir()}
    for each in before:
        assert main(["convert", str(folder), str(each), "--force"]) == 2
        assert "the output is the input" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in folder.iterdir()} == before
    inside = folder / "model.gguf"
    assert main(["convert", str(folder), str(inside)]) == 0
    assert main(["convert", str(folder), str(inside)]) == 2
    assert main(["convert", str(folder), str(inside), "--force"]) == 0


def test_saving_replaces_what_was_saved_but_not_the_model(tmp_path: Path) -> None:
    predictor = sf.SignPredictor(np.ones((40, 32)))
    path = tmp_path / "predictor.gguf"
    for _ in range(2):
        predictor.save(path)
        sf.SignPredictor.load(path).save(path)
    model = tiny_model.write(tmp_path / "model.gguf", bundled=True, rank=16)
    before = model.read_bytes()
    with Model.load(model, neuron_budget=1 << 20) as loaded:
        assert loaded.neurons is not None
        for save in (loaded.neurons.save_profile, loaded.neurons.caches[0].save_profile):
            with pytest.raises(ArgumentError, match="the output is the input"):
                save(model)
            save(tmp_path / "use.json")
            save(tmp_path / "use.json")
    assert model.read_bytes() == before


def test_an_exported_page_replaces_files_only_when_asked(tmp_path: Path) -> None:
    page = tmp_path / "site"
    model = tmp_path / "m.gguf"
    model.write_bytes(b"model")
    site = {"a/index.html": SiteFile(data=b"new"), "m.gguf": SiteFile(model)}
    export_site(site, page, force=False)
    (page / "a" / "index.html").write_bytes(b"old")
    with pytest.raises(ArgumentError, match=r"index\.html: the file exists; --force"):
        export_site(site, page, force=False)
    assert (page / "a" / "index.html").read_bytes() == b"old"
    export_site(site, page, force=True)
    assert (page / "a" / "index.html").read_bytes() == b"new"
    with pytest.raises(ArgumentError, match="the output is the input"):
        export_site(site, tmp_path, force=True)
    assert not (tmp_path / "a").exists()


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="a directory"):
        check_output(tmp_path)
    with pytest.raises(ArgumentError, match="no ordinary file"):
        check_output(Path(os.devnull))
    with pytest.raises(ArgumentError, match="its directory must exist"):
        check_output(tmp_path / "nowhere" / "file")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):
        with replaced(link) as part:
            part.write_text(text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert list((tmp_path / "there").iterdir()) == [target]


def test_a_file_that_others_made_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"

    def write() -> None:
        with replaced(target, force=False) as part:
            part.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(ArgumentError, match="the file exists"):
        write()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["theirs"]


_WRITING = """
import sys, time
from pathlib import Path
from sparsefire._files import replaced, scratch
target = Path(sys.argv[1])
def write():
    with replaced(target) as part:
        part.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
"""
_ALONE = _WRITING + "write()"
_IN_SCRATCH = f"""{_WRITING}
with scratch(target) as folder:
    assert folder.parent == target.parent
    (folder / "unfinished").write_text("half")
    with replaced(folder / "finished") as part:
        part.write_text("whole")
    write()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
@pytest.mark.parametrize("script", [_ALONE, _IN_SCRATCH], ids=["alone", "in scratch"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_no_partial_file(name: str, script: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    target = tmp_path / "file"
    target.write_text("old")
    previous = signal.signal(number, signal.SIG_DFL)
    try:  # a program that nohup or a background job started would inherit that it is ignored
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(target)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    finally:
        signal.signal(number, previous)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        assert process.wait(60) == -number  # as without the file
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"


def test_handlers_of_the_program_stay(tmp_path: Path) -> None:
    def handler(number: int, frame: object) -> None:
        raise AssertionError

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with replaced(tmp_path / "file") as part:
            part.write_text("whole")
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)


_SMALL = 60_000  # bytes that a file may have in `limited`

_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from sparsefire.cli import main
sys.exit(main(sys.argv[2:]))
"""


def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that cannot make a file larger than `_SMALL`, as on a disk that is full."""
    command = [sys.executable, "-c", _LIMITED, str(_SMALL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of the size of a file")
def test_a_failure_to_write_names_the_file_and_the_cause(model: Path, tmp_path: Path) -> None:
    folder = hf_checkpoint.write(tmp_path / "checkpoint")
    out = tmp_path / "new" / "out.gguf"
    out.parent.mkdir()
    for arguments in (
        ("quantize", str(model), str(out), "f16"),
        ("convert", str(folder), str(out)),
    ):
        failed = limited(*arguments)
        assert failed.returncode == 1
        assert failed.stderr == f"sparsefire: error: {out}: File too large\n"
        assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device /dev/full")
def test_a_full_standard_output_is_named(model: Path) -> None:
    command = [sys.executable, "-m", "sparsefire", "inspect", str(model)]
    with Path("/dev/full").open("wb") as full:
        failed = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert failed.returncode == 1
    assert failed.stderr == "sparsefire: error: standard output: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_no_wheel_for_pyodide_is_made_without_the_module(tmp_path: Path) -> None:
    scripts = Path(__file__).resolve().parent.parent / "scripts"
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "build_web_wheel.sh"
    shutil.copy(scripts / script.name, script)
    out = tmp_path / "out"
    failed = subprocess.run(
        ["bash", str(script), str(out)], capture_output=True, text=True, timeout=60, check=False
    )
    assert failed.returncode == 1
    assert "run ./build_wasm.sh first" in failed.stderr
    assert not out.exists()
