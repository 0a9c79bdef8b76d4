"""The toolkit for single layers in Pyodide: the same results as here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyodide_harness import PyodideRuntime

CODE = """
import json
import numpy as np
import sparsefire as sf

random = np.random.default_rng(0)
gate, up = random.standard_normal((2, 160, 64))
down = random.standard_normal((32, 160))
mixing = random.standard_normal((64, 64)) * np.geomspace(1, 0.02, 64)[:, None]
samples, fresh = (random.standard_normal((n, 64)) @ mixing for n in (1000, 50))
bias = -1.3 * (samples @ gate.T).std(axis=0)
found = {}

for format in ("f32", "f16", "q8_0"):
    ffn = sf.SparseFfn(up, down, "relu", gate=gate, gate_bias=bias, format=format)
    dense = ffn.forward_dense(fresh)
    found[format] = dense.tolist()
    exact = ffn.forward(fresh)
    assert np.allclose(exact, dense, rtol=1e-4, atol=1e-4)

sparsity = sf.SparsityConfig.with_threshold(0.01, minimum=2)
predictor = sf.LowRankPredictor(64, 160, 32, sparsity, format="q8_0")
report = predictor.calibrate(ffn, samples, recall=0.98)
assert report.recall_mass >= 0.98
found["selected_share"] = report.selected_share
found["sparse"] = ffn.forward(fresh, predictor).tolist()
for x, ids in zip(fresh, predictor.predict(fresh)):
    assert np.array_equal(ffn.forward_sparse(x, ids), ffn.forward(x, predictor))
sign = sf.SignPredictor(ffn, 1.2)
found["signs"] = [ids.tolist() for ids in sign.predict(fresh)]
found["top"] = sf.SparsityConfig.with_top_k(5).select(dense[0]).tolist()
found["target"] = sf.SparsityConfig.with_target_sparsity(0.75).select(dense[0]).tolist()

smooth = sf.SparseFfn(up, down, "gelu", gate=gate)
found["cutoff"] = smooth.calibrate_cutoff(samples, 0.1).cutoff
packed = random.integers(0, 256, 64 * 16, dtype=np.uint8)
weights = sf.QuantizedWeights.int4(packed, np.full(32, 0.1), np.full(32, 7), 64, (32, 64))
found["int4"] = [weights.packed.tolist(), weights.dequantize().tolist()]
try:
    predictor.calibrate(ffn, samples[:10])
except sf.CalibrationError as error:
    found["error"] = str(error)
json.dumps(found)
"""


@pytest.mark.pyodide
def test_the_toolkit_in_pyodide(pyodide_node: PyodideRuntime) -> None:
    there = json.loads(pyodide_node.run(CODE))
    scope: dict[str, Any] = {}
    body, last = CODE.strip().rsplit("\n", 1)
    exec(body, scope)
    here = json.loads(eval(last, scope))
    assert here.keys() == there.keys()
    for name in ("f32", "f16", "q8_0"):
        assert_near(there[name], here[name])
    for name in ("top", "target", "int4", "error"):
        assert there[name] == here[name]
    # Fitting rounds differently there, where numpy has no OpenBLAS.
    assert there["selected_share"] == pytest.approx(here["selected_share"], abs=0.03)
    assert there["cutoff"] == pytest.approx(here["cutoff"], rel=1e-3)
    assert there["signs"] == here["signs"]


def assert_near(found: list[list[float]], wanted: list[list[float]]) -> None:
    largest = max(abs(value) for row in wanted for value in row)
    for row, wanted_row in zip(found, wanted, strict=True):
        assert row == pytest.approx(wanted_row, abs=2e-4 * largest)
