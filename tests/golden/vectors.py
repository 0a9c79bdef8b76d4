"""Reads vectors.bin, and checks the package against it. It needs numpy and sparsefire alone, so
that it also runs in Pyodide."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import sparsefire as sf
from sparsefire.core.enums import Rule
from sparsefire.core.hosts import get_core
from sparsefire.weights.formats import weight_format
from sparsefire.weights.matrix import Matrix

LAYER, LOW_RANK, SIGN, SELECTION = 1, 2, 3, 4
ACTIVATIONS = list(sf.ActivationType)

_INTS = {
    LAYER: "format activation gated biased hidden d_in d_out n",
    LOW_RANK: "format relu_between rank hidden d_in n rule least most hot",
    SIGN: "hidden d_in n",
    SELECTION: "rule least most hidden",
}
_FLOATS = {
    LAYER: "parameter tolerance",
    LOW_RANK: "threshold tolerance",
    SIGN: "alpha",
    SELECTION: "threshold",
}


class Reader:
    """The file, from the front."""

    def __init__(self, data: bytes) -> None:
        assert data[:8] == b"SFGOLD01"
        self.data, self.at = data, 8

    def array(self, dtype: str, *shape: int) -> Any:
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        found = np.frombuffer(self.data, kind, count, self.at).reshape(shape)
        self.at += kind.itemsize * count
        return found

    def weights(self, format: int, rows: int, columns: int) -> sf.QuantizedWeights:
        row_bytes = weight_format(format).row_bytes(columns)
        packed = self.array("u1", rows, row_bytes)
        return sf.QuantizedWeights(packed, weight_format(format), (rows, columns))

    def ids(self) -> npt.NDArray[np.int32]:
        return np.asarray(self.array("<i4", int(self.array("<i4", 1)[0])))

    def record(self) -> dict[str, Any]:
        """The next record, its parts by name."""
        kind = int(self.array("<i4", 1)[0])
        r: dict[str, Any] = {"kind": kind}
        r |= {name: int(self.array("<i4", 1)[0]) for name in _INTS[kind].split()}
        r |= {name: float(self.array("<f4", 1)[0]) for name in _FLOATS[kind].split()}
        {LAYER: self.layer, LOW_RANK: self.low_rank, SIGN: self.sign, SELECTION: self.selection}[
            kind
        ](r)
        return r

    def layer(self, r: dict[str, Any]) -> None:
        hidden, d, out = r["hidden"], r["d_in"], r["d_out"]
        r["gate"] = self.weights(r["format"], hidden, d) if r["gated"] else None
        r["up"] = self.weights(r["format"], hidden, d)
        r["down"] = self.weights(r["format"], hidden, out)
        sizes = {"up_bias": hidden, "down_bias": out}
        if r["gated"]:
            sizes = {"gate_bias": hidden, **sizes}
        r["biases"] = {n: self.array("<f4", s) for n, s in sizes.items()} if r["biased"] else {}
        r["x"] = self.array("<f4", r["n"], d)
        r["ids"] = self.ids()
        r["y"], r["y_ids"] = self.array("<f8", 2, r["n"], out)

    def low_rank(self, r: dict[str, Any]) -> None:
        r["p"] = self.weights(r["format"], r["rank"], r["d_in"])
        r["q"] = self.weights(r["format"], r["hidden"], r["rank"])
        r["bias"] = self.array("<f4", r["hidden"])
        r["x"] = self.array("<f4", r["n"], r["d_in"])
        r["scores"] = self.array("<f8", r["n"], r["hidden"])
        r["ids"] = [self.ids() for _ in range(r["n"])]

    def sign(self, r: dict[str, Any]) -> None:
        r["gate"] = self.array("<f4", r["hidden"], r["d_in"])
        r["x"] = self.array("<f4", r["n"], r["d_in"])
        r["scores"] = self.array("<f8", r["n"], r["hidden"])

    def selection(self, r: dict[str, Any]) -> None:
        r["scores"] = self.array("<f4", r["hidden"])
        r["ids"] = self.ids()


def records(data: bytes) -> list[dict[str, Any]]:
    """All records of a file."""
    reader, found = Reader(data), []
    while reader.at < len(data):
        found.append(reader.record())
    return found


def near(found: Any, wanted: Any, tolerance: float, what: str) -> None:
    for row, wanted_row in zip(np.atleast_2d(found), np.atleast_2d(wanted), strict=True):
        error = np.abs(row - wanted_row).max() / max(1.0, np.abs(wanted_row).max())
        assert error <= tolerance, f"{what}: {error:.1e} off, {tolerance:.0e} is allowed"


def same(found: Any, wanted: Any, what: str) -> None:
    assert np.array_equal(found, wanted), f"{what}: {list(found)} instead of {list(wanted)}"


def config(r: dict[str, Any]) -> sf.SparsityConfig:
    """The rule of a predictor or selection, its counts those of all neurons."""
    hot = r.get("hot", 0)
    if r["rule"] == Rule.RULE_TOP_K:
        return sf.SparsityConfig.with_top_k(r["most"] + hot)
    bounds = {"minimum": r["least"] + hot, "maximum": r["most"] + hot}
    return sf.SparsityConfig.with_threshold(r["threshold"], **bounds)


def check_layer(r: dict[str, Any], what: str) -> None:
    core = get_core()
    down = Matrix.from_array(r["down"], core=core)
    ffn = sf.SparseFfn.from_matrices(
        core,
        Matrix.from_array(r["gate"], core=core) if r["gated"] else None,
        Matrix.from_array(r["up"], core=core),
        down,
        activation=ACTIVATIONS[r["activation"]],
        parameter=r["parameter"],
        **r["biases"],
    )
    for mode in ("dense", "exact"):
        near(ffn.forward(r["x"], mode=mode), r["y"], r["tolerance"], f"{what}, {mode}")
    chosen = ffn.forward_sparse(r["x"], [r["ids"]] * r["n"])
    near(chosen, r["y_ids"], r["tolerance"], f"{what}, some neurons")


def check_low_rank(r: dict[str, Any], what: str) -> None:
    core = get_core()
    predictor = sf.LowRankPredictor.from_matrices(
        core,
        Matrix.from_array(r["p"], core=core),
        Matrix.from_array(r["q"], core=core),
        r["bias"],
        relu_between=bool(r["relu_between"]),
        sparsity=config(r),
        hot=r["hot"],
    )
    near(predictor.scores(r["x"]), r["scores"], r["tolerance"], what)
    for ids, wanted in zip(predictor.predict(r["x"]), r["ids"], strict=True):
        same(ids, wanted, what)


def check_sign(r: dict[str, Any], what: str) -> None:
    near(sf.SignPredictor(r["gate"], r["alpha"]).scores(r["x"]), r["scores"], 1e-6, what)


def check_selection(r: dict[str, Any], what: str) -> None:
    same(config(r).select(r["scores"]), r["ids"], what)


CHECKS = {
    LAYER: check_layer,
    LOW_RANK: check_low_rank,
    SIGN: check_sign,
    SELECTION: check_selection,
}


def check(data: bytes) -> dict[str, int]:
    """Checks every record; how many there were of each kind."""
    counts = dict.fromkeys(("layers", "low rank", "signs", "selections"), 0)
    names = list(counts)
    for number, r in enumerate(records(data)):
        what = f"record {number}, {names[r['kind'] - 1]}"
        if "format" in r:
            what += f", {weight_format(r['format']).name}"
        CHECKS[r["kind"]](r, what)
        counts[names[r["kind"] - 1]] += 1
    return counts
