"""Steps with a recurrent state, on every host and instruction set, against float64 numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from one_step import Doubles, OneStep
from sparsefire.arch.plan import Buffer, Plan
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, NotFiniteError, ShapeError, UnsupportedError

TOKENS = 40  # more than pass through a layer together
RANDOM = np.random.default_rng(7)


def assert_near(found: npt.ArrayLike, wanted: Doubles) -> None:
    error = np.abs(np.asarray(found, np.float64) - wanted).max()
    assert error <= 2e-6 * max(1.0, np.abs(wanted).max()), error


class Convolution:
    """9 elements, of which each is mixed with those before it."""

    def __init__(self, taps: int, bias: bool) -> None:
        self.width, self.taps = 9, taps
        self.weight = RANDOM.standard_normal((9, taps))
        self.bias = RANDOM.standard_normal(9) if bias else None
        self.inputs = {"x": RANDOM.standard_normal((TOKENS, 9))}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        bias = None if self.bias is None else plan.constant(self.bias)
        plan.convolution(buffers["x"], plan.constant(self.weight), out, bias)

    def reference(self, tokens: list[int]) -> Doubles:
        x = np.concatenate([np.zeros((self.taps - 1, 9)), self.inputs["x"][tokens]])
        sums = [np.sum(self.weight.T * x[at : at + self.taps], 0) for at in range(len(tokens))]
        return np.array(sums) + (0 if self.bias is None else self.bias)


class Recurrence:
    """6 heads with states (keys, values), as one of the families has them."""

    def __init__(self, family: str, keys: int, values: int) -> None:
        self.family, self.keys, self.values, self.heads = family, keys, values, 6
        self.width = 6 * values
        groups = 2 if family == "mamba2" else 6
        decays = 6 if family == "mamba2" else 6 * keys
        sizes = {"q": groups * keys, "k": groups * keys, "v": 6 * values}
        if family == "rwkv7":
            sizes |= {"a": groups * keys, "b": groups * keys}
        self.inputs = {
            name: RANDOM.standard_normal((TOKENS, size)) / np.sqrt(keys)
            for name, size in sizes.items()
        }
        self.inputs["decay"] = RANDOM.uniform(0.5, 1, (TOKENS, decays))

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        b = buffers
        plan.recurrence(
            b["q"],
            b["k"],
            b["v"],
            b["decay"],
            out,
            heads=self.heads,
            keys=self.keys,
            removed=(b["a"], b["b"]) if self.family == "rwkv7" else None,
            before=self.family == "rwkv6",
        )

    def reference(self, tokens: list[int]) -> Doubles:
        state = np.zeros((self.heads, self.keys, self.values))
        rows = []
        for token in tokens:
            by_key = {name: of[token] for name, of in self.inputs.items() if name in "qkab"}
            x = {name: of.reshape(-1, self.keys) for name, of in by_key.items()}
            x = {name: np.repeat(of, self.heads // len(of), 0) for name, of in x.items()}
            v = self.inputs["v"][token].reshape(self.heads, self.values)
            decay = self.inputs["decay"][token].reshape(self.heads, -1, 1)
            new = decay * state + x["k"][:, :, None] * v[:, None, :]
            if "a" in x:
                new += x["b"][:, :, None] * np.einsum("hk,hkv->hv", x["a"], state)[:, None, :]
            seen = state if self.family == "rwkv6" else new
            rows.append(np.einsum("hk,hkv->hv", x["q"], seen).ravel())
            state = new
        return np.array(rows)


class HeadDots:
    """5 heads of 7."""

    width = 5

    def __init__(self) -> None:
        self.inputs = {name: RANDOM.standard_normal((TOKENS, 35)) for name in "ab"}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        plan.head_dots(buffers["a"], buffers["b"], out)

    def reference(self, tokens: list[int]) -> Doubles:
        a, b = (self.inputs[name][tokens].reshape(-1, 5, 7) for name in "ab")
        return np.asarray((a * b).sum(2))


class Mix:
    """Of 3 streams of 18 to 2."""

    width = 36

    def __init__(self) -> None:
        widths = {"x": 54, "weights": 6}
        self.inputs = {name: RANDOM.standard_normal((TOKENS, w)) for name, w in widths.items()}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        plan.mix(buffers["x"], buffers["weights"], out, 3)

    def reference(self, tokens: list[int]) -> Doubles:
        x, weights = self.inputs["x"][tokens], self.inputs["weights"][tokens]
        mixed = weights.reshape(-1, 2, 3) @ x.reshape(-1, 3, 18)
        return np.asarray(mixed.reshape(-1, 36))


class Softmax:
    """Of 4 rows of 3, with so many rounds that divide columns and rows by their sums."""

    width = 12

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.inputs = {"x": 3 * RANDOM.standard_normal((TOKENS, 12))}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        plan.softmax(buffers["x"], out, 3, self.rounds, 0.01)

    def reference(self, tokens: list[int]) -> Doubles:
        powers = np.exp(self.inputs["x"][tokens].reshape(-1, 4, 3))
        shares = powers / powers.sum(2, keepdims=True) + (0.01 if self.rounds else 0)
        for step in range(2 * self.rounds - 1):
            shares = shares / (shares.sum(1 + step % 2, keepdims=True) + 0.01)
        return np.asarray(shares.reshape(-1, 12))


class Pool:
    """Runs of so many tokens of 5 elements, with one half or two."""

    width = 5

    def __init__(self, halves: int, tokens: int) -> None:
        self.halves, self.tokens = halves, tokens
        self.biases = RANDOM.standard_normal((tokens, 5 * halves))
        shape = TOKENS, 5 * halves
        self.inputs = {"x": RANDOM.standard_normal(shape), "s": 40 * RANDOM.standard_normal(shape)}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        plan.pool(buffers["x"], buffers["s"], plan.constant(self.biases), out, self.tokens)

    def reference(self, tokens: list[int]) -> Doubles:
        x, found = self.inputs["x"][tokens], np.zeros((len(tokens), 5))
        scores = self.inputs["s"][tokens] + np.resize(self.biases, x.shape)
        for end in range(self.tokens, len(tokens) + 1, self.tokens):
            parts = [(slice(end - self.tokens, end), slice(-5, None))]
            if self.halves == 2 and end > self.tokens:
                parts.append((slice(end - 2 * self.tokens, end - self.tokens), slice(0, 5)))
            value, score = (np.concatenate([of[each] for each in parts]) for of in (x, scores))
            powers = np.exp(score - score.max(0))
            found[end - 1] = (powers * value).sum(0) / powers.sum(0)
        return found


class Mark:
    """2 ids below 7."""

    width = 7

    def __init__(self) -> None:
        self.inputs = {"ids": RANDOM.integers(0, 7, (TOKENS, 2)).astype(np.float64)}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        plan.mark(buffers["ids"], out)

    def reference(self, tokens: list[int]) -> Doubles:
        ids = self.inputs["ids"][tokens].astype(int)
        return np.asarray(np.eye(7)[ids].max(1))


class Temperature:
    """Of the position, from 3 places further on."""

    width = 6

    def __init__(self) -> None:
        self.inputs = {"v": RANDOM.standard_normal((TOKENS, 6))}

    def build(self, plan: Plan, buffers: dict[str, Buffer], out: Buffer) -> None:
        plan.copy(buffers["v"], out, width=6)
        plan.temperature(out, 0.3, 5, 3)

    def reference(self, tokens: list[int]) -> Doubles:
        runs = (np.arange(len(tokens)) + 3) // 5
        return np.asarray(self.inputs["v"][tokens] * (1 + 0.3 * np.log(runs + 1))[:, None])


CASES = {
    "convolution of 4 with a bias": Convolution(4, True),
    "convolution of 2": Convolution(2, False),
    "convolution of 1": Convolution(1, True),
    "mamba2": Recurrence("mamba2", 16, 24),
    "rwkv6": Recurrence("rwkv6", 12, 12),
    "rwkv7": Recurrence("rwkv7", 8, 19),
    "head dots": HeadDots(),
    "mix": Mix(),
    "temperature": Temperature(),
    "pool of 3": Pool(1, 3),
    "pool of 4 in halves": Pool(2, 4),
    "mark": Mark(),
    "softmax": Softmax(0),
    "softmax of one round": Softmax(1),
    "softmax of three rounds": Softmax(3),
}
_STATELESS = ("head dots", "mark", "mix", "temperature", "convolution of 1")
RECURRENT = [name for name in CASES if not name.startswith((*_STATELESS, "softmax"))]


def model_of(core: Core, name: str) -> OneStep:
    case = CASES[name]
    return OneStep(core, case.inputs, case.width, case.build)


@pytest.mark.parametrize("name", CASES)
def test_a_step_equals_its_definition(core: Core, name: str) -> None:
    tokens = RANDOM.permutation(TOKENS).tolist()
    model = model_of(core, name)
    assert_near(model.run(model.session(), tokens), CASES[name].reference(tokens))


@pytest.mark.parametrize("name", RECURRENT)
def test_a_session_has_its_own_state_however_its_tokens_come(host_core: Core, name: str) -> None:
    model = model_of(host_core, name)
    texts = [RANDOM.permutation(TOKENS)[:12].tolist() for _ in range(3)]
    alone = [model.run(model.session(), text) for text in texts]
    sessions = [model.session() for _ in texts]
    for each, text in zip(sessions, texts, strict=True):
        model.run(each, text[:3])
    mixed = [(i, at) for at in range(3, 12) for i in range(3)]
    found = model.run_together([sessions[i] for i, _ in mixed], [texts[i][at] for i, at in mixed])
    assert np.array_equal(found, [alone[i][at] for i, at in mixed])


@pytest.mark.parametrize("name", ["convolution of 2", "rwkv7"])
def test_a_recurrent_session_goes_back_to_its_beginning_only(host_core: Core, name: str) -> None:
    model = model_of(host_core, name)
    session = model.session()
    first = model.run(session, range(9))
    with pytest.raises(UnsupportedError):
        host_core.check("sf_session_truncate", session, 4)
    assert host_core.check("sf_session_position", session) == 9
    host_core.check("sf_session_truncate", session, 0)
    assert np.array_equal(model.run(session, range(9)), first)


def test_a_failed_call_leaves_an_empty_session(host_core: Core) -> None:
    case = CASES["rwkv7"]
    bad = np.arange(TOKENS)[:, None] == 9
    inputs = {name: np.where(bad, np.inf, of) for name, of in case.inputs.items()}
    model = OneStep(host_core, inputs, case.width, case.build)
    session = model.session()
    first = model.run(session, range(5))
    with pytest.raises(NotFiniteError):
        model.run(session, [5, 9])
    assert host_core.check("sf_session_position", session) == 0
    assert np.array_equal(model.run(session, range(5)), first)


@pytest.mark.parametrize("id_", [7.0, -1.0, np.nan])
def test_marks_of_what_is_not_there_are_an_error(host_core: Core, id_: float) -> None:
    ids = {"ids": np.array([[id_, 1.0]])}
    model = OneStep(host_core, ids, 7, lambda p, b, o: p.mark(b["ids"], o))
    with pytest.raises((ArgumentError, NotFiniteError)):
        model.run(model.session(), [0])


Build = Callable[[Plan, dict[str, Buffer], Buffer], None]
WRONG: dict[str, Build] = {
    "taps": lambda p, b, o: p.step(19, b["v"].index, 0, -1, o.index, 5),
    "convolution bias": lambda p, b, o: p.convolution(
        b["v"], p.constant(np.ones(24)), o, p.constant(np.ones(11))
    ),
    "heads": lambda p, b, o: p.recurrence(b["q"], b["q"], b["v"], b["q"], o, heads=5, keys=1),
    "groups": lambda p, b, o: p.recurrence(b["q"], b["q"], b["v"], b["w"], o, heads=3, keys=1),
    "keys": lambda p, b, o: p.recurrence(b["q"], b["q"], b["v"], b["w"], o, heads=3, keys=3),
    "decay": lambda p, b, o: p.recurrence(b["q"], b["q"], b["v"], b["v"], o, heads=2, keys=1),
    "dots": lambda p, b, o: p.head_dots(b["v"], b["q"], o),
    "streams": lambda p, b, o: p.mix(b["v"], b["w"], o, 5),
    "mixed": lambda p, b, o: p.mix(b["v"], b["w"], o, 3),
    "columns": lambda p, b, o: p.softmax(b["v"], o, 5),
    "rounds": lambda p, b, o: p.softmax(b["v"], o, 3, 1001),
    "epsilon": lambda p, b, o: p.softmax(b["v"], o, 3, 1, -0.5),
    "rows": lambda p, b, o: p.softmax(b["w"], o, 3),
    "halves": lambda p, b, o: p.pool(b["w"], b["w"], p.constant(np.ones(6)), o, 2),
    "pool biases": lambda p, b, o: p.pool(b["v"], b["v"], p.constant(np.ones(36)), o, 2),
    "pool scores": lambda p, b, o: p.pool(b["v"], b["q"], p.constant(np.ones(24)), o, 2),
}


@pytest.mark.parametrize("what", WRONG)
def test_shapes_that_do_not_fit_are_errors(host_core: Core, what: str) -> None:
    inputs = {"q": np.ones((1, 2)), "v": np.ones((1, 12)), "w": np.ones((1, 3))}
    with pytest.raises((ShapeError, ArgumentError)):
        OneStep(host_core, inputs, 12, WRONG[what])
