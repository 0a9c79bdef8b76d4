"""Sparse inference on one layer of the embedded model.

    python examples/basic_inference.py [--prompt TEXT] [--layer N]

Records the inputs of one feed-forward layer while the model reads a text, and computes the layer
in four ways: dense, exact, with its predictor, and with a custom predictor in numpy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import sparsefire as sf

Array = npt.NDArray[np.floating]


class LastNeurons:
    """A custom predictor: any object with a `predict` method. This one proposes the neurons that
    were active for the previous input, as a baseline."""

    def __init__(self, gate: Array) -> None:
        self.gate = gate
        self.last = np.arange(len(gate))

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[np.integer]:
        """Neurons that were active last time; remembers those that are active now."""
        proposed = self.last
        self.last = np.flatnonzero(self.gate @ np.asarray(x) > 0)
        return proposed


def microseconds(run: Callable[[Array], object], inputs: Array) -> float:
    """Median time of one call, one vector at a time, after a first round."""
    times = []
    for x in (*inputs, *inputs):
        started = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times[len(inputs) :]))


def error(found: Array, wanted: Array) -> float:
    """‖difference‖ / ‖wanted‖."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompt", default="The people of the United States have", metavar="TEXT")
    parser.add_argument("--layer", type=int, default=2, metavar="N")
    options = parser.parse_args()

    with sf.Model.load() as model:
        text = options.prompt + "".join(model.generate(options.prompt, 60, temperature=0))
        inputs = model.ffn_inputs(model.tokenize(text))[:, options.layer]
        ffn = model.ffns[options.layer]
        print(f"{text!r}\n")
        print(f"layer {options.layer}: {ffn}\n{ffn.predictor}\non {sf.backend()}\n")

        dense = ffn.forward_dense(inputs)
        gate = ffn.matrices[0]
        assert gate is not None
        habit = LastNeurons(gate.dequantize())
        ways: dict[str, Callable[[Array], Array]] = {
            "dense": lambda x: ffn.forward(x, mode="dense"),
            "exact": lambda x: ffn.forward(x, mode="exact"),
            "predicted": lambda x: ffn.forward(x, mode="sparse"),
            "last neurons": lambda x: ffn.forward(x, habit),
        }
        print(f"{'':14}{'gates':>8}{'neurons':>9}{'error':>10}{'µs':>8}")
        shares, errors = {}, {}
        for name, run in ways.items():
            rows = []
            counts = []
            for x in inputs:
                rows.append(run(x))
                counts.append((ffn.counts.selected[0], ffn.counts.active[0]))
            gates, neurons = np.mean(counts, axis=0) / ffn.hidden
            shares[name], errors[name] = neurons, error(np.array(rows), dense)
            spent = microseconds(run, inputs)
            print(f"{name:14}{gates:8.1%}{neurons:9.1%}{errors[name]:10.1e}{spent:8.1f}")
        active = (inputs @ habit.gate.T > 0).mean(axis=1)
        assert ffn.predictor is not None
        print(
            f"\n{active.mean():.1%} of the neurons fire for a token ({active.min():.1%} to "
            f"{active.max():.1%}). Exact mode finds them by computing every gate. The\npredictor, "
            f"a low-rank product of {ffn.predictor.nbytes / ffn.nbytes:.1%} of the layer's bytes, "
            f"finds {shares['predicted'] / shares['exact']:.1%} of them; what it misses\nis an "
            f"error of {errors['predicted']:.1%}. The neurons of the token before are no such "
            f"guess: the active set changes from token\nto token, and the error is "
            f"{errors['last neurons']:.0%}."
        )


if __name__ == "__main__":
    main()
