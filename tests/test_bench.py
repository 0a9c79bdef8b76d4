"""`sparsefire bench`: that what it prints is what it says, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny_model
from sparsefire.arch import screen
from sparsefire.bench import CACHE_EXPONENT
from sparsefire.bench.cache import bench_cache, power_law
from sparsefire.bench.ffn import bench_ffn
from sparsefire.bench.roofline import Limit, Reached, Roofline, bench_roofline
from sparsefire.cli.bench import _roofline_table
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, FormatError
from sparsefire.lm.model import Model
from sparsefire.lm.session import Session
from sparsefire.weights.formats import FORMATS, WRITTEN_FORMATS

KEYS = {
    *("dense_ms", "predictor_ms", "sparse_ms", "speedup", "limit", "efficiency", "active_share"),
    *("bytes_dense", "bytes_sparse", "max_rel_err", "backend", "isa", "threads", "repeats"),
}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_the_numbers_belong_together(format: str, gated: bool, host_core: Core) -> None:
    seen: list[tuple[int, int]] = []
    kind, d = FORMATS[format], max(64, FORMATS[format].block)
    result = bench_ffn(
        d,
        192,
        gated=gated,
        format=format,
        active=0.25,
        rank=32,
        repeats=6,
        progress=lambda what, share: seen.append((what, share)),
    )
    assert seen == [(f"{i} of 6 repetitions", i / 6) for i in range(1, 7)]
    assert set(result.as_dict()) >= KEYS
    weights = (2 + gated) * d * 192
    assert result.bytes_dense == weights * kind.block_bytes / kind.block
    predictor = (d + 192) * 32 * 34 / 32 + 192 * 4
    assert result.active_share == 48 / 192
    assert result.bytes_sparse == predictor + result.bytes_dense / 4
    assert result.limit == pytest.approx(1 / (0.25 + predictor / result.bytes_dense))
    assert result.speedup == pytest.approx(result.dense_ms / result.sparse_ms)
    assert result.efficiency == pytest.approx(result.speedup / result.limit)
    assert 0 < result.max_rel_err < (1e-5 if kind.block == 1 else 2e-4)
    assert result.predictor_ms > 0
    assert (result.backend, result.isa) == (host_core.host, host_core.isa)
    assert result.repeats == 6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"active": 0.0}, ArgumentError, "active"),
        ({"active": 1.5}, ArgumentError, "active"),
        ({"rank": 0}, ArgumentError, "rank"),
        ({"repeats": 0}, ArgumentError, "repeats"),
        ({"d": 50}, FormatError, "q8_0"),
        ({"format": "q9"}, FormatError, "q9"),
    ],
)
def test_bad_arguments(
    options: dict[str, object], error: type[Exception], message: str, host_core: Core
) -> None:
    arguments = {"d": 64, "hidden": 64, **options}
    with pytest.raises(error, match=message):
        bench_ffn(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("active", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("exponent", [0.5, CACHE_EXPONENT, 2.0])
def test_power_laws_have_the_mean_that_was_asked_for(active: float, exponent: float) -> None:
    often = power_law(5504, active, exponent)
    assert often.mean() == pytest.approx(active, rel=1e-6)
    assert (np.diff(often) <= 0).all()
    assert often[0] <= 1
    below = often[often < 1]
    if len(below):
        ranks = np.arange(len(often) - len(below), len(often)) + 1
        assert np.allclose(below * ranks**exponent, below[-1] * 5504**exponent)


def test_the_usual_power_law_is_that_of_a_large_model() -> None:
    often = power_law(11008, 0.1, CACHE_EXPONENT)
    assert 0.76 < often[: 11008 // 4].sum() / often.sum() < 0.82


def test_caches_hold_their_share_and_change_no_bit(host_core: Core) -> None:
    seen: list[tuple[int, int]] = []
    results = bench_cache(
        64,
        300,
        budget=0.4,
        repeats=30,
        progress=lambda what, share: seen.append((what, share)),
    )
    assert seen == [(f"{i} of 60 repetitions", i / 60) for i in range(1, 61)]
    assert [each.policy for each in results] == ["lru", "lfu", "window"]
    best = power_law(300, 0.1, CACHE_EXPONENT)[:120].sum() / 30
    for each in results:
        assert each.identical
        assert (each.shape, each.format, each.repeats) == ("64x300", "q8_0", 30)
        assert each.budget_bytes == 0.4 * each.layer_bytes
        assert each.active_share == pytest.approx(0.1, abs=0.02)
        assert each.bytes_read == pytest.approx(each.misses * 3 * 68)
        asked = 300 * each.active_share
        assert each.hit_rate == pytest.approx(1 - each.misses / asked)
        assert 0.4 < each.hit_rate < best + 0.05
        assert each.slowdown == pytest.approx(each.cached_ms / each.memory_ms)
        assert each.backend == host_core.host
    with pytest.raises(ArgumentError, match="budget"):
        bench_cache(64, 300, budget=0.0)
    with pytest.raises(ArgumentError, match="shape"):
        bench_cache(64, 1)


def bench(*arguments: str, what: str = "ffn") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsefire", "bench", what, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["--shape", "64x128", "--rank", "8", "--repeats", "3", "--threads", "1"]
    table = bench(*arguments, "--gated", "--format", "f16")
    assert table.returncode == 0, table.stderr
    assert "64x128, gated, f16, predictor of rank 8; native" in table.stdout
    found = json.loads(bench(*arguments, "--active", "0.5", "--json").stdout)
    assert found["shape"] == "64x128"
    assert (found["active_share"], found["threads"], found["repeats"]) == (0.5, 1, 3)
    for wrong in ("64", "0x64", "64x", "axb"):
        failed = bench("--shape", wrong)
        assert failed.returncode == 2
        assert len(failed.stderr.strip().splitlines()) == 1
    failed = bench("--shape", "50x64")
    assert failed.returncode == 1
    assert failed.stderr.startswith("sparsefire: error: q8_0")


def test_the_cache_command_prints_a_table_or_json() -> None:
    arguments = ["--shape", "64x128", "--repeats", "3", "--threads", "1"]
    table = bench(*arguments, what="cache")
    assert table.returncode == 0, table.stderr
    rows = [line.split() for line in table.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[-1] == "yes"] == ["lru", "lfu", "window"]
    found = json.loads(bench(*arguments, "--budget", "0.25", "--json", what="cache").stdout)
    assert [each["budget_bytes"] for each in found] == [128 // 4 * 3 * 68] * 3
    assert all(each["identical"] for each in found)


def small_roofline(model: Model | None, core: Core) -> dict[str, object]:
    return bench_roofline(
        64,
        192,
        active=0.25,
        rank=32,
        model=model,
        prompt=20,
        positions=40,
        read_bytes=1 << 20,
        repeats=2,
        core=core,
    ).as_dict()


def test_a_roofline_has_shares_of_its_own_limits(host_core: Core) -> None:
    with Model.load(core=host_core) as model:
        found = small_roofline(model, host_core)
    threads = host_core.threads
    limits = {(each["what"], each["threads"]): each["rate"] for each in found["limits"]}  # type: ignore[attr-defined]
    wanted = {(what, n) for what in ("floats", "integers") for n in (1, threads)}
    wanted |= {("memory", n) for n in range(1, threads + 1)}
    if "amx" in host_core.supported_isas():
        wanted |= {("tiles", n) for n in (1, threads)}
    assert limits.keys() == wanted
    assert min(limits.values()) > 0
    reached = {each["what"]: each for each in found["reached"]}  # type: ignore[attr-defined]
    assert reached.keys() == {"dense layer", "sparse layer", "prompt", "decode", "attention"}
    prompts = "tiles" if host_core.isa == "amx" else "floats"
    for each in reached.values():
        assert each["limit"] == (prompts if each["what"] == "prompt" else "memory")
        assert each["share"] == pytest.approx(each["rate"] / limits[each["limit"], threads])
    assert (found["backend"], found["isa"]) == (host_core.host, host_core.isa)


def test_a_roofline_counts_all_rows_of_a_screened_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    factors = ((32, 64), (270, 32), (270,))
    tensors = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in zip(screen.TENSORS, factors, strict=True)
    }
    path = tmp_path / "model.gguf"
    tiny_model.write(path, keys={screen.ROWS_KEY: 20}, tensors=tensors, context=64)
    sessions = []
    with Model.load(path) as model:
        assert model.head == "screened"
        opened = model.new_session

        def new_session(context: int) -> Session:
            sessions.append(opened(context))
            return sessions[-1]

        monkeypatch.setattr(model, "new_session", new_session)
        small_roofline(model, model.core)
        assert len(sessions) == 3
        for session in sessions:
            tokens, rows = session.head_rows
            assert rows == 270 * tokens > 0


def test_what_takes_too_little_time_has_no_share() -> None:
    rates = {"threads": 1, "backend": "native", "isa": "avx2", "repeats": 1}
    shown = _roofline_table(
        Roofline(
            limits=(Limit("memory", 1, 2e9),),
            reached=(Reached("decode", 1e9, "memory", 0.5), Reached("attention", 0, "memory", 0)),
            layer="64x192",
            format="q8_0",
            model="a",
            **rates,  # type: ignore[arg-type]
        )
    )
    assert "50 % of memory" in shown
    assert "attention                     too little beside the rest" in shown
    assert " 0 % of" not in shown


def test_a_roofline_needs_no_model(host_core: Core) -> None:
    found = small_roofline(None, host_core)
    whats = [each["what"] for each in found["reached"]]  # type: ignore[attr-defined]
    assert whats == ["dense layer", "sparse layer"]


@pytest.mark.parametrize(
    "options", [{"repeats": 0}, {"prompt": 0}, {"positions": 3}, {"active": 2.0}, {"active": 0.0}]
)
def test_a_roofline_of_nothing(options: dict[str, float], host_core: Core) -> None:
    with pytest.raises(ArgumentError, match=f"^{next(iter(options))}(:| must be)"):
        bench_roofline(64, 192, core=host_core, **options)  # type: ignore[arg-type]
