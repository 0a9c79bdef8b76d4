"""Writes vectors.bin; README.md beside it says what is in it. It uses numpy and the package gguf
alone, so that what it expects is independent of what it tests.

    python tests/golden/make_vectors.py [FILE]
"""

from __future__ import annotations

import sys
from math import erf
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Kind = gguf.GGMLQuantizationType

FLOATS, BLOCKS, SUPER_BLOCKS = (
    (Kind.F32, Kind.F16, Kind.BF16),
    (Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1),
    (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K),
)
PARAMETER = 0.25  # of FATReLU
ACTIVATIONS: list[Any] = [  # in the order of their numbers
    lambda v: v,
    lambda v: np.maximum(v, 0),
    lambda v: np.maximum(v, 0) ** 2,
    lambda v: v / (1 + np.exp(-v)),
    lambda v: v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
    lambda v: v / 2 * (1 + np.vectorize(erf)(v / np.sqrt(2))),
    lambda v: np.where(v > PARAMETER, v, 0),
]
THRESHOLD, TOP_K = 0, 1


class Writer:
    """The file, record by record."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(20240229)
        self.parts = [b"SFGOLD01"]

    def ints(self, *values: Any) -> None:
        self.parts += [np.asarray(value, "<i4").tobytes() for value in values]

    def floats(self, *values: Any) -> None:
        self.parts += [np.asarray(value, "<f4").tobytes() for value in values]

    def doubles(self, values: Any) -> None:
        self.parts.append(np.asarray(values, "<f8").tobytes())

    def normal(self, *shape: int) -> npt.NDArray[np.float32]:
        return self.random.standard_normal(shape).astype(np.float32)

    def weights(self, kind: Any, rows: int, columns: int) -> tuple[bytes, Doubles]:
        """Packed rows, and the weights that they stand for."""
        values = self.normal(rows, columns)
        if kind in SUPER_BLOCKS:
            packed = self.super_blocks(kind, rows, columns)
        else:
            packed = gguf.quantize(values, kind)
        floats = gguf.dequantize(packed, kind).reshape(rows, columns)
        return packed.tobytes(), np.asarray(floats, np.float64)

    def super_blocks(self, kind: Any, rows: int, columns: int) -> npt.NDArray[np.uint8]:
        """Random bytes with scales of a sensible size, since gguf does not quantise to these."""
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        packed = self.random.integers(0, 256, (rows, columns // block, nbytes), dtype=np.uint8)
        scale = self.random.uniform(0.5, 2, (2, rows, columns // block))
        if kind == Kind.Q6_K:
            packed[..., -2:] = _halves(scale[0] / 2000)
        else:
            packed[..., 0:2] = _halves(scale[0] / 500)
            packed[..., 2:4] = _halves(scale[1] / 50)
        return packed.reshape(rows, -1)

    def layer(self, kind: Any, activation: int, gated: bool, biased: bool) -> None:
        """A record of kind 1."""
        hidden, d, out, n = 13, 37, 29, 2
        if kind in BLOCKS:
            d, out = 96, 32
        if kind in SUPER_BLOCKS:
            hidden, d, out, n = 5, 256, 256, 1
        tolerance = 1e-5 if kind in FLOATS else 3e-4
        self.ints(1, kind, activation, gated, biased, hidden, d, out, n)
        self.floats(PARAMETER if activation == 6 else 0, tolerance)
        shapes = [(hidden, d)] * (1 + gated) + [(hidden, out)]
        packed, weights = zip(*(self.weights(kind, *shape) for shape in shapes), strict=True)
        self.parts += packed
        # Inputs for which the sums before the activation are of size 1.
        x = self.normal(n, d) / np.float32(np.sqrt(d) * weights[0].std())
        biases = [self.normal(size) for size in [hidden] * (1 + gated) + [out]]
        if biased:
            self.floats(*biases)
        else:
            biases = [np.zeros_like(each) for each in biases]
        self.floats(x)
        ids = np.sort(self.random.permutation(hidden)[: hidden // 3])
        self.ints(len(ids), ids)
        act = ACTIVATIONS[activation]
        first = act(x.astype(np.float64) @ weights[0].T + biases[0])
        if gated:
            first = first * (x.astype(np.float64) @ weights[1].T + biases[1])
        down, bias = weights[-1], biases[-1]
        self.doubles(first @ down + bias)
        self.doubles(first[:, ids] @ down[ids] + bias)

    def low_rank(
        self, kind: Any, relu: bool, rule: int, least: int, most: int, threshold: float, hot: int
    ) -> None:
        """A record of kind 2. `least` and `most` are counts of the neurons after the first
        `hot`."""
        rank, hidden, d, n, margin = 32, 24, 32, 2, 2e-3
        while True:  # until no score is near the threshold or another one
            packed_p, p = self.weights(kind, rank, d)
            packed_q, q = self.weights(kind, hidden, rank)
            bias, x = self.normal(hidden), self.normal(n, d) / np.float32(d)
            z = x.astype(np.float64) @ p.T
            scores = (np.maximum(z, 0) if relu else z) @ q.T + bias
            gaps = np.diff(np.sort(scores, axis=1), axis=1).min()
            if np.abs(scores - threshold).min() > margin and gaps > margin:
                break
        self.ints(2, kind, relu, rank, hidden, d, n, rule, least, most, hot)
        self.floats(threshold, 3e-4)
        self.parts += [packed_p, packed_q]
        self.floats(bias, x)
        self.doubles(scores)
        for row in scores:
            cold = hot + selected(row[hot:], rule, threshold, least, most)
            ids = np.concatenate((np.arange(hot), cold))
            self.ints(len(ids), ids)

    def sign(self, alpha: float) -> None:
        """A record of kind 3."""
        hidden, d, n = 11, 70, 2
        gate, x = self.normal(hidden, d), self.normal(n, d)
        gate[0, :40], x[0, :9], x[1, 0] = 0, 0, -0.0
        # A zero counts as positive.
        negative = ((gate < 0)[None] != (x < 0)[:, None]).sum(axis=2)
        self.ints(3, hidden, d, n)
        self.floats(alpha, gate, x)
        self.doubles(np.float32(alpha) * (d - negative) - negative)

    def selection(self, scores: Any, rule: int, threshold: float, least: int, most: int) -> None:
        """A record of kind 4."""
        scores = np.asarray(scores, np.float32)
        ids = selected(scores, rule, threshold, least, most)
        self.ints(4, rule, least, most, len(scores))
        self.floats(threshold, scores)
        self.ints(len(ids), ids)


def _halves(values: Any) -> npt.NDArray[np.uint8]:
    """Half-precision numbers as bytes, along a new last axis."""
    return np.ascontiguousarray(values, "<f2")[..., None].view(np.uint8)


def selected(
    scores: Any, rule: int, threshold: float, least: int, most: int
) -> npt.NDArray[np.intp]:
    """The definition: best first, of equal ones the lower id, NaN never."""
    usable = [i for i in range(len(scores)) if not np.isnan(scores[i])]
    best = sorted(usable, key=lambda i: (-scores[i], i))
    count = most
    if rule == THRESHOLD:
        above = sum(bool(score > np.float32(threshold)) for score in scores)
        count = min(max(above, least), most)
    return np.sort(np.array(best[: max(count, 0)], np.intp))


def make() -> bytes:
    """The file's bytes."""
    writer = Writer()
    number = 0
    for kind in (*FLOATS, *BLOCKS, *SUPER_BLOCKS):
        for case in range(3 if kind in SUPER_BLOCKS else 4):
            writer.layer(kind, number % 7, case % 2 == 0, case != 1)
            number += 1
    for index, kind in enumerate((*FLOATS, *BLOCKS[:2])):
        writer.low_rank(kind, index % 2 == 1, THRESHOLD, 0, 24, 0.25, 0)
        writer.low_rank(kind, index % 2 == 0, THRESHOLD, 5, 9, (-9, 9)[index % 2], 4)
        writer.low_rank(kind, index % 2 == 1, TOP_K, 0, 12, 0, 3)
    for alpha in (0.5, 1.0, 1.25):
        writer.sign(alpha)
    ties = np.round(writer.normal(50), 0)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, np.nan, 1.0, -1.0, 1e-45], np.float32)
    for scores in (ties, odd, writer.normal(33), np.full(7, np.nan), np.zeros(5)):
        hidden = len(scores)
        for k in (0, 1, 3, hidden - 1, hidden, hidden + 5):
            writer.selection(scores, TOP_K, 0, 0, k)
        for threshold in (-1.0, 0.0, 1.0, np.inf, -np.inf):
            writer.selection(scores, THRESHOLD, threshold, 0, hidden)
            writer.selection(scores, THRESHOLD, threshold, 2, 4)
            writer.selection(scores, THRESHOLD, threshold, hidden + 1, hidden + 2)
    return b"".join(writer.parts)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "vectors.bin"
    target.write_bytes(make())
    print(f"{target}: {target.stat().st_size:,} bytes")
