"""`sparsefire bench`: that what it prints is what it says, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sparsefire import _core
from sparsefire.bench import bench_ffn
from sparsefire.errors import ArgumentError, FormatError

Core = _core.Core


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("format", "tolerance"), [("f32", 1e-5), ("f16", 1e-5), ("q8_0", 2e-4)])
def test_the_numbers_belong_together(
    format: str, tolerance: float, gated: bool, host_core: Core
) -> None:
    seen: list[tuple[int, int]] = []
    result = bench_ffn(
        64,
        192,
        gated=gated,
        format=format,
        active=0.25,
        rank=32,
        repeats=6,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 6) for i in range(6)]
    weights = (2 + gated) * 64 * 192
    assert result.bytes_dense == weights * {"f32": 4, "f16": 2, "q8_0": 34 / 32}[format]
    predictor = (64 + 192) * 32 * 34 / 32 + 192 * 4
    assert result.active_share == 48 / 192
    assert result.bytes_sparse == predictor + result.bytes_dense / 4
    assert result.limit == pytest.approx(1 / (0.25 + predictor / result.bytes_dense))
    assert result.speedup == pytest.approx(result.dense_ms / result.sparse_ms)
    assert result.efficiency == pytest.approx(result.speedup / result.limit)
    assert 0 < result.max_rel_err < tolerance
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


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsefire", "bench", "ffn", *arguments]
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
