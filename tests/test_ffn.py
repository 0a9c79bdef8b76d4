"""Feed-forward layers, predictors and selection, on every host, against float64 numpy."""

from __future__ import annotations

import pickle
from math import erf
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsefire as sf
from reference import pack
from sparsefire.core.core import Core
from sparsefire.errors import (
    ArgumentError,
    FormatError,
    NotFiniteError,
    ShapeError,
    UnsupportedError,
)
from sparsefire.ffn.layer import SparseFfn
from sparsefire.weights.formats import FORMATS, WRITTEN_FORMATS
from sparsefire.weights.matrix import Matrix

Doubles = npt.NDArray[np.float64]

# Of the largest output; weights as stored.
TOLERANCE = dict.fromkeys(WRITTEN_FORMATS, 1e-4) | dict.fromkeys(("f32", "f16", "bf16"), 2e-6)

ACTIVATIONS: dict[str, Any] = {
    "identity": lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "relu2": lambda v: np.maximum(v, 0) ** 2,
    "silu": lambda v: v / (1 + np.exp(-v)),
    "gelu_tanh": lambda v: v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
    "gelu_erf": lambda v: v / 2 * (1 + np.vectorize(erf)(v / np.sqrt(2))),
    "fatrelu": lambda v: np.where(v > 0.25, v, 0),
}


class Layer:
    """A random layer and the weights that it computes with."""

    def __init__(self, activation: str, format: str, gated: bool, hidden: int, d: int, out: int):
        random = np.random.default_rng(hidden + d + out)
        self.activation = activation
        w1, gate = random.standard_normal((2, hidden, d))
        w2 = random.standard_normal((out, hidden)) / np.sqrt(hidden)
        self.b1, self.b2 = random.standard_normal(hidden), random.standard_normal(out)
        self.gate_bias = random.standard_normal(hidden) if gated else None
        self.ffn = sf.SparseFfn(
            w1,
            w2,
            activation,
            gate=gate if gated else None,
            b1=self.b1,
            b2=self.b2,
            gate_bias=self.gate_bias,
            format=format,
            parameter=0.25 if activation == "fatrelu" else 0.0,
        )
        stored = [_as_stored(each, format) for each in (gate, w1, w2.T)]
        self.gate = stored[0] if gated else None
        self.up, self.down = stored[1], stored[2]
        self.x = random.standard_normal((3, d))

    def reference(self, x: Doubles, use: Any = slice(None)) -> Doubles:
        """The output of the neurons `use`, in float64."""
        act = ACTIVATIONS[self.activation]
        up = self.up @ x + self.b1
        values = act(up) if self.gate is None else act(self.gate @ x + self.gate_bias) * up
        return np.asarray(values[use] @ self.down[use] + self.b2)


def _as_stored(weights: Doubles, format: str) -> Doubles:
    """Weights after the rounding of a format, by the gguf package or numpy."""
    single = np.ascontiguousarray(weights, np.float32)
    kind = gguf.GGMLQuantizationType(FORMATS[format].code)
    return gguf.dequantize(pack(single, kind), kind).reshape(single.shape).astype(np.float64)


def _sizes(format: str) -> tuple[tuple[int, int, int], ...]:
    """Sizes (hidden, input, output) of layers that the format can hold."""
    if FORMATS[format].block == 256:
        return ((67, 512, 256),)
    if FORMATS[format].block == 32:
        return ((67, 64, 96), (130, 32, 32))
    return ((67, 45, 31), (600, 45, 31), (1100, 45, 31))  # dense ones, 512 neurons at a time


def assert_near(found: npt.ArrayLike, wanted: Doubles, tolerance: float) -> None:
    error = np.abs(np.asarray(found, np.float64) - wanted).max()
    assert error <= tolerance * max(1.0, np.abs(wanted).max()), error


