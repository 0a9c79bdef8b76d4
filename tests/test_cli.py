"""The command line, as its users run it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import moe_model
import tiny_model
from conftest import missing
from sparsefire.cli.common import Progress
from sparsefire.lm.model import Model


def run(*arguments: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `sparsefire ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "sparsefire", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        timeout=120,
        check=False,
    )


def fails(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """It ended with this status, and told why in one line."""
    assert result.returncode == status, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("sparsefire")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    return tiny_model.write(folder / "model.gguf", bundled=True, rank=16, context=64)


@pytest.fixture(scope="module")
def silu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("cli") / "silu.gguf", activation=None)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cli") / "text.txt"
    file.write_text("ab cd <|end|> abcd ü\n" * 12, encoding="utf-8")
    return file


GREEDY = ("generate", "ab cd", "-n", 12, "--temp", 0)


def test_generate(path: Path) -> None:
    result = run(*GREEDY, "-m", path, "--threads", 1)
    assert result.returncode == 0
    assert result.stderr == ""
    with Model.load(path) as model:
        text = "".join(model.generate("ab cd", 12, temperature=0))
    text, _, line = result.stdout.rstrip("\n").rpartition("\n")
    assert text == "ab cd" + "".join(Model.load(path).generate("ab cd", 12, temperature=0))
    assert line.startswith("[12 tokens; ")
    for part in ("tokens/s sparse", "tokens/s dense", "% of neurons computed", "1 thread]"):
        assert part in line


def test_a_neuron_profile_is_kept_from_run_to_run(path: Path, text: Path, tmp_path: Path) -> None:
    experts = moe_model.write(tmp_path / "experts.gguf", "Q8_0")
    for model, budget, unit in ((path, "40%", "neurons"), (experts, "60k", "experts")):
        profile = tmp_path / f"{unit}.json"
        options = "-m", model, "--neuron-budget", budget, "--neuron-profile", profile
        first = run(*GREEDY, *options)
        assert first.returncode == 0, first.stderr
        assert re.search(rf"[0-9.]+% of {unit} found in [0-9,]+ bytes, [0-9,]+ bytes", first.stdout)
        before = json.loads(profile.read_text("utf-8"))["layers"]
        second = run(*GREEDY, *options, "--json")
        assert second.returncode == 0, second.stderr
        after = json.loads(profile.read_text("utf-8"))["layers"]
        for old, new in zip(before, after, strict=True):  # the same text uses the same ones
            assert new["uses"] == [2 * uses for uses in old["uses"]]
        assert json.loads(second.stdout)["neuron_cache"]["reclassifications"] > 0
        assert f"% of {unit} found" in run("perplexity", "--text", text, *options).stdout
    profile.write_text("{}")
    fails(run(*GREEDY, *options), 1, "no neuron profiles of a model")
    assert profile.read_text() == "{}"
    alone = run(*GREEDY, "-m", path, "--neuron-profile", profile)
    fails(alone, 2, "--neuron-profile is for --neuron-budget")


@pytest.mark.parametrize("mode", ["dense", "exact", "sparse"])
@pytest.mark.parametrize("backend", ["native", "wasmtime"])
def test_generate_json(path: Path, mode: str, backend: str) -> None:
    result = run(*GREEDY, "-m", path, f"--{mode}", "--backend", backend, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    with Model.load(path) as model:
        text = "".join(model.generate("ab cd", 12, temperature=0, mode=mode))
        stats = model.stats
    assert report["text"] == text
    assert report["token_ids"] == stats.token_ids
    assert report["prompt_token_ids"] == model.tokenize("ab cd")
    assert report["n_tokens"] == 12
    assert report["tokens_per_s"] > 0
    assert report["mode"] == mode
    assert report["backend"] == backend
    assert report["model"] == "llama"
    assert report["threads"] >= 1
    assert report["isa"]
    for name in ("active_share", "selected_share"):
        assert len(report[name]["layers"]) == 2
        assert 0 < report[name]["mean"] <= 1
    assert "compared_tokens_per_s" not in report


def test_generate_json_with_comparison(path: Path) -> None:
    report = json.loads(run(*GREEDY, "-m", path, "--json", "--compare").stdout)
    assert set(report["compared_tokens_per_s"]) == {"sparse", "dense"}


def test_no_comparison(path: Path, silu: Path) -> None:
    for arguments in (("-m", path, "--no-compare"), ("-m", path, "--dense"), ("-m", silu)):
        result = run(*GREEDY, *arguments)
        assert result.returncode == 0
        assert result.stdout.count("tokens/s") == 1
    # With one token there is nothing to measure.
    result = run("generate", "ab", "-n", 1, "-m", path)
    assert result.returncode == 0
    assert "[1 tokens; " in result.stdout


def test_options_are_taken_by_their_whole_names(path: Path) -> None:
    """Else --mode, which no command has, would be --model."""
    fails(run(*GREEDY, "--mode", "dense"), 2, "unrecognized arguments: --mode")
    fails(run("bench", "roofline", "--thread", 1), 2, "unrecognized arguments: --thread")


def test_options_reach_the_model(path: Path) -> None:
    options: dict[str, Any] = {
        "temperature": 2.5,
        "seed": 5,
        "top_k": 100,
        "top_p": 0.99,
        "min_p": 0.001,
        "repeat_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
    }
    flags = [
        ("--temp" if name == "temperature" else f"--{name.replace('_', '-')}", value)
        for name, value in options.items()
    ]
    arguments = [each for pair in flags for each in pair]
    report = json.loads(run("generate", "ab", "-m", path, "--json", *arguments).stdout)
    with Model.load(path) as model:
        text = "".join(model.generate("ab", **options))
        assert report["text"] == text
        stop = text[5:7]
        report = json.loads(
            run("generate", "ab", "-m", path, "--json", *arguments, "--stop", stop).stdout
        )
        assert report["text"] == "".join(model.generate("ab", stop=stop, **options))
    assert report["finish_reason"] == "stop"


def test_generate_uses_isa_context_and_activation(path: Path, silu: Path) -> None:
    report = json.loads(
        run(
            *GREEDY,
            "-m",
            path,
            "--json",
            "--isa",
            "scalar",
            "--backend",
            "native",
            "--context",
            9,
            "--threads",
            2,
        ).stdout
    )
    assert (report["isa"], report["threads"]) == ("scalar", 2)
    assert report["finish_reason"] == "context"
    report = json.loads(run(*GREEDY, "-m", silu, "--json", "--activation", "relu").stdout)
    assert report["mode"] == "exact"


def test_prompt_from_standard_input(path: Path) -> None:
    report = json.loads(run("generate", "-", "-m", path, "--json", stdin="ab cdü").stdout)
    with Model.load(path) as model:
        assert report["prompt_token_ids"] == model.tokenize("ab cdü")


def test_default_model(path: Path) -> None:
    report = json.loads(run(*GREEDY, "--json", SPARSEFIRE_MODEL=str(path)).stdout)
    assert report["n_tokens"] == 12


def test_perplexity(path: Path, text: Path) -> None:
    with Model.load(path) as model:
        for mode in ("dense", "exact", "sparse"):
            wanted = model.perplexity(text.read_text(encoding="utf-8"), 20, mode=mode)
            result = run(
                "perplexity", "-m", path, "--text", text, "--context", 20, f"--{mode}", "--json"
            )
            report = json.loads(result.stdout)
            assert report["perplexity"] == pytest.approx(wanted.perplexity)
            assert report["n_scored"] == wanted.n_scored
            assert report["active_share"]["mean"] == pytest.approx(wanted.active_share.mean)
            assert report["selected_share"]["layers"] == list(wanted.selected_share.layers)
            assert report["tokens_per_s"] > 0
            assert (report["mode"], report["context"]) == (mode, 20)
    result = run("perplexity", "-m", path, "--text", "-", stdin=text.read_text(encoding="utf-8"))
    assert result.returncode == 0
    assert result.stdout.startswith("perplexity ")
    assert result.stderr == ""


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress(with_tqdm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_tqdm:
        try:
            import tqdm  # noqa: F401
        except ImportError:
            missing("tqdm is not installed")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    for terminal in (True, False):
        screen = Screen(terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        with Progress() as show:
            show("first part", 0.25)
            show("too soon to be shown", 0.26)
        shown = screen.getvalue()
        assert ("first part" in shown and " 25 %" in shown) == terminal
        assert "too soon" not in shown
        if not terminal:
            assert shown == ""
        elif with_tqdm:
            assert shown.rstrip(" ").endswith("\r"), "the bar is cleared"
        else:
            assert shown.endswith("first part\n")


def test_help_and_version() -> None:
    for arguments in (["--help"], ["generate", "--help"], ["perplexity", "--help"]):
        result = run(*arguments)
        assert result.returncode == 0
        assert result.stdout.startswith("usage: sparsefire")
    assert run("--version").stdout.startswith("sparsefire ")


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["generate"], "prompt"),
        (["generate", "x", "-n", "many"], "many"),
        (["generate", "x", "--dense", "--sparse"], "not allowed with"),
        (["generate", "x", "--backend", "gpu"], "gpu"),
        (["generate", "x", "--unknown"], "--unknown"),
        (["perplexity"], "--text"),
    ],
)
def test_usage(arguments: list[str], part: str) -> None:
    fails(run(*arguments), 2, part, "--help")


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--temp", "-1"], 2, "temperature must be 0 or more"),
        (["--top-p", "2"], 2, "top_p"),
        (["--seed", "1.5"], 2, "seed"),
        (["-n", "-4"], 2, "max_tokens"),
        (["--threads", "0"], 2, "threads"),
        (["--threads", "100000"], 2, "threads"),
        (["--isa", "mmx"], 1, "'mmx'"),
        (["--context", "65"], 2, "outside 1 … 64"),
        (["--context", "3"], 1, "the prompt has 5 tokens but the context holds 3"),
        (["--activation", "sine"], 2, "unknown activation 'sine'"),
        (["--stop", ""], 2, "stop"),
        (["-m", "nowhere.gguf"], 1, "nowhere.gguf: No such file"),
        (["-m", "."], 1, "directory"),
    ],
)
def test_values(path: Path, arguments: list[str], status: int, part: str) -> None:
    fails(run("generate", "x y z", "-m", path, *arguments), status, part)


def test_a_seed_below_0_is_another_every_time(path: Path) -> None:
    done = run("generate", "x y z", "-m", path, "--seed", "-1", "--json")
    assert done.returncode == 0, done.stderr


def test_modes_that_the_model_does_not_have(silu: Path) -> None:
    fails(run("generate", "x", "-m", silu, "--sparse"), 1, "sparsefire calibrate", "silu.gguf")
    fails(run("generate", "x", "-m", silu, "--exact"), 1, "silu has hardly any")


DAMAGED: dict[str, dict[str, Any]] = {
    "'blk.1.attn_k.weight' is missing": {"tensors": {"blk.1.attn_k.weight": None}},
    "'blk.0.ffn_down.weight' is Q8_K": {"hidden": 256, "down_format": "Q8_K"},
    "architecture 'elsewhere'": {"keys": {"general.architecture": "elsewhere"}},
    "unknown activation 'sine'": {"activation": "sine"},
    "'no-such-rule'": {"keys": {"tokenizer.ggml.pre": "no-such-rule"}},
    "the tokeniser 'other'": {"keys": {"tokenizer.ggml.model": "other"}},
}


@pytest.mark.parametrize("part", DAMAGED)
def test_models_that_do_not_fit(part: str, tmp_path: Path) -> None:
    model = tiny_model.write(tmp_path / "bad.gguf", **DAMAGED[part])
    fails(run("generate", "x", "-m", model), 1, part, "bad.gguf")


@pytest.mark.parametrize(
    ("size", "part"), [(0, "empty"), (3, "cut off"), (1000, "cut off"), (100_000, "cut off")]
)
def test_truncated_models(path: Path, size: int, part: str, tmp_path: Path) -> None:
    model = tmp_path / "bad.gguf"
    model.write_bytes(path.read_bytes()[:size])
    fails(run("generate", "x", "-m", model), 1, part, "bad.gguf")
    fails(run("perplexity", "--text", __file__, "-m", model, "--json"), 1, part)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    fails(run("generate", "x", "-m", __file__), 1, "not a GGUF file")


def test_a_byte_order_mark_is_no_text(path: Path, text: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + text.read_bytes())
    plain, other = (
        json.loads(run("perplexity", "-m", path, "--text", each, "--json").stdout)
        for each in (text, marked)
    )
    assert other["n_scored"] == plain["n_scored"]
    assert other["perplexity"] == plain["perplexity"]


def test_texts_that_cannot_be_scored(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    fails(run("perplexity", "-m", path, "--text", text), 1, "text.txt: No such file")
    text.write_bytes(b"")
    fails(run("perplexity", "-m", path, "--text", text), 2, "2 tokens or more")
    text.write_bytes(b"abc\xff\xfe")
    fails(run("perplexity", "-m", path, "--text", text), 2, "text.txt: not UTF-8 text (at byte 3)")


def test_output_that_nobody_reads(path: Path) -> None:
    command = [sys.executable, "-m", "sparsefire", "generate", "ab", "-m", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(60) != 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends the text, and the line under it still comes."""
    model = tiny_model.write(
        tmp_path / "a.gguf",
        context=1 << 20,
        d=256,
        hidden=512,
        layers=4,
        keys={"tokenizer.ggml.eos_token_id": None},
    )
    command = [
        sys.executable,
        "-m",
        "sparsefire",
        "generate",
        "ab",
        "-n",
        "1000000",
        "-m",
        str(model),
        "--threads",
        "1",
        "--context",
        "20000",
    ]
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a program started by a background job would inherit that it ignores the signal
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    assert process.stdout is not None
    assert process.stdout.read(3)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    assert "tokens/s exact" in output.splitlines()[-1]
