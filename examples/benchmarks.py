"""How much faster a layer gets, and what keeps it from getting faster still.

    python examples/benchmarks.py [--shape 2048x5504] [--backends native wasmtime]

Times one gated layer with fewer and fewer neurons, on every host that is installed, beside the
greatest speed-up that reading fewer bytes allows. One such line in full: `sparsefire bench ffn`.
"""

from __future__ import annotations

import argparse

import sparsefire as sf
from sparsefire.bench.ffn import bench_ffn

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)
RANK = 64


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--shape", default="2048x5504", metavar="DxH", help="default %(default)s")
    add("--formats", nargs="+", default=["q8_0", "f32"], metavar="NAME")
    add("--backends", nargs="+", default=["native", "wasmtime"], metavar="NAME")
    add("--repeats", type=int, default=31, metavar="N", help="default %(default)s")
    options = parser.parse_args()
    d, hidden = map(int, options.shape.split("x"))

    print(
        f"A gated layer of {d} inputs and {hidden} neurons; a predictor of rank {RANK}; one thread"
    )
    for backend in options.backends:
        try:
            where = sf.use_backend(backend, threads=1)
        except sf.BackendError as error:
            print(f"\n{backend}: {error}")
            continue
        for weights in options.formats:
            print(f"\n{where}, {weights}")
            print(f"{'neurons':>8}{'dense ms':>10}{'sparse ms':>11}{'speed-up':>10}{'limit':>8}"
                  f"{'reached':>9}{'GB/s':>7}")  # fmt: skip
            for share in SHARES:
                found = bench_ffn(
                    d,
                    hidden,
                    gated=True,
                    format=weights,
                    active=share,
                    rank=RANK,
                    repeats=options.repeats,
                )
                rate = found.bytes_sparse / found.sparse_ms / 1e6
                print(
                    f"{found.active_share:8.1%}{found.dense_ms:10.3f}{found.sparse_ms:11.3f}"
                    f"{found.speedup:9.1f}×{found.limit:7.1f}×{found.efficiency:9.0%}{rate:7.1f}"
                )
    print(
        "\nThe limit is 1 / (share of neurons + predictor bytes / layer bytes): at few neurons "
        "the predictor is\nwhat is left to read. Short scattered rows are read somewhat slower "
        "than one long run, which is most of\nwhat is missing to the limit."
    )


if __name__ == "__main__":
    main()
