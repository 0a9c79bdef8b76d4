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
for name in ("q4_0", "q4_1", "q5_0", "bf16"):
    layer = sf.SparseFfn(up, down, gate=gate, gate_bias=bias, format=name)
    found[name] = layer.forward_dense(fresh).tolist()
found["int4 as q4_1"] = sf.QuantizedWeights.int4(
    packed, np.full(32, 0.1), np.full(32, 7), 64, (32, 64), format="q4_1"
).packed.tolist()

# Neurons are a set; out=, strides and dtypes; reprs; any object that predicts.
some = random.random(160) < 0.3
wanted = ffn.forward_sparse(fresh[0], some)
out = np.empty((2, 32), np.float64)[:, ::-1]
assert ffn.forward_sparse(fresh[:2], [some, some], out=out) is out
assert np.allclose(out[0], wanted) and wanted.dtype == np.float32
everything = ffn.forward_sparse(fresh[0].astype(np.float16), range(160))
assert np.allclose(everything, ffn.forward_dense(fresh[0].astype(np.float16)), atol=1e-3)
order = random.permutation(160)
turned = sf.SparseFfn(up[order], down[:, order], gate=gate[order], gate_bias=bias[order])
plain = sf.SparseFfn(up, down, gate=gate, gate_bias=bias)
assert np.allclose(
    turned.forward_sparse(fresh[0], some[order]), plain.forward_sparse(fresh[0], some), atol=1e-3
)
assert np.array_equal(plain.forward_sparse(fresh[0], []), np.zeros(32))

class Own:
    def predict(self, x):
        return some if x.ndim == 1 else [some] * len(x)

assert np.array_equal(ffn.forward(fresh[0], Own()), wanted)
found["reprs"] = list(map(repr, (ffn, predictor, sign, weights, sparsity)))

# Predictors with a ReLU between, of observed activations; files; pickles; caches.
between = sf.LowRankPredictor(64, 160, 32, relu_between=True)
held = between.calibrate(samples, np.maximum(samples @ gate.T + bias, 0), recall=0.95)
assert held.recall_mass >= 0.95
import copy, pickle
for each in (ffn, predictor, sign, weights):
    assert repr(pickle.loads(pickle.dumps(each))) == repr(copy.deepcopy(each)) == repr(each)
again = pickle.loads(pickle.dumps(ffn))
assert np.array_equal(again.forward(fresh, pickle.loads(pickle.dumps(predictor))), found["sparse"])
found["target count"] = len(sf.SparsityConfig.with_target_sparsity(0.95).select(dense[1]))
edge = np.array([np.nan, 1, 1, -np.inf, 0, 1], np.float32)
found["edges"] = [
    config.select(edge).tolist()
    for config in (
        sf.SparsityConfig.with_top_k(0),
        sf.SparsityConfig.with_top_k(2),
        sf.SparsityConfig.with_top_k(99),
        sf.SparsityConfig.with_threshold(0.5, minimum=4),
        sf.SparsityConfig.with_threshold(-2, maximum=1),
    )
]
listed = sf.devices()
assert any(host.name == sf.backend().name and host.available for host in listed.hosts)
assert "none found" in str(listed)
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
    for name in ("f32", "f16", "q8_0", "q4_0", "q4_1", "q5_0", "bf16"):
        assert_near(there[name], here[name])
    for name in (
        "top",
        "target",
        "int4",
        "error",
        "int4 as q4_1",
        "target count",
        "edges",
        "reprs",
    ):
        assert there[name] == here[name]
    # Fitting rounds differently there, where numpy has no OpenBLAS.
    assert there["selected_share"] == pytest.approx(here["selected_share"], abs=0.03)
    assert there["cutoff"] == pytest.approx(here["cutoff"], rel=1e-3)
    assert there["signs"] == here["signs"]


def assert_near(found: list[list[float]], wanted: list[list[float]]) -> None:
    largest = max(abs(value) for row in wanted for value in row)
    for row, wanted_row in zip(found, wanted, strict=True):
        assert row == pytest.approx(wanted_row, abs=2e-4 * largest)
