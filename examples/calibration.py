"""Recall and cost of low-rank and sign predictors on a real layer.

    python examples/calibration.py [--text FILE] [--layer N] [--tokens N] [--png FILE]

Records the inputs of one feed-forward layer of the embedded model for a text (by default one that
the model generates), fits predictors of several ranks to them, and compares them with a predictor
that uses only signs. With matplotlib installed (`pip install 'sparsefire[examples]'`), --png draws
how often neurons fire, and recall against cost.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sparsefire as sf

Array = npt.NDArray[np.float32]

RANKS = [32, 64, 96]
ALPHAS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
HELD_OUT = 0.2
SHARES = np.geomspace(0.005, 1, 40)


@dataclass
class Layer:
    """A layer, its inputs (n, d) to fit on and held out, and the held-out activations."""

    ffn: sf.SparseFfn
    fit: Array
    held: Array
    activations: Array = field(init=False)

    def __post_init__(self) -> None:
        gate = self.ffn.matrices[0]
        assert gate is not None
        self.activations = np.maximum(self.held @ gate.dequantize().T, 0)

    def measure(self, chosen: list[npt.NDArray[np.integer]]) -> tuple[float, float]:
        """Recall of the activation mass, and the selected share, of neurons chosen for each
        held-out input."""
        kept = sum(float(row[ids].sum()) for row, ids in zip(self.activations, chosen, strict=True))
        selected = sum(map(len, chosen)) / self.activations.size
        return kept / float(self.activations.sum()), selected

    def curve(self, scores: Array) -> Array:
        """Recall of the mass by one threshold for all scores, for each of SHARES selected."""
        order = np.argsort(-scores, axis=None)
        captured = np.cumsum(self.activations.reshape(-1)[order], dtype=np.float64)
        counts = np.maximum((SHARES * scores.size).astype(int), 1)
        return np.asarray(captured[counts - 1] / captured[-1], np.float32)


def read_inputs(model: sf.Model, text: str | None, layer: int, tokens: int) -> Array:
    """Inputs of the layer for about so many tokens, in windows of the model's context."""
    if text is None:
        pieces, length = [], 0
        while length < tokens:
            piece = "".join(model.generate("", 500, seed=len(pieces)))
            pieces.append(piece)
            length += model.stats.n_tokens
        text = "\n\n".join(pieces)
    ids = model.tokenize(text, special=False)[:tokens]
    windows = [ids[start : start + model.context] for start in range(0, len(ids), model.context)]
    return np.concatenate([model.ffn_inputs(window)[:, layer] for window in windows])


def draw(path: Path, fires: Array, curves: dict[str, Array]) -> None:
    """Draws the two pictures into a PNG file."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("drawing needs matplotlib: pip install 'sparsefire[examples]'")
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.plot(np.sort(fires)[::-1] * 100)
    left.set(
        title="How often neurons fire",
        xlabel="neuron, most active first",
        ylabel="% of the tokens",
        yscale="log",
    )
    for name, curve in curves.items():
        right.plot(SHARES * 100, curve * 100, label=name)
    right.axhline(99, color="grey", linewidth=0.8, linestyle="dotted")
    right.set(
        title="What predictors keep",
        xlabel="% of the neurons selected",
        ylabel="% of the activation mass",
        xscale="log",
        ylim=(50, 100.5),
    )
    right.legend()
    figure.savefig(path, dpi=120)
    print(f"\ndrew {path}")


def compare(layer: Layer, ranks: list[int], recall: float) -> dict[str, Array]:
    """Prints a line for each predictor; returns their curves."""
    ffn, curves = layer.ffn, {}
    active = float((layer.activations > 0).mean())
    print(f"{'predictor':17}{'bytes':>8}{'selected':>10}{'ratio':>7}{'recall':>9}{'cost':>7}")

    def show(name: str, predictor: sf.LowRankPredictor | sf.SignPredictor) -> None:
        found, selected = layer.measure(list(predictor.predict(layer.held)))
        share = predictor.nbytes / ffn.nbytes
        # Gates of what is selected, up and down of what is active among it.
        cost = share + selected / 3 + 2 / 3 * min(active, selected)
        ratio = selected / active
        print(f"{name:17}{share:8.1%}{selected:10.1%}{ratio:7.1f}{found:9.2%}{cost:7.2f}")

    for rank in ranks:
        predictor = sf.LowRankPredictor(ffn.d_in, ffn.hidden, rank, format="q8_0")
        predictor.calibrate(ffn, layer.fit, recall=recall)
        show(f"rank {rank}", predictor)
        curves[f"rank {rank}"] = layer.curve(np.asarray(predictor.scores(layer.held)))
    for alpha in ALPHAS:
        show(f"signs, α {alpha:g}", sf.SignPredictor(ffn, alpha))
    curves["signs"] = layer.curve(np.asarray(sf.SignPredictor(ffn).scores(layer.held)))
    exact = 1 / 3 + 2 / 3 * active
    print(f"{'none: exact':17}{0:8.1%}{1:10.1%}{1 / active:7.1f}{1:9.2%}{exact:7.2f}")
    return curves


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--text", type=Path, metavar="FILE", help="UTF-8 text; default: what the model writes")
    add("--layer", type=int, default=2, metavar="N")
    add("--tokens", type=int, default=12_000, metavar="N", help="default %(default)s")
    add("--recall", type=float, default=0.99, metavar="SHARE", help="default %(default)s")
    add("--ranks", type=int, nargs="+", default=RANKS, metavar="R", help="default 32 64 96")
    add("--png", type=Path, metavar="FILE", help="draw into this file")
    options = parser.parse_args()

    with sf.Model.load() as model:
        text = options.text.read_text(encoding="utf-8") if options.text else None
        inputs = read_inputs(model, text, options.layer, options.tokens)
        cut = round(len(inputs) * (1 - HELD_OUT))
        layer = Layer(model.ffns[options.layer], inputs[:cut], inputs[cut:])
        fires = (layer.activations > 0).mean(axis=0)
        print(f"layer {options.layer}: {layer.ffn}")
        print(f"{len(inputs):,} tokens, the last {len(layer.held):,} held out")
        print(f"{fires.mean():.2%} of the neurons fire for a token\n")
        curves = compare(layer, options.ranks, options.recall)
    print(
        "\nBytes and cost (bytes read for a token) are shares of the layer. A higher rank selects "
        "fewer neurons but is\nitself read for every token: `sparsefire calibrate` takes the rank "
        "that reads least. Signs alone need no\ncalibration; how well they do depends on how much "
        "of a gate's size its signs tell."
    )
    if options.png:
        draw(options.png, fires, curves)


if __name__ == "__main__":
    main()
