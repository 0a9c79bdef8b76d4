"""The subcommand `sparsefire calibrate`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .cli_common import Progress, add_host_options, choose_host, read_text

if TYPE_CHECKING:
    from .calibrate import CalibrationReport

_FORMATS = ("keep", "f32", "f16", "q8_0")


def add_calibrate_parser(commands: Any) -> None:
    """Adds `calibrate` to the subcommands."""
    parser = commands.add_parser(
        "calibrate",
        help="prepare a model to run sparsely",
        description="Runs a text through a model, learns which neurons fire when, and writes the "
        "model with a predictor for each layer. Prints how many neurons are active, how many are "
        "selected, and what is missed, all on a part of the text that nothing was fitted on.",
    )
    parser.set_defaults(run=_calibrate)
    add = parser.add_argument
    add("-m", "--model", required=True, metavar="IN.gguf", help="the model")
    add("-o", "--output", required=True, metavar="OUT.gguf", help="the new file")
    add("--text", required=True, metavar="FILE", help="UTF-8 text; '-' reads standard input")
    add("--rank", type=int, metavar="R", help="of the predictors; default: the cheapest")
    add(
        "--recall",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="of the activation mass to keep on held-out tokens; default %(default)s",
    )
    add("--tokens", type=int, default=100_000, metavar="N", help="to use; default %(default)s")
    add("--format", choices=_FORMATS, default="keep", help="of the weights; default: as they are")
    add("--activation", metavar="NAME", help="where the file does not say the right one")
    add("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    add("--json", action="store_true", help="print one JSON object instead")
    add_host_options(parser)


def _calibrate(arguments: argparse.Namespace) -> int:
    from .calibrate import calibrate_model

    text = read_text(arguments.text)
    choose_host(arguments)
    with Progress() as show:
        report = calibrate_model(
            arguments.model,
            arguments.output,
            text,
            rank=arguments.rank,
            recall=arguments.recall,
            tokens=arguments.tokens,
            format=arguments.format,
            activation=arguments.activation,
            seed=arguments.seed,
            progress=lambda stage, share: show(share, stage),
        )
    print(json.dumps(report.as_dict()) if arguments.json else _table(report))
    return 0


_HEADER = (
    "layer  rank  hot  active  selected  ratio  recall: neurons    mass  output  precision"
    "  predictor  cost  (exact)"
)


def _table(report: CalibrationReport) -> str:
    """The report as text."""
    lines = [_HEADER]
    for each in report.layers:
        ratio = each.selected_share / each.active_share if each.active_share else 0.0
        lines.append(
            f"{each.layer:5}  {each.rank or '-':>4}  {each.hot:3}  {_percent(each.active_share)}"
            f"  {_percent(each.selected_share):>8}  {ratio:5.2f}"
            f"  {_percent(each.recall_neurons):>15}  {_percent(each.recall_mass)}"
            f"  {_percent(each.recall_output)}  {_percent(each.precision):>9}"
            f"  {_percent(each.predictor_share):>9}  {each.cost:4.2f}  ({each.exact_cost:.2f})"
            + ("  exact: a predictor would not save anything" if each.fallback else "")
        )
    lost = 100 * (report.perplexity_sparse / report.perplexity_dense - 1)
    perplexity = (
        f"{report.held_out_tokens:,} of {report.tokens:,} tokens held out: perplexity "
        f"{report.perplexity_dense:.3f} dense, {report.perplexity_sparse:.3f} sparse "
        f"({lost:+.2f} %)"
    )
    bytes_read = (
        f"reads {100 * report.cost:.1f} % of the feed-forward weights for a token; wrote "
        f"{report.output} ({report.format})"
    )
    lines += ["", perplexity, bytes_read]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:5.2f}%"
