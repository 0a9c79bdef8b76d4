"""The subcommand `sparsefire bench`."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from .cli_common import Parser, Progress, add_host_options, choose_host

if TYPE_CHECKING:
    from .bench import FfnBench


def add_bench_parser(commands: Any) -> None:
    """Adds `bench` to the subcommands."""
    parser = commands.add_parser(
        "bench",
        help="measure speed on this machine",
        description="Measures speed on this machine.",
    )
    kinds = parser.add_subparsers(metavar="WHAT", required=True, parser_class=Parser)
    ffn = kinds.add_parser(
        "ffn",
        help="one feed-forward layer, dense against sparse",
        description="Times one feed-forward layer with random weights, a vector at a time, each "
        "time with another input and so with other neurons: dense, the predictor alone, and "
        "sparse with the predictor. Medians of repetitions that take turns.",
    )
    ffn.set_defaults(run=_bench_ffn)
    add = ffn.add_argument
    add(
        "--shape",
        type=_shape,
        default=(4096, 11008),
        metavar="DxH",
        help="inputs and neurons; default 4096x11008",
    )
    add("--gated", action="store_true", help="with a gate matrix, as in Llama")
    add("--format", default="q8_0", metavar="NAME", help="of the weights; default %(default)s")
    add("--active", type=float, default=0.1, metavar="SHARE", help="default %(default)s")
    add("--rank", type=int, default=128, metavar="R", help="of the predictor; default %(default)s")
    add("--repeats", type=int, metavar="N", help="default: as many as take about 5 seconds")
    add("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    add("--json", action="store_true", help="print one JSON object instead")
    add_host_options(ffn)


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r}: expected INPUTSxNEURONS, as in 4096x11008")
    return int(match[1]), int(match[2])


def _bench_ffn(arguments: argparse.Namespace) -> int:
    from .bench import bench_ffn

    choose_host(arguments)
    with Progress() as show:
        show(0.0, "making the layer")
        result = bench_ffn(
            *arguments.shape,
            gated=arguments.gated,
            format=arguments.format,
            active=arguments.active,
            rank=arguments.rank,
            repeats=arguments.repeats,
            seed=arguments.seed,
            progress=lambda done, total: show(done / total, f"{done} of {total} repetitions"),
        )
    print(json.dumps(result.as_dict()) if arguments.json else _table(result))
    return 0


def _table(result: FfnBench) -> str:
    """The result as text."""
    gate = "gated, " if result.gated else ""
    threads = f"{result.threads} thread{'s' * (result.threads != 1)}"
    title = (
        f"{result.shape}, {gate}{result.format}, predictor of rank {result.rank}; "
        f"{result.backend}, {result.isa}, {threads}; medians of {result.repeats}"
    )
    summary = (
        f"{result.speedup:.2f}× faster with {100 * result.active_share:.3g} % of the neurons; "
        f"the limit is {result.limit:.2f}×, of which {100 * result.efficiency:.0f} % is reached"
    )
    lines = (
        title,
        "",
        "            ms      bytes read        GB/s",
        f"dense       {_row(result.dense_ms, result.bytes_dense)}",
        f"sparse      {_row(result.sparse_ms, result.bytes_sparse)}",
        f"predictor   {result.predictor_ms:<8.3g}(part of sparse)",
        "",
        summary,
        f"largest error against float64: {result.max_rel_err:.1e}",
    )
    return "\n".join(lines)


def _row(milliseconds: float, nbytes: int) -> str:
    return f"{milliseconds:<8.3g}{nbytes:<18,}{nbytes / milliseconds / 1e6:.1f}"
