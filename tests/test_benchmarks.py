"""The programs of bench/ start, and work at tiny sizes where they need no peer. Not how fast
anything is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from bench.lib import llama_bench
from bench.lib.compilers import llama_environment
from bench.lib.further_models import write_further
from bench.lib.input_quality import Llama
from bench.lib.peer_files import MissingPeer
from bench.lib.random_models import realistic
from conftest import ROOT, missing
from llama_variants import llama_variants
from sparsefire.core import hosts
from sparsefire.lm.model import Model
from tiny_model import Tiny, write

PROGRAMS = (
    "peers",
    "versions",
    "archs",
    "experts",
    "sessions",
    "batch",
    "install",
    "browser",
    "browser.first_token",
    "browser.page",
    *(f"studies.{path.stem}" for path in (ROOT / "bench" / "studies").glob("[!_]*.py")),
)
# What the fork's program prints, and sources whose program is llama-bench.
FORK_SAYS = """echo 'repacked 210 tensors'
printf '[\\n  {"n_prompt": 512, "avg_ts": 128.0}\\n]\\n'
"""
A_LLAMA_BENCH = """cmake_minimum_required(VERSION 3.18)
project(llama C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
file(WRITE ${CMAKE_BINARY_DIR}/main.c "int main(void) { return 7; }")
add_executable(llama-bench ${CMAKE_BINARY_DIR}/main.c)
"""
# What `bench.peers` can do without a peer.
ALONE = ("sparse", "exact", "shares", "threads", "calls", "load", "wasm")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help_and_is_in_the_readme(program: str) -> None:
    done = run("-m", f"bench.{program}", "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m bench.{program} " in done.stdout
    assert f"`python -m bench.{program}" in (ROOT / "bench" / "README.md").read_text("utf-8")


def test_the_readme_lists_every_section() -> None:
    text = (ROOT / "bench" / "README.md").read_text("utf-8")
    for path in (ROOT / "bench" / "peers").glob("[!_]*.py"):
        assert f"| `{path.stem.replace('_', '-')}` |" in text


@pytest.mark.parametrize("section", ALONE)
def test_sections_without_a_peer(section: str) -> None:
    done = run("-m", "bench.peers", "--quick", "--json", section)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows
    for row in rows:
        assert row["section"] == section
        assert row["value"] is not None
        assert not {"target", "reached"} & set(row)


def test_versions_of_one_installation() -> None:
    done = run("-m", "bench.versions", sys.executable, sys.executable, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = [each["what"] for each in json.loads(done.stdout)]
    assert "256×512 q8_0 sparse, 1 thread" in found
    assert "decode a token sparse, 1 thread" in found


def test_versions_of_prompts_in_wasmtime() -> None:
    pytest.importorskip("wasmtime")
    options = ("--only", "prompts", "--backend", "wasmtime", "--quick", "--json")
    done = run("-m", "bench.versions", sys.executable, sys.executable, *options)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["what"] == "prompt of 64 tokens, 1 thread"
    assert found["ratio"] > 0


@pytest.mark.parametrize(
    ("program", "expected"),
    [("experts", "have the same bits"), ("sessions", "every text was the same as alone")],
)
def test_programs_that_compare_what_they_time(program: str, expected: str) -> None:
    done = run("-m", f"bench.{program}", "--quick")
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize(
    ("program", "module", "arguments", "peer"),
    [
        ("peers", "llama_cpp", ["--quick", "dense"], "llama.cpp"),
        ("browser.page", "playwright.sync_api", ["start"], "playwright"),
        ("studies.plots", "threadpoolctl", ["roofline"], "threadpoolctl"),
    ],
)
def test_a_missing_peer_is_one_sentence(
    program: str, module: str, arguments: list[str], peer: str
) -> None:
    """A module that is None in sys.modules is one that cannot be imported."""
    code = (
        f"import sys, runpy; sys.modules[{module!r}] = None; "
        f"sys.argv[1:] = {arguments!r}; "
        f"runpy.run_module('bench.{program}', run_name='__main__', alter_sys=True)"
    )
    done = run("-c", code)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].strip() == (
        f"{peer} is not installed; install it with: python -m bench.install {peer}"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("study", "arguments", "expected"),
    [
        ("same_text", ["--quick"], r"embedded model, strict: \d of 1 texts"),
        ("neuron_budget", ["--tokens", "8"], r"(?m)^20% .* \d+\.\d%"),
        (
            "calibrate_layer",
            ["--shape", "64x128", "--samples", "300", "--rank", "32"],
            r"s for 300 samples",
        ),
        (
            "whole_models",
            ["bitnet", "--quick", "--rounds", "2", "--threads", "1"],
            r"tiny-BitNet-2B, 2 layers, 1 threads, \d+\.\d% of the neurons, 64 of 512 rows",
        ),
        (
            "whole_models",
            ["inputs", "--quick", "--rounds", "2", "--threads", "1"],
            r"tiny-7B, 2 layers, 1 threads, \d+\.\d% left out",
        ),
    ],
)
def test_studies_at_small_sizes(study: str, arguments: list[str], expected: str) -> None:
    done = run("-m", f"bench.studies.{study}", *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout


def test_products_with_some_inputs_are_those_of_float64() -> None:
    """Inputs are rounded to 8 bits."""
    if shutil.which("cc") is None:
        missing("a C compiler")
    if hosts.open_core("native").isa not in ("amx", "avx2", "avx512", "avx512_vnni"):
        pytest.skip("the kernel is for x86 with AVX2 or AVX-512")
    sizes = ["--d", "256", "--kv", "256", "--hidden", "256", "--layers", "2", "--rounds", "1"]
    done = run("-m", "bench.studies.inputs", "speed", *sizes)
    assert done.returncode == 0, done.stderr
    errors = [float(each) for each in re.findall(r"largest error (\S+) of", done.stdout)]
    assert len(errors) == 2
    assert all(0 < each < 0.03 for each in errors)


@pytest.mark.usefixtures("float_keys")
def test_the_perplexity_of_leaving_out_inputs(tmp_path: Path) -> None:
    """With all inputs it is the model's; a model that multiplies none of them says the same
    whatever it is given."""
    tiny = Tiny(activation=None, context=64)
    tokens = [(37 * i + 11) % tiny.vocab for i in range(40)]
    with Model.load(write(tmp_path / "silu.gguf", tiny)) as model:
        reference = np.array([-each.logprob for each in model.token_scores(tokens)])
        plain = Llama(model)
    np.testing.assert_allclose(plain.losses(tokens, lambda _site, x: x), reference, atol=1e-4)
    left = plain.losses(tokens, lambda _site, x: x * 0)
    logits = plain.losses([tokens[-1], *tokens[1:]], lambda _site, x: x * 0)
    np.testing.assert_allclose(left[1:], logits[1:], atol=1e-6)
    assert np.abs(left - reference).max() > 0.1
    assert len(plain.norms) == 4 * tiny.layers


def test_models_for_the_comparison_with_llama_cpp_can_be_read(tmp_path: Path) -> None:
    names = []
    for name, tiny in llama_variants():
        names.append(name)
        if len(names) <= 3:
            with Model.load(write(tmp_path / f"{name}.gguf", tiny)) as model:
                assert model.config.architecture
    assert len(names) > 20


@pytest.mark.usefixtures("float_keys")
def test_architectures_are_compared_with_given_logits(tmp_path: Path) -> None:
    models, logits = tmp_path / "models", tmp_path / "logits"
    models.mkdir()
    logits.mkdir()
    for name in ("a-right", "b-wrong", "c-without"):
        write(models / f"{name}.gguf")
    write(models / "d-refused.gguf", Tiny(arch="unheard-of"))
    with Model.load(models / "a-right.gguf") as model:
        vocab = model.config.vocab
        tokens = np.array([(37 * i + 11) % vocab for i in range(40)], np.int32)
        right = model.logits(tokens)
    for name, factor in (("a-right", 1.0), ("b-wrong", 1.01), ("d-refused", 1.0)):
        header = np.array([40, vocab], np.int32).tobytes()
        data = (right * factor).astype(np.float32).tobytes()
        (logits / f"{name}.gguf.logits").write_bytes(header + data)

    done = run("-m", "bench.archs", str(models), str(logits), "--json")
    assert done.returncode == 1, done.stderr
    found = {each["model"]: each for each in json.loads(done.stdout)}
    verdicts = {name: each["verdict"] for name, each in found.items()}
    assert verdicts == {
        "a-right": "ok",
        "b-wrong": "different",
        "c-without": "no logits",
        "d-refused": "refused",
    }
    assert found["b-wrong"]["error"] == pytest.approx((0.01 / 1.01) ** 2, rel=1e-3)
    assert "unheard-of" in found["d-refused"]["reason"]

    done = run("-m", "bench.archs", str(models), str(logits), "--only", "a-*")
    assert done.returncode == 0, done.stderr
    assert "| a-right | ok | 0.0e+00 |  |" in done.stdout
    assert done.stdout.endswith("\n1 ok\n")


def test_mixtures_of_the_peers_test_get_more_experts(tmp_path: Path) -> None:
    source, copy = tmp_path / "source.gguf", tmp_path / "copy.gguf"
    writer = gguf.GGUFWriter(source, "qwen3moe")
    writer.add_expert_count(2)
    writer.add_expert_used_count(2)
    writer.add_expert_weights_scale(0.0)
    random = np.random.default_rng(0)
    shapes = {
        "blk.0.ffn_up_exps.weight": (2, 12, 8),
        "blk.0.ffn_gate_inp.weight": (2, 8),
        "blk.0.attn_sinks.weight": (2,),
        "blk.0.ffn_up_exps.scale": (2,),
        "rope_freqs.weight": (4,),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    reader = gguf.GGUFReader(realistic(source, copy, {"expert_weights_scale": 2.5}))
    assert reader.fields["qwen3moe.expert_weights_scale"].contents() == 2.5
    assert reader.fields["qwen3moe.expert_count"].contents() == 8
    assert reader.fields["qwen3moe.expert_used_count"].contents() == 3
    tensors = {each.name: each.data for each in reader.tensors}
    assert {name: each.shape for name, each in tensors.items()} == {
        "blk.0.ffn_up_exps.weight": (8, 12, 8),
        "blk.0.ffn_gate_inp.weight": (8, 8),
        "blk.0.attn_sinks.weight": (2,),
        "rope_freqs.weight": (4,),
    }
    assert tensors["rope_freqs.weight"].min() >= 0.5


def test_models_that_the_peers_test_lacks_can_be_read(tmp_path: Path) -> None:
    paths = write_further(tmp_path)
    assert len({path.stem for path in paths}) == len(paths) > 10
    for path in paths:
        reader = gguf.GGUFReader(path)
        assert reader.fields["general.architecture"].contents() in path.stem
        assert all(np.isfinite(tensor.data).all() for tensor in reader.tensors)
    with Model.load(tmp_path / "bitnet.gguf") as model:
        assert np.isfinite(model.logits(np.arange(5))).all()


def test_benchmarks_change_no_import_path_and_use_no_private_names() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        text = path.read_text("utf-8")
        assert "sys.path" not in text, path
        assert not re.search(r"(?<!self)(?<!cls)\._(core|native|handle|ffn)\w*", text), path


def test_clang_builds_llama_cpp_where_there_is_amx() -> None:
    def only(*programs: str) -> Callable[[str], str | None]:
        return lambda name: f"/usr/bin/{name}" if name in programs else None

    amx = "flags : fpu amx_bf16 amx_tile"
    clang = only("clang", "clang++", "clang-19", "clang++-19", "clang-20")
    assert llama_environment({"A": "1"}, "flags : fpu", only()) == {"A": "1"}
    assert llama_environment({"CC": "gcc-14"}, amx, only()) == {"CC": "gcc-14"}
    assert llama_environment({}, amx, clang) == {"CC": "clang-19", "CXX": "clang++-19"}
    with pytest.raises(MissingPeer, match="clang"):
        llama_environment({}, amx, only("gcc", "g++"))


def test_llama_bench_of_both_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that prints as ik_llama.cpp's does, lines before the list, and what it was given
    is timed; of none, and of a folder without sources, a sentence says what to do."""
    monkeypatch.setattr(llama_bench, "HOME", tmp_path / "home")
    with pytest.raises(MissingPeer, match=r"bench\.install --sources FOLDER"):
        llama_bench.programs()
    with pytest.raises(MissingPeer, match="has no sources of"):
        llama_bench.install(tmp_path)
    program = tmp_path / "home" / "llama-bench of ik_llama.cpp" / "bin" / "llama-bench"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/given\n{FORK_SAYS}')
    program.chmod(0o755)
    assert llama_bench.programs() == {"ik_llama.cpp": program}
    took = llama_bench.seconds(program, Path("m.gguf"), 2, "prompt", 512, ("-rtr", "1"))
    assert took == 512 / 128.0
    given = (tmp_path / "given").read_text("utf-8").strip()
    assert given == "-m m.gguf -t 2 -p 512 -n 0 -rtr 1 -r 1 -o json"


def test_llama_bench_is_built_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources of the fork have a folder of their own, and give a program of that name."""
    monkeypatch.setattr(llama_bench, "HOME", tmp_path / "home")
    monkeypatch.setenv("CC", "cc")  # no clang is looked for
    for name in ("llama.cpp", "ik_llama.cpp"):
        source = tmp_path / name
        (source / "ggml" / "src" / ("iqk" if name.startswith("ik") else "")).mkdir(parents=True)
        (source / "CMakeLists.txt").write_text(A_LLAMA_BENCH)
        path = llama_bench.install(source)
        assert llama_bench.programs()[name] == path
        assert subprocess.run([path], check=False).returncode == 7
