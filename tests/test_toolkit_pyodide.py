"""The toolkit for single layers in Pyodide: the same results as here."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import sparsefire as sf
from conftest import ROOT
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

# Every format and activation; integers; what cannot be.
wide = random.standard_normal((4, 256)).astype(np.float32)
found["packed"], found["errors"] = {}, {}
from sparsefire.weights.formats import WRITTEN_FORMATS
for name in WRITTEN_FORMATS:
    packed = sf.QuantizedWeights.quantize(wide, name)
    found["packed"][name] = packed.packed.tolist()
    found["errors"][name] = packed.error(wide).relative
    assert np.array_equal(packed.dequantize_row(-1), packed.dequantize()[3])
    assert packed.nbytes == packed.packed.nbytes and packed.shape == (4, 256)
once = sf.QuantizedWeights.quantize(random.standard_normal((32, 64)), "q8_0")
assert once.transpose().shape == (64, 32)
assert 1 < once.transpose().error(once.dequantize().T).relative / 0.005 < 2
integers = random.integers(-128, 128, (4, 64))
weights = sf.QuantizedWeights.int8(integers, 0.5, 3)
assert np.array_equal(weights.dequantize(), (integers - 3) * 0.5) or integers.min() < -125
for name in sf.ActivationType:
    parameter = 0.3 if name == "fatrelu" or name.has_limit else 0.0
    layer = sf.SparseFfn(up, down, name, gate=gate, gate_bias=bias, parameter=parameter)
    found[f"act {name}"] = layer.forward_dense(fresh).tolist()
    every = layer.forward_sparse(fresh, [range(160)] * len(fresh))
    assert np.allclose(every, found[f"act {name}"], rtol=1e-4, atol=1e-3)
found["gate cutoff"] = smooth.calibrate_cutoff(samples, 0.1, on="gate").cutoff
refused = []
for bad in (
    lambda: sf.SparseFfn(up, down.T),
    lambda: sf.SparseFfn(up, down, format="q9"),
    lambda: ffn.forward(np.full(64, np.nan)),
    lambda: ffn.forward_sparse(fresh[0], [160]),
    lambda: sf.SparsityConfig.with_top_k(-1),
    lambda: sf.NeuronCache(budget_bytes=0),
    lambda: sf.LowRankPredictor(64, 160, 32, format="q4_k"),
    lambda: predictor.calibrate(ffn, samples[:, :3]),
    lambda: predictor.calibrate(ffn, np.ones((100, 64))),
    lambda: sf.use_backend("npu"),
):
    try:
        bad()
    except sf.SparsefireError as error:
        refused.append([type(error).__name__, str(error)])
found["refused"] = refused
listed = sf.devices()
assert any(host.name == sf.backend().name and host.available for host in listed.hosts)
assert "the core uses no NPU" in str(listed)
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
    for name in sf.ActivationType:
        assert_near(there[f"act {name}"], here[f"act {name}"])
    assert len(here["refused"]) == 10
    for name in (
        "packed",
        "refused",
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
    assert there["gate cutoff"] == pytest.approx(here["gate cutoff"], rel=1e-3)
    assert there["errors"] == pytest.approx(here["errors"], rel=1e-6)
    assert there["signs"] == here["signs"]


@pytest.mark.pyodide
def test_the_toolkit_page_in_pyodide(pyodide_node: PyodideRuntime) -> None:
    """docs/guide/toolkit.md up to its files, which need a package that Pyodide lacks."""
    page = (ROOT / "docs" / "guide" / "toolkit.md").read_text(encoding="utf-8").split("## Files")[0]
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    code = code.replace("inputs(2000)", "inputs(400)")  # numpy has no BLAS there
    assert pyodide_node.run(f"{code}\n[sf.backend().name, report.recall_mass]")[0] == "pyodide"


def assert_near(found: list[list[float]], wanted: list[list[float]]) -> None:
    largest = max(abs(value) for row in wanted for value in row)
    for row, wanted_row in zip(found, wanted, strict=True):
        assert row == pytest.approx(wanted_row, abs=2e-4 * largest)