# Every activation in two formats, and every format with one activation.
CASES = [(activation, format) for activation in ACTIVATIONS for format in ("f32", "q8_0")]
CASES += [("silu", format) for format in WRITTEN_FORMATS if format not in ("f32", "q8_0")]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("activation", "format"), CASES)
def test_every_mode_equals_the_reference(
    activation: str, format: str, gated: bool, core: Core
) -> None:
    for hidden, d, out in _sizes(format):
        layer = Layer(activation, format, gated, hidden, d, out)
        wanted = np.array([layer.reference(x) for x in layer.x])
        tolerance = TOLERANCE[format] * np.sqrt(hidden)
        for mode in ("dense", "exact"):
            assert_near(layer.ffn.forward(layer.x, mode=mode), wanted, tolerance)
        everything = np.arange(hidden)
        assert_near(layer.ffn.forward_sparse(layer.x[0], everything), wanted[0], tolerance)
        some = everything[1::3]
        part = layer.ffn.forward_sparse(layer.x[0], some)
        assert_near(part, layer.reference(layer.x[0], some), tolerance)


def test_exact_skips_what_is_zero(host_core: Core) -> None:
    layer = Layer("relu", "f32", True, 90, 40, 24)
    layer.ffn.forward(layer.x, mode="exact")
    gates = np.array([layer.gate @ x + layer.gate_bias for x in layer.x])  # type: ignore[operator]
    assert layer.ffn.counts.active.tolist() == (gates > 0).sum(axis=1).tolist()
    assert layer.ffn.counts.selected.tolist() == [90, 90, 90]


def test_arrays_of_every_kind(host_core: Core) -> None:
    layer = Layer("silu", "f32", True, 33, 20, 18)
    wanted = np.array([layer.reference(x) for x in layer.x])
    forms = [layer.x, layer.x.astype(np.float32), np.asfortranarray(layer.x), layer.x.tolist()]
    forms.append(np.repeat(layer.x, 2, axis=0)[::2])
    for form in forms:
        assert_near(layer.ffn.forward_dense(form), wanted, 1e-5)
    out = np.empty((3, 18), np.float64)[:, ::-1]
    assert layer.ffn.forward_dense(layer.x, out=out) is out
    assert_near(out, wanted, 1e-5)
    assert layer.ffn.forward_dense(np.empty((0, 20))).shape == (0, 18)


def test_an_empty_active_set_gives_the_bias(core: Core) -> None:
    layer = Layer("relu", "q8_0", True, 64, 32, 32)
    assert_near(layer.ffn.forward_sparse(layer.x[0], []), layer.b2, 1e-7)


on_every_core = settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@on_every_core
@given(seed=st.integers(0, 10_000), gated=st.booleans(), data=st.data())
def test_neurons_are_a_set(seed: int, gated: bool, data: st.DataObject, core: Core) -> None:
    """All of them are the dense layer; some of them are it with the others zeroed; and their order
    changes nothing."""
    random = np.random.default_rng(seed)
    hidden, d = int(random.integers(1, 70)), int(random.integers(1, 40))
    w1, gates = random.standard_normal((2, hidden, d))
    gate = gates if gated else None
    w2 = random.standard_normal((d, hidden))
    activation = data.draw(st.sampled_from(sorted(ACTIVATIONS)))
    order = random.permutation(hidden)
    x = random.standard_normal(d)
    mask = np.isin(np.arange(hidden), sorted(data.draw(st.sets(st.integers(0, hidden - 1)))))
    one = sf.SparseFfn(w1, w2, activation, gate=gate)
    dense = one.forward_dense(x).astype(np.float64)
    assert_near(one.forward_sparse(x, np.arange(hidden)), dense, 1e-5)
    wanted = one.forward_sparse(x, mask).astype(np.float64)
    zeroed = sf.SparseFfn(w1, w2 * mask, activation, gate=gate)
    assert_near(zeroed.forward_dense(x), wanted, 1e-5)
    other = sf.SparseFfn(
        w1[order], w2[:, order], activation, gate=None if gate is None else gate[order]
    )
    assert_near(other.forward_dense(x), dense, 1e-5)
    assert_near(other.forward_sparse(x, mask[order]), wanted, 1e-5)
    assert np.array_equal(one.forward_sparse(x, np.flatnonzero(mask)[::-1]), wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w2": np.ones((5, 8))}, "w2"),
        ({"gate": np.ones((7, 5))}, "gate"),
        ({"b1": np.ones(8)}, "b1"),
        ({"b2": np.ones(3)}, "b2"),
        ({"w1": np.ones(7)}, "w1"),
    ],
)
def test_shapes_are_checked(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"w1": np.ones((7, 6)), "w2": np.ones((5, 7)), **changes}
    with pytest.raises(ShapeError, match=message):
        sf.SparseFfn(arguments.pop("w1"), arguments.pop("w2"), **arguments)


