"""The speed-up of a sparse layer on this machine, and its limit, from Python.

    python examples/benchmarks.py [--shape 2048x5504] [--backends native wasmtime]

Prints one line for each share of active neurons. `sparsefire bench ffn` shows one such line in
full; bench/README.md lists the comparisons with other programs.
"""

from __future__ import annotations

import argparse

import sparsefire as sf
from sparsefire.bench.ffn import bench_ffn


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--shape", default="2048x5504", metavar="DxH", help="default %(default)s")
    add("--format", default="q8_0", metavar="NAME", help="weight format; default %(default)s")
    add("--backends", nargs="+", default=["native", "wasmtime"], metavar="NAME")
    add("--repeats", type=int, default=31, metavar="N", help="default %(default)s")
    options = parser.parse_args()
    d, hidden = map(int, options.shape.split("x"))

    for backend in options.backends:
        try:
            where = sf.use_backend(backend, threads=1)
        except sf.BackendError as error:
            print(f"{backend}: {error}")
            continue
        print(f"{where}: {d} inputs, {hidden} neurons, {options.format}")
        for share in (0.5, 0.2, 0.1, 0.05):
            found = bench_ffn(
                d,
                hidden,
                gated=True,
                format=options.format,
                active=share,
                rank=64,
                repeats=options.repeats,
            )
            print(
                f"{found.active_share:6.1%} active: {found.dense_ms:.3f} ms dense, "
                f"{found.sparse_ms:.3f} ms sparse, {found.speedup:.1f}× of at most "
                f"{found.limit:.1f}×"
            )


if __name__ == "__main__":
    main()
