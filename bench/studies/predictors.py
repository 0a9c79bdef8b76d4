"""How few neurons predictors of a real layer have to select, and how many bytes they take for it.

    python examples/train_model_data.py build/text
    python -m bench.studies.predictors build/text/train.txt build/text/heldout.txt \
        --png predictors.png

Takes the inputs of the embedded model's feed-forward layers. Low-rank predictors are calibrated
on the first text, at several ranks, and stored in several formats; sign predictors need no
calibration. All are measured on the second text: a predictor's own threshold gives one point,
and moving it gives a curve of recall over selected neurons. With matplotlib, --png draws them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sparsefire as sf
from sparsefire.ffn.factors import Factors
from sparsefire.fit.layers import LayerMath
from sparsefire.fit.predictor_fit import PredictorFit, Split, Tables
from sparsefire.weights.formats import weight_format

from ..lib.command import run_program
from ..lib.peer_files import peer

Array = npt.NDArray[np.float32]

ALPHAS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
STORED = ("q8_0", "f16", "f32")  # what a layer may be stored in, beside which a predictor is small
RECALL = 0.99
STEPS = 81  # of a curve


@dataclass(frozen=True)
class Row:
    """One predictor of one layer on the held-out text. ``recall`` and ``ratio`` (selected neurons
    over active ones) are those of its own threshold; ``at_recall`` is the ratio when the threshold
    is moved to where `RECALL` of the activation mass is found."""

    layer: int
    name: str
    nbytes: int
    shares: tuple[float, ...]  # of the layer's bytes, when that is stored in STORED
    active: float
    recall: float
    ratio: float
    at_recall: float
    curve: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # ratios and recalls


class Held:
    """A layer on the held-out text: what is active, and what a selection keeps of it."""

    def __init__(self, layer: int, ffn: sf.SparseFfn, x: Array) -> None:
        self.layer, self.ffn, self.x = layer, ffn, x
        table = LayerMath(ffn).table(x, 0.0)
        self.tokens, self.neurons, self.mass = table.tokens, table.neurons, table.kinds[0]
        self.total, self.count = float(self.mass.sum(dtype=np.float64)), table.entries

    def measure(self, name: str, nbytes: int, scores: Array) -> Row:
        """Of scores (n, hidden), above 0 what the predictor selects."""
        entries = scores[self.tokens, self.neurons]
        edges = np.quantile(entries, np.linspace(0, 1, STEPS)).astype(np.float32)
        edges = np.unique(np.concatenate((edges, [np.float32(0)])))
        selected = np.array([np.count_nonzero(scores > edge) for edge in edges]) / self.count
        kept = [self.mass[entries > edge].sum(dtype=np.float64) for edge in edges]
        recall = np.array(kept) / self.total
        zero = int(np.searchsorted(edges, 0))
        hidden, d, out = self.ffn.hidden, self.ffn.d_in, self.ffn.d_out
        whole = [
            hidden * (2 * kind.row_bytes(d) + kind.row_bytes(out))
            for kind in map(weight_format, STORED)
        ]
        return Row(
            layer=self.layer,
            name=name,
            nbytes=nbytes,
            shares=tuple(nbytes / each for each in whole),
            active=self.count / scores.size,
            recall=float(recall[zero]),
            ratio=float(selected[zero]),
            at_recall=self._ratio_at(scores, entries),
            curve=(selected, recall),
        )

    def _ratio_at(self, scores: Array, entries: Array) -> float:
        """Selected over active neurons with the threshold that finds `RECALL` of the mass."""
        order = np.argsort(-entries)
        found = np.cumsum(self.mass[order], dtype=np.float64)
        threshold = entries[order[int(np.searchsorted(found, RECALL * self.total))]]
        return float(np.count_nonzero(scores >= threshold) / self.count)


def read_inputs(model: sf.Model, path: Path, tokens: int) -> Array:
    """Inputs of all layers, (n, layers, d), from pieces all over the text."""
    text = path.read_text(encoding="utf-8")
    characters = 4 * model.context
    pieces = max(1, tokens // model.context)
    starts = np.linspace(0, max(0, len(text) - characters), pieces).astype(int)
    found = []
    for start in starts:
        ids = model.tokenize(text[start : start + characters], special=False)
        found.append(model.ffn_inputs(ids[: model.context]))
    return np.concatenate(found)


def low_rank(held: Held, fit: PredictorFit, rank: int, formats: list[str]) -> Iterator[Row]:
    """A predictor of one rank, stored in each of the formats."""
    factors = fit.refined(rank)
    ffn = held.ffn
    for name in formats:
        kind = weight_format(name)
        if rank % kind.block or ffn.d_in % kind.block:
            continue
        stored: Factors = factors.rounded(name, ffn.core)
        thresholds = fit.thresholds(stored, fit.family(stored))
        scores = stored.with_thresholds(thresholds).scores(held.x)
        nbytes = rank * kind.row_bytes(ffn.d_in) + ffn.hidden * (kind.row_bytes(rank) + 4)
        yield held.measure(f"rank {rank}, {name}", nbytes, scores)


def signs(held: Held) -> Iterator[Row]:
    """Sign predictors with every α."""
    for alpha in ALPHAS:
        predictor = sf.SignPredictor(held.ffn, alpha)
        scores = np.asarray(predictor.scores(held.x), np.float32)
        yield held.measure(f"signs, α {alpha:g}", predictor.nbytes, scores)


def problem(ffn: sf.SparseFfn, x: Array) -> PredictorFit:
    """Calibration on inputs x (n, d): 8 in 10 are fitted on, 1 in 10 tuned on, 1 in 10 held out."""
    x = x[np.random.default_rng(0).permutation(len(x))]
    math, tenth = LayerMath(ffn), len(x) // 10
    data = Split(x[2 * tenth :], x[:tenth], x[tenth : 2 * tenth])
    tables = Tables(*(math.table(each, 0.0) for each in (data.fit, data.tune, data.held)))
    return PredictorFit(data, tables, math.gate, math.gate_bias, RECALL)


def show(row: Row) -> None:
    """One line of the table."""
    shares = " ".join(f"{share:8.2%}" for share in row.shares)
    print(
        f"| {row.layer} | {row.name:16} | {row.active:6.2%} | {row.recall:7.2%} | {row.ratio:5.2f} "
        f"| {row.at_recall:5.2f} | {' | '.join(shares.split())} |",
        flush=True,
    )


def draw(path: Path, rows: list[Row]) -> None:
    """A picture for each layer: recall over selected neurons, and selected neurons over bytes."""
    peer("matplotlib").use("Agg")
    plt = peer("matplotlib.pyplot")
    layers = sorted({row.layer for row in rows})
    figure, axes = plt.subplots(
        2, len(layers), figsize=(4 * len(layers), 7), layout="constrained", squeeze=False
    )
    for column, layer in enumerate(layers):
        top, bottom = axes[0, column], axes[1, column]
        for row in (each for each in rows if each.layer == layer):
            sign = row.name.startswith("signs")
            if not sign or row.name == "signs, α 1":
                ratios, recalls = row.curve
                top.plot(ratios, 100 * recalls, label=row.name, linestyle=":" if sign else "-")
            elif np.isfinite(row.at_recall):
                top.plot(row.ratio, 100 * row.recall, "k.")
            bottom.plot(100 * row.shares[0], row.at_recall, "k." if sign else "o")
            if not sign:
                bottom.annotate(row.name, (100 * row.shares[0], row.at_recall), fontsize=7)
        top.axhline(99, color="grey", linewidth=0.8)
        top.set(title=f"Layer {layer}", xscale="log", ylim=(80, 100.2))
        top.set(xlabel="selected / active neurons", ylabel="% of the activation mass found")
        bottom.set(xlabel="predictor bytes, % of the layer in Q8_0", yscale="log")
        bottom.set(ylabel="selected / active for 99 % of the mass")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    print(f"\ndrew {path}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.predictors", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("text", type=Path, help="to calibrate on, UTF-8")
    add("heldout", type=Path, help="to measure on, UTF-8")
    add("--tokens", type=int, default=60_000, metavar="N", help="to calibrate on")
    add("--held-tokens", type=int, default=20_000, metavar="N", help="to measure on")
    add("--layers", type=int, nargs="+", metavar="N", help="default: all")
    add("--ranks", type=int, nargs="*", default=[32, 64, 96, 128], metavar="R")
    add("--formats", nargs="+", default=["q8_0", "q4_0"], metavar="NAME")
    add("--png", type=Path, metavar="FILE", help="draw into this file")
    options = parser.parse_args()

    rows: list[Row] = []
    with sf.Model.load() as model:
        fitted = read_inputs(model, options.text, options.tokens)
        heldout = read_inputs(model, options.heldout, options.held_tokens)
        print(f"{len(fitted):,} tokens to calibrate on, {len(heldout):,} to measure on\n")
        stored = " | ".join(f"ρ of {name}" for name in STORED)
        print(f"| layer | predictor | active | recall | selected / active | the same at recall "
              f"{RECALL:.0%} | {stored} |")  # fmt: skip
        print("|---" * (6 + len(STORED)) + "|")
        for layer in options.layers or range(len(model.ffns)):
            ffn = model.ffns[layer]
            held = Held(layer, ffn, np.ascontiguousarray(heldout[:, layer]))
            fit = problem(ffn, fitted[:, layer])
            for rank in options.ranks:
                for row in low_rank(held, fit, rank, options.formats):
                    rows.append(row)
                    show(row)
            for row in signs(held):
                rows.append(row)
                show(row)
    if options.png:
        draw(options.png, rows)


if __name__ == "__main__":
    run_program(main)