def test_bad_arguments(host_core: Core) -> None:
    layer = Layer("relu", "f32", False, 12, 6, 5)
    with pytest.raises(ShapeError):
        layer.ffn.forward(np.ones(7))
    for bad in (np.nan, np.inf):
        with pytest.raises(NotFiniteError):
            layer.ffn.forward([bad] * 6)
    with pytest.raises(ArgumentError, match="12"):
        layer.ffn.forward_sparse(np.ones(6), [12])
    with pytest.raises(ArgumentError, match="predictor"):
        layer.ffn.forward(np.ones(6), mode="sparse")
    with pytest.raises(ArgumentError, match="sideways"):
        layer.ffn.forward(np.ones(6), mode="sideways")
    with pytest.raises(ArgumentError, match="tanhish"):
        sf.SparseFfn(np.ones((4, 4)), np.ones((4, 4)), "tanhish")
    with pytest.raises(ArgumentError, match="has a limit"):
        sf.SparseFfn(np.ones((4, 4)), np.ones((4, 4)), "silu_limited")
    with pytest.raises(FormatError):
        sf.SparseFfn(np.ones((4, 33)), np.ones((4, 4)), format="q8_0")


# -- predictors and selection ----------------------------------------------------------------------


@pytest.mark.parametrize("format", ["f32", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("relu_between", [False, True])
def test_low_rank_predictor(format: str, relu_between: bool, core: Core) -> None:
    random = np.random.default_rng(5)
    p, q = random.standard_normal((32, 64)), random.standard_normal((77, 32))
    bias, x = random.standard_normal(77), random.standard_normal((4, 64))
    predictor = sf.LowRankPredictor.from_matrices(
        core,
        Matrix.from_array(p, format, core),
        Matrix.from_array(q, format, core),
        bias,
        hot=9,
        relu_between=relu_between,
    )
    z = x @ _as_stored(p, format).T
    wanted = (np.maximum(z, 0) if relu_between else z) @ _as_stored(q, format).T + bias
    assert_near(predictor.scores(x), wanted, 1e-4)
    clear = np.abs(wanted) > 1e-2
    for ids, scores, sure in zip(predictor.predict(x), wanted, clear, strict=True):
        chosen = np.isin(np.arange(77), ids)
        assert chosen[:9].all()
        assert (np.diff(ids) > 0).all()
        assert (chosen == (scores > 0))[9:][sure[9:]].all()


def test_a_predictor_chooses_what_sparse_mode_computes(core: Core) -> None:
    layer = Layer("relu", "f32", True, 120, 32, 32)
    predictor = sf.LowRankPredictor(32, 120, 8, sf.SparsityConfig.with_top_k(17), seed=3)
    found = layer.ffn.forward(layer.x, predictor)
    for x, y, ids in zip(layer.x, found, predictor.predict(layer.x), strict=True):
        assert len(ids) == 17
        assert_near(y, layer.reference(x, ids), 1e-5)
    assert layer.ffn.counts.selected.tolist() == [17] * 3
    with pytest.raises(NotFiniteError):
        predictor.predict(np.full(32, np.nan))
    with pytest.raises(ShapeError, match="predictor"):
        layer.ffn.forward(layer.x, sf.LowRankPredictor(32, 121, 8))


def test_any_object_that_predicts_will_do(host_core: Core) -> None:
    class Even:
        def predict(self, x: npt.ArrayLike) -> Any:
            ids = np.arange(0, 40, 2)
            return ids if np.ndim(x) == 1 else [ids] * len(np.asarray(x))

    layer = Layer("gelu_tanh", "f32", False, 40, 12, 9)
    for x, y in zip(layer.x, layer.ffn.forward(layer.x, Even()), strict=True):
        assert_near(y, layer.reference(x, np.arange(0, 40, 2)), 1e-5)


scores_lists = st.lists(
    st.floats(width=32, allow_nan=True) | st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=60
)


def _best(scores: list[float], count: int) -> list[int]:
    """The definition: by score, then by id, NaN never."""
    usable = [i for i, score in enumerate(scores) if not np.isnan(score)]
    return sorted(sorted(usable, key=lambda i: (-scores[i], i))[: max(count, 0)])


@on_every_core
@given(scores=scores_lists, k=st.integers(0, 70))
def test_top_k(scores: list[float], k: int, core: Core) -> None:
    assert sf.SparsityConfig.with_top_k(k).select(scores).tolist() == _best(scores, k)


@on_every_core
@given(scores=scores_lists, sparsity=st.floats(0, 1))
def test_target_sparsity(scores: list[float], sparsity: float, core: Core) -> None:
    found = sf.SparsityConfig.with_target_sparsity(sparsity).select(scores).tolist()
    assert found == _best(scores, len(found))
    usable = sum(not np.isnan(score) for score in scores)
    wanted = min((1 - sparsity) * len(scores), usable)
    assert abs(len(found) - wanted) <= 1


@on_every_core
@given(
    scores=scores_lists,
    threshold=st.floats(-2, 2, width=32),
    bounds=st.tuples(st.integers(0, 70), st.integers(0, 70)).map(sorted),
)
def test_threshold(scores: list[float], threshold: float, bounds: list[int], core: Core) -> None:
    least, most = bounds
    config = sf.SparsityConfig.with_threshold(threshold, minimum=least, maximum=most)
    above = sum(score > threshold for score in scores)
    wanted = _best(scores, min(max(above, least), most))
    assert config.select(scores).tolist() == wanted


def test_bad_sparsity() -> None:
    for make in (
        lambda: sf.SparsityConfig.with_top_k(-1),
        lambda: sf.SparsityConfig.with_threshold(float("nan")),
        lambda: sf.SparsityConfig.with_target_sparsity(1.1),
        lambda: sf.SparsityConfig.with_top_k(3, minimum=5, maximum=4),
        lambda: sf.SparsityConfig(),
    ):
        with pytest.raises(ArgumentError):
            make()


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", TOLERANCE)
def test_matrix_multiply(format: str, core: Core) -> None:
    random = np.random.default_rng(8)
    shapes = ((1, 256), (5, 768)) if FORMATS[format].block == 256 else ((1, 32), (5, 64), (33, 160))
    for rows, columns in (*shapes, (130, 1024)):
        weights, x = random.standard_normal((rows, columns)), random.standard_normal((7, columns))
        matrix = Matrix.from_array(weights, format, core)
        wanted = x @ _as_stored(weights, format).T
        assert_near(matrix.multiply(x), wanted, TOLERANCE[format])
        assert np.array_equal(matrix.multiply(x)[3], matrix.multiply(x[3]))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_both_active_and_norm_before_down(both: bool, norm: bool, core: Core) -> None:
    random = np.random.default_rng(5)
    gate, up = random.standard_normal((2, 70, 33))
    down, weight = random.standard_normal((21, 70)), random.standard_normal(70)
    x = random.standard_normal((5, 33))
    layer = SparseFfn(up, down, "relu2", gate=gate, core=core)
    layer.set_both_active(both)
    layer.set_sub_norm(weight if norm else None, 1e-4)

    def wanted(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        ups = rows @ up.T
        values = np.maximum(rows @ gate.T, 0) ** 2 * (np.maximum(ups, 0) ** 2 if both else ups)
        values = np.where(np.isin(np.arange(70), ids), values, 0)
        if norm:
            values = values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-4) * weight
        return np.asarray(values @ down.T)

    everyone = np.arange(70)
    for each in (layer, pickle.loads(pickle.dumps(layer))):
        for mode in ("dense", "exact"):
            y = each.forward(x, mode=mode)
            scale = np.abs(wanted(x, everyone)).max()
            assert np.abs(y - wanted(x, everyone)).max() < 1e-5 * scale, mode
    some = np.arange(3, 70, 4)
    y = layer.forward_sparse(x[0], some)
    assert np.abs(y - wanted(x[:1], some)[0]).max() < 1e-5 * np.abs(y).max()
    if both:
        layer.forward(x, mode="exact")
        kept = (x @ gate.T > 0) & (x @ up.T > 0)
        assert layer.counts.active.tolist() == kept.sum(1).tolist()


@pytest.mark.parametrize("deviations", [0.5, 1.7])
def test_gates_cut_by_their_deviation(deviations: float, core: Core) -> None:
    random = np.random.default_rng(6)
    gate, up = random.standard_normal((2, 300, 33))
    down, bias = random.standard_normal((21, 300)), random.standard_normal(300)
    layer = SparseFfn(up, down, "gelu_tanh", gate=gate, gate_bias=bias, core=core)
    layer.set_gate_deviations(deviations)
    x = random.standard_normal((5, 33))
    gates = x @ gate.T + bias
    least = gates.mean(-1, keepdims=True) + deviations * gates.std(-1, ddof=1, keepdims=True)
    above = np.maximum(gates - least, 0)
    gelu = above / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (above + 0.044715 * above**3)))
    wanted = (gelu * (x @ up.T)) @ down.T
    for each in (layer, pickle.loads(pickle.dumps(layer))):
        for mode in ("dense", "exact", None):
            y = each.forward(x, mode=mode)
            assert np.abs(y - wanted).max() < 1e-5 * np.abs(wanted).max(), mode
        assert each.counts.active.tolist() == (above > 0).sum(1).tolist()
    layer.set_gate_deviations(0)
    assert layer.forward(x, mode="exact").shape == layer.forward(x).shape
    assert layer.counts.active.tolist() == [300] * 5


