"""`sparsefire bench`: measure speed on this machine."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from ..bench import (
    CACHE_EXPONENT,
    CACHE_REPEATS,
    CACHE_SHAPE,
    FFN_SHAPE,
    ROOFLINE_REPEATS,
)
from .common import Parser, Progress, add_host_options, choose_host, print_json, print_report

if TYPE_CHECKING:
    from ..bench.cache import CacheBench
    from ..bench.ffn import FfnBench
    from ..bench.report import Report
    from ..bench.roofline import Roofline


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
        help="a feed-forward layer, dense against sparse",
        description="Times a feed-forward layer with random weights on one vector at a time: "
        "dense, the predictor by itself, and sparse with the predictor. Each repetition has a "
        "different input, and so different active neurons. Prints medians of alternating runs.",
    )
    ffn.set_defaults(run=_bench_ffn)
    _add_layer_options(ffn, FFN_SHAPE, None, "repetitions; default: about 5 seconds' worth")
    ffn.add_argument("--gated", action="store_true", help="add a gate matrix, as in Llama")
    ffn.add_argument(
        "--rank", type=int, default=128, metavar="R", help="predictor rank; default %(default)s"
    )
    cache = kinds.add_parser(
        "cache",
        help="a feed-forward layer in a file, behind neuron caches",
        description="Times a gated feed-forward layer with random weights, in memory and behind a "
        "neuron cache of each eviction policy, which reads missing neurons from a file. Some "
        "neurons fire far more often than others. Prints medians of alternating runs.",
    )
    cache.set_defaults(run=_bench_cache)
    _add_layer_options(
        cache,
        CACHE_SHAPE,
        CACHE_REPEATS,
        "repetitions, after as many for warming up; default %(default)s",
    )
    add = cache.add_argument
    add(
        "--budget",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="cache size as a share of the layer's bytes; default %(default)s",
    )
    add(
        "--pinned",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of the cache pinned to the most frequently used neurons; default %(default)s",
    )
    add(
        "--exponent",
        type=float,
        default=CACHE_EXPONENT,
        metavar="S",
        help="the r-th most active neuron fires in proportion to r^-S; default %(default)s, which "
        "gives a quarter of the neurons nearly four fifths of the activations",
    )
    _add_roofline_parser(kinds)


def _add_roofline_parser(kinds: Any) -> None:
    """Adds `roofline`."""
    roofline = kinds.add_parser(
        "roofline",
        help="what this machine can do at most, and what share of it is reached",
        description="Measures what this machine computes and reads at most: multiplications and "
        "additions of floats, of integers and, where there are, of tiles, in registers, and bytes "
        "of memory, for each number of threads. Then what share of that a gated feed-forward layer "
        "with random weights reaches, dense and sparse, and a model's prompt, decoding and "
        "attention. Prints medians of alternating runs. Weights that lie in a cache can be read "
        "faster than memory.",
    )
    roofline.set_defaults(run=_bench_roofline)
    _add_layer_options(roofline, FFN_SHAPE, ROOFLINE_REPEATS, "repetitions; default %(default)s")
    add = roofline.add_argument
    add("-m", "--model", metavar="FILE", help="GGUF model; default: the one in the package")
    add(
        "--prompt",
        type=int,
        default=256,
        metavar="N",
        help="tokens of the prompt; default %(default)s",
    )
    add(
        "--positions",
        type=int,
        default=1024,
        metavar="N",
        help="tokens that attention sees; default %(default)s, or what the context holds",
    )


def _add_layer_options(
    parser: argparse.ArgumentParser,
    shape: tuple[int, int],
    repeats: int | None,
    repeats_help: str,
) -> None:
    """Adds the options that both benchmarks share."""
    add = parser.add_argument
    add(
        "--shape",
        type=_shape,
        default=shape,
        metavar="DxH",
        help=f"numbers of inputs and neurons; default {shape[0]}x{shape[1]}",
    )
    add("--format", default="q8_0", metavar="NAME", help="weight format; default %(default)s")
    add(
        "--active",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of active neurons; default %(default)s",
    )
    add("--repeats", type=int, default=repeats, metavar="N", help=repeats_help)
    add("--seed", type=int, default=0, metavar="N", help="random seed; default %(default)s")
    add("--json", action="store_true", help="print JSON instead")
    add_host_options(parser)


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text!r}: expected INPUTSxNEURONS, as in 4096x11008")
    return int(match[1]), int(match[2])


def _bench_ffn(arguments: argparse.Namespace) -> int:
    from ..bench.ffn import bench_ffn

    choose_host(arguments)
    with Progress() as show:
        show("making the layer", 0.0)
        result = bench_ffn(
            *arguments.shape,
            gated=arguments.gated,
            format=arguments.format,
            active=arguments.active,
            rank=arguments.rank,
            repeats=arguments.repeats,
            seed=arguments.seed,
            progress=show,
        )
    return print_report(arguments, result, _ffn_table)


def _bench_cache(arguments: argparse.Namespace) -> int:
    from ..bench.cache import bench_cache

    choose_host(arguments)
    with Progress() as show:
        show("making the layer", 0.0)
        results = bench_cache(
            *arguments.shape,
            format=arguments.format,
            active=arguments.active,
            budget=arguments.budget,
            pinned=arguments.pinned,
            exponent=arguments.exponent,
            repeats=arguments.repeats,
            seed=arguments.seed,
            progress=show,
        )
    found = [result.as_dict() for result in results]
    if arguments.json:
        print_json(found)
    else:
        print(_cache_table(results))
    return 0


def _bench_roofline(arguments: argparse.Namespace) -> int:
    from ..bench.roofline import bench_roofline
    from ..lm.model import Model

    choose_host(arguments)
    with Progress() as show, Model.load(arguments.model) as model:
        show("making the layer", 0.0)
        result = bench_roofline(
            *arguments.shape,
            format=arguments.format,
            active=arguments.active,
            model=model,
            prompt=arguments.prompt,
            positions=arguments.positions,
            repeats=arguments.repeats,
            seed=arguments.seed,
            progress=show,
        )
    return print_report(arguments, result, _roofline_table)


def _roofline_table(result: Roofline) -> str:
    """The result as text."""
    units = {"memory": "GB/s"}
    lines = [
        f"{result.layer}, gated, {result.format}; {result.model}; {_where(result)}",
        "",
        f"{'at most':14}{'threads':>8}{'':>12}",
    ]
    for each in result.limits:
        unit = units.get(each.what, "GOP/s")
        lines.append(f"{each.what:14}{each.threads:>8}{each.rate / 1e9:>12.1f} {unit}")
    lines += ["", f"{'reached':14}{'':>8}{'':>12}{'':8}share"]
    for reached in result.reached:
        if not reached.rate:
            lines.append(f"{reached.what:30}too little beside the rest to be measured")
            continue
        unit = units.get(reached.limit, "GOP/s")
        lines.append(
            f"{reached.what:14}{'':>8}{reached.rate / 1e9:>12.1f} {unit:<7}"
            f"{100 * reached.share:.0f} % of {reached.limit}"
        )
    return "\n".join(lines)


def _where(result: Report) -> str:
    threads = f"{result.threads} thread{'s' * (result.threads != 1)}"
    return f"{result.backend}, {result.isa}, {threads}; medians of {result.repeats}"


def _ffn_table(result: FfnBench) -> str:
    """The result as text."""
    gate = "gated, " if result.gated else ""
    title = (
        f"{result.shape}, {gate}{result.format}, predictor of rank {result.rank}; {_where(result)}"
    )
    summary = (
        f"{result.speedup:.2f}× as fast with {100 * result.active_share:.3g} % of the neurons, "
        f"{100 * result.efficiency:.0f} % of the limit of {result.limit:.2f}×"
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


def _cache_table(results: list[CacheBench]) -> str:
    """The results as text."""
    first = results[0]
    gate = "gated, " if first.gated else ""
    held = f"{first.budget_bytes:,} of {first.layer_bytes:,} bytes"
    share = f"{first.active_share:.1%} of the neurons active"
    lines = [
        f"{first.shape}, {gate}{first.format}, {share}; {_where(first)}",
        f"caches hold {held}, {first.pinned:.0%} of it pinned",
        "",
        f"{'':12}{'ms':>8}{'hits':>9}{'misses':>9}{'bytes read':>13}   same bits",
        f"{'in memory':12}{first.memory_ms:8.3g}",
    ]
    for each in results:
        lines.append(
            f"{each.policy:12}{each.cached_ms:8.3g}{each.hit_rate:9.1%}{each.misses:9.1f}"
            f"{each.bytes_read:13,.0f}   {'yes' if each.identical else 'NO'}"
        )
    lines += ["", "Misses and bytes read are averages per vector."]
    return "\n".join(lines)
