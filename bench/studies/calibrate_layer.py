"""How long it takes to calibrate the predictor of one large layer, with numpy alone.

    python -m bench.studies.calibrate_layer --shape 4096x11008 --samples 2000

The layer is gated, with random weights and a negative gate bias that leaves a tenth of the neurons
active; the inputs vary more in some directions than in others, as a model's do.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import sparsefire as sf

from ..lib.layers import LARGE


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.calibrate_layer", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--shape", default=f"{LARGE[0]}x{LARGE[1]}", metavar="DxH", help="default %(default)s")
    add("--samples", type=int, default=2000, metavar="N", help="default %(default)s")
    add("--rank", type=int, default=128, metavar="R", help="default %(default)s")
    add("--format", default="q8_0", metavar="NAME", help="of layer and predictor")
    add("--active", type=float, default=0.1, metavar="SHARE", help="of the neurons")
    options = parser.parse_args()
    d, hidden = (int(size) for size in options.shape.split("x"))

    random = np.random.default_rng(0)
    mixing = random.standard_normal((d, d), np.float32)
    mixing *= (np.arange(1, d + 1, dtype=np.float32) ** -0.5)[:, None]
    x = random.standard_normal((options.samples, d), np.float32) @ mixing
    x /= x.std()
    gate, up = random.standard_normal((2, hidden, d), np.float32) * np.float32(d**-0.5)
    down = random.standard_normal((d, hidden), np.float32) * np.float32(hidden**-0.5)
    bias = -np.quantile(x[:256] @ gate.T, 1 - options.active, axis=0).astype(np.float32)
    ffn = sf.SparseFfn(up, down, gate=gate, gate_bias=bias, format=options.format)
    del gate, up, down
    predictor = sf.LowRankPredictor(d, hidden, options.rank, format=options.format)

    started = time.perf_counter()
    report = predictor.calibrate(ffn, x)
    seconds = time.perf_counter() - started
    print(f"{ffn}\n{predictor}\non {sf.backend()}, numpy {np.__version__}")
    print(f"{seconds:.1f} s for {options.samples:,} samples\n{report}")


if __name__ == "__main__":
    main()