def test_what_extras_refuse(tmp_path: Path) -> None:
    layer = SparseFfn(np.eye(4), np.eye(4))
    with pytest.raises(ArgumentError):
        layer.set_both_active(True)
    with pytest.raises(ShapeError, match="weight"):
        layer.set_sub_norm(np.ones(3))
    with pytest.raises(ArgumentError):
        layer.set_sub_norm(np.ones(4), -1.0)
    layer.set_sub_norm(np.ones(4))
    with pytest.raises(UnsupportedError, match="a norm before its down"):
        layer.save_bundles(tmp_path / "a.gguf")
    with pytest.raises(ArgumentError, match="no gate"):
        layer.set_gate_deviations(1.0)
    gated = SparseFfn(np.eye(4), np.eye(4), gate=np.eye(4))
    with pytest.raises(ArgumentError):
        gated.set_gate_deviations(-1.0)
    gated.set_gate_deviations(1.0)
    with pytest.raises(UnsupportedError, match="cut by their deviation"):
        gated.save_bundles(tmp_path / "a.gguf")
    with pytest.raises(UnsupportedError):
        gated.set_predictor(sf.SignPredictor(np.eye(4)))
    with pytest.raises(UnsupportedError):
        gated.forward_sparse(np.ones(4), [1])


@on_every_core
@given(
    gap=st.integers(-70, 70),
    n=st.integers(1, 3),
    way=st.sampled_from(["dense", "exact", "sparse", "ids", "matrix"]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_out_may_overlap_the_input(
    gap: int, n: int, way: str, dtype: type[np.floating], host_core: Core
) -> None:
    d = 32
    random = np.random.default_rng(7)
    gate, up, down = random.standard_normal((3, d, d))
    ffn = sf.SparseFfn(up, down, "relu", gate=gate)
    ffn.set_predictor(sf.SignPredictor(gate, 1.5))
    matrix = Matrix.from_array(up)

    def run(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if way == "matrix":
            return matrix.multiply(x, out)
        if way == "ids":
            return ffn.forward_sparse(x, [range(0, d, 2)] * n, out=out)
        return ffn.forward(x, mode=way, out=out)

    memory = np.zeros(n * d + 140, dtype)
    x = memory[70 : 70 + n * d].reshape(n, d)
    out = memory[70 + gap : 70 + gap + n * d].reshape(n, d)
    x[...] = random.standard_normal((n, d))
    wanted = run(x.copy())
    assert run(x, out) is out
    np.testing.assert_array_equal(out, wanted.astype(dtype))
