"""`sparsefire calibrate`: prepare a model to run sparsely."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import check_output
from ..errors import ArgumentError
from ..weights.formats import CALIBRATION_FORMATS
from .common import (
    Progress,
    ReportT,
    add_engine_options,
    add_host_options,
    add_output_options,
    add_pre_option,
    choose_host,
    engine_options,
    print_report,
    read_text,
    uses_engine,
)

if TYPE_CHECKING:
    from ..calibrate.combination import MethodMeasure
    from ..calibrate.combined import CombinedCalibration
    from ..calibrate.cutoffs import CutoffCalibration
    from ..calibrate.head import HeadCalibration
    from ..calibrate.inputs import InputCalibration
    from ..calibrate.predictors import CalibrationReport
    from ..calibrate.report import PerplexityReport
    from ..calibrate.samples import Recorder

_TIMED = {
    "head": "a head, which is",
    "inputs": "inputs, which are",
    "cutoffs": "cutoffs, which are",
    "all": "all methods, which are",
}
_FORMATS = ("keep", *CALIBRATION_FORMATS)


def add_calibrate_parser(commands: Any) -> None:
    """Adds `calibrate` to the subcommands."""
    parser = commands.add_parser(
        "calibrate",
        help="prepare a model to run sparsely",
        description="Runs a text through a model and writes the model together with what it needs "
        "to run sparsely: a predictor per layer, or per expert, if the activation has exact zeros "
        "(ReLU …), or else cutoffs below which neurons are skipped, if that is faster than dense "
        "at an acceptable cost. All reported numbers are measured on a held-out part of the text.",
    )
    parser.set_defaults(run=_calibrate)
    add = parser.add_argument
    add("-m", "--model", required=True, metavar="IN.gguf", help="the model")
    add(
        "-o",
        "--output",
        metavar="OUT.gguf",
        help="output file; optional for cutoffs, and for a head, inputs or all, whose default is "
        "the companion beside the model, NAME.sparsefire.gguf",
    )
    add(
        "--text",
        metavar="FILE",
        help="UTF-8 text; '-' reads standard input. Optional for a head: the model writes one",
    )
    add(
        "--method",
        choices=("auto", "predictors", "cutoffs", "head", "inputs", "all"),
        default="auto",
        help="head: a screen of the output matrix, for any model; inputs: limits below which "
        "inputs of products are left out, for models in q4_0; all: the fastest combination at one "
        "acceptable cost, which without -o is one of head and inputs; default: predictors for the "
        "ReLU family, cutoffs for others",
    )
    add(
        "--tokens",
        type=int,
        metavar="N",
        help="tokens of the text to use; default 100000, for cutoffs and inputs 8192, for a head "
        "16384, for all each method's own",
    )
    add("--activation", metavar="NAME", help="activation function, overriding the file")
    add_pre_option(parser)
    add("--seed", type=int, default=0, metavar="N", help="random seed; default %(default)s")
    add_output_options(parser)
    _add_predictor_options(parser.add_argument_group("predictors"))
    _add_cutoff_options(parser.add_argument_group("cutoffs and inputs"))
    _add_head_options(parser.add_argument_group("head"))
    engine = parser.add_argument_group("who runs the text through the model, for predictors")
    add_engine_options(engine.add_argument)
    add_host_options(parser)


def _add_predictor_options(group: Any) -> None:
    add = group.add_argument
    add(
        "--rank",
        type=int,
        metavar="R",
        help="rank of a predictor or screen; default: the cheapest",
    )
    add(
        "--recall",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="share of the activation mass to keep on held-out tokens; default %(default)s",
    )
    add("--format", choices=_FORMATS, default="keep", help="weight format; default: unchanged")
    add(
        "--predictor-format",
        metavar="NAME",
        help="format of a predictor, by default q8_0, or of a screen, by default q8_0 or q4_0, "
        "whichever reads less. With q4_0 the same bytes hold nearly twice the rank",
    )


def _add_cutoff_options(group: Any) -> None:
    add = group.add_argument
    add(
        "--perplexity-cost",
        type=float,
        default=1.0,
        metavar="PERCENT",
        help="acceptable increase in perplexity; default %(default)s",
    )
    add(
        "--sparsity",
        type=_shares,
        metavar="SHARE[,SHARE…]",
        help="shares of neurons to skip, or of inputs to leave out; the best is used; default "
        "0.1,0.2 … 0.7, for inputs … 0.6",
    )
    add(
        "--on",
        choices=("both", "product", "gate"),
        default="both",
        help="quantity to cut off: product, |activation(gate) · up|, saves the down product; gate, "
        "|activation(gate)|, saves up and down; default: try both",
    )
    add(
        "--even-if-slower",
        action="store_true",
        help="write the best setting, the screen, or all together, even if dense is better",
    )


def _add_head_options(group: Any) -> None:
    add = group.add_argument
    add(
        "--kl",
        type=float,
        metavar="NATS",
        help="acceptable divergence from the exact distribution; default 0.01. For all: of the "
        "combination, in place of --perplexity-cost",
    )
    add(
        "--agreement",
        type=float,
        default=0.999,
        metavar="SHARE",
        help="share of tokens whose most likely one has to be the same; default %(default)s",
    )
    add(
        "--rows",
        type=int,
        metavar="N",
        help="rows of the output matrix to compute for each token; default: the cheapest",
    )


def _shares(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers such as 0.3,0.5") from None


def _calibrate(arguments: argparse.Namespace) -> int:
    if arguments.text is None and arguments.method != "head":
        raise ArgumentError("the option --text FILE is missing")
    if arguments.output is not None:
        inputs = [Path(each) for each in (arguments.model, arguments.text) if each is not None]
        check_output(Path(arguments.output), inputs, force=arguments.force)
    text = "" if arguments.text is None else read_text(arguments.text)
    choose_host(arguments)
    method = _method(arguments)
    if method != "predictors" and uses_engine(arguments):
        raise ArgumentError(f"--engine, --workers: not for {_TIMED[method]} timed here")
    if method == "head":
        return _calibrate_head(arguments, None if arguments.text is None else text)
    if method != "predictors":
        return _OF_TEXT[method](arguments, text)
    if arguments.output is None:
        raise ArgumentError("the option -o OUT.gguf is missing")
    from ..calibrate.predictors import DEFAULT_TOKENS, calibrate_model

    return _run(
        arguments,
        calibrate_model,
        DEFAULT_TOKENS,
        text,
        _table,
        rank=arguments.rank,
        recall=arguments.recall,
        format=arguments.format,
        predictor_format=arguments.predictor_format,
        recorder=_recorder(arguments),
    )


def _run(
    arguments: argparse.Namespace,
    calibrate: Callable[..., ReportT],
    default_tokens: int | None,
    text: str | None,
    table: Callable[[ReportT], str],
    **options: Any,
) -> int:
    """Calibrates with the options of every method and those of this one, and prints the report."""
    with Progress() as show:
        report = calibrate(
            arguments.model,
            arguments.output,
            text,
            tokens=default_tokens if arguments.tokens is None else arguments.tokens,
            activation=arguments.activation,
            pre=arguments.pre,
            seed=arguments.seed,
            force=arguments.force,
            progress=show,
            **options,
        )
    return print_report(arguments, report, table)


def _recorder(arguments: argparse.Namespace) -> Recorder | None:
    """What runs the text through the model, if this process does not."""
    if not uses_engine(arguments):
        return None
    from ..batch.shards import recorder

    names = ("activation", "pre", "backend", "isa", "threads")
    settings = {name: getattr(arguments, name) for name in names}
    return recorder(arguments.model, **engine_options(arguments), **settings)


def _method(arguments: argparse.Namespace) -> str:
    """The requested method, or the one that suits the model's activation."""
    if arguments.method != "auto":
        return str(arguments.method)
    from ..arch.config import read_config
    from ..gguf.reader import GgufFile

    with GgufFile.open(arguments.model) as file:
        config = read_config(file, arguments.activation)
    return "predictors" if config.activation.is_relu_family else "cutoffs"


def _calibrate_cutoffs(arguments: argparse.Namespace, text: str) -> int:
    from ..calibrate.cutoffs import DEFAULT_TOKENS, SPARSITIES, calibrate_cutoffs

    return _run(
        arguments,
        calibrate_cutoffs,
        DEFAULT_TOKENS,
        text,
        cutoff_table,
        sparsities=arguments.sparsity or SPARSITIES,
        on=("product", "gate") if arguments.on == "both" else (arguments.on,),
        perplexity_cost=arguments.perplexity_cost / 100,
        even_if_slower=arguments.even_if_slower,
    )


def _calibrate_inputs(arguments: argparse.Namespace, text: str) -> int:
    from ..calibrate.inputs import DEFAULT_TOKENS, SHARES, calibrate_inputs

    return _run(
        arguments,
        calibrate_inputs,
        DEFAULT_TOKENS,
        text,
        input_table,
        shares=arguments.sparsity or SHARES,
        perplexity_cost=arguments.perplexity_cost / 100,
        even_if_slower=arguments.even_if_slower,
    )


def _calibrate_head(arguments: argparse.Namespace, text: str | None) -> int:
    from ..calibrate.head import DEFAULT_TOKENS, calibrate_head

    return _run(
        arguments,
        calibrate_head,
        DEFAULT_TOKENS,
        text,
        head_table,
        kl=0.01 if arguments.kl is None else arguments.kl,
        agreement=arguments.agreement,
        rank=arguments.rank,
        rows=arguments.rows,
        format=arguments.predictor_format,
        even_if_slower=arguments.even_if_slower,
    )


def _calibrate_all(arguments: argparse.Namespace, text: str) -> int:
    from ..calibrate.combined import calibrate_all

    return _run(
        arguments,
        calibrate_all,
        None,
        text,
        combined_table,
        perplexity_cost=arguments.perplexity_cost / 100,
        kl=arguments.kl,
        agreement=arguments.agreement,
        shares=arguments.sparsity,
        recall=arguments.recall,
        even_if_slower=arguments.even_if_slower,
    )


_OF_TEXT = {
    "cutoffs": _calibrate_cutoffs,
    "inputs": _calibrate_inputs,
    "all": _calibrate_all,
}


def combined_table(report: CombinedCalibration) -> str:
    """The report as text."""
    dense = sorted(each.dense_tokens_per_s for each in report.settings)
    lines = [
        "                        perplexity      nats   same      MB read  tokens/s, over dense",
        f"{'dense':22}{report.perplexity_dense:12.3f}{'':16}{report.dense_bytes / 1e6:13,.1f}"
        + (f"{dense[len(dense) // 2]:10.1f}" if dense else ""),
    ]
    free = [] if report.free is None else [(f"{report.free.mode} mode", report.free)]
    rows = free + [(each.methods[0], each) for each in report.settings]
    chosen = report.chosen
    if chosen is not None and len(chosen.methods) > 1:
        rows.append(("together", chosen))
    for name, each in rows:
        detail = "; ".join(each.details) if len(each.methods) == 1 else ", ".join(each.methods)
        lines.append(
            f"{name:22}{100 * report.cost(each):+10.2f} %{each.kl:10.4f} {each.agreement:7.2%}"
            f"{each.read_bytes / 1e6:13,.1f}{each.tokens_per_s:10.1f} {each.speedup:5.2f}×"
            f"  {detail}"
        )
    lines += [f"without {name}: {reason}" for name, reason in report.unused.items()]
    if chosen is None:
        limit = (
            f"{100 * report.perplexity_cost:g} % of perplexity"
            if report.kl is None
            else f"{report.kl:g} nats"
        )
        free_mode = (
            "dense" if report.free is None else f"the model as it is, in {report.free.mode} mode,"
        )
        verdict = (
            f"{free_mode} is best: nothing that costs at most {limit} is faster on this machine. "
            "Nothing was written"
        )
    else:
        verdict = f"best: {_described(report, chosen)}; wrote {report.output}"
    return "\n".join([*lines, "", f"{report.held_out_tokens:,} tokens held out; {verdict}"])


def _described(report: CombinedCalibration, chosen: MethodMeasure) -> str:
    pairs = zip(chosen.methods, chosen.details, strict=True)
    methods = " and ".join(f"{name} ({detail})" for name, detail in pairs)
    return (
        f"{methods}, perplexity {100 * report.cost(chosen):+.2f} %, {chosen.kl:.4f} nats, "
        f"{chosen.speedup:.2f}× the speed of dense"
    )


def head_table(report: HeadCalibration) -> str:
    """The report as text."""
    chosen, measured = report.chosen, report.measured
    text = "text that the model wrote" if report.generated else "the text"
    if chosen is None or measured is None:
        best = min(report.tried, key=lambda each: each.kl)
        return (
            f"dense is best: no screen that was tried is near enough on {text} and reads less; the "
            f"nearest: rank {best.rank}, {best.rows} rows, {best.kl:.4f} nats, the same most "
            f"likely token for {best.agreement:.2%}. Nothing was written"
        )
    verdict = f"wrote {report.output}" if report.output else "not faster here: nothing was written"
    return (
        f"a screen of rank {chosen.rank} in {chosen.format}, {chosen.rows:,} rows exact; on "
        f"{report.held_out_tokens:,} tokens of {text} held out:\n"
        f"divergence {measured.kl:.4f} nats, the same most likely token for "
        f"{measured.agreement:.2%}, perplexity {measured.perplexity:.3f} "
        f"({measured.perplexity_cost:+.2%})\n"
        f"reads {measured.read_share:.1%} of the output matrix's bytes; decoding "
        f"{measured.tokens_per_s:.1f} tokens/s, {measured.speedup:.2f}× the speed of dense\n"
        f"{verdict}"
    )


def _dense_is_best(report: PerplexityReport[Any], what: str = "dense") -> str:
    return (
        f"{what} is best: nothing that costs at most {100 * report.perplexity_cost:g} % of "
        "perplexity is faster on this machine. Nothing was written"
    )


def _as_it_is(report: InputCalibration) -> str:
    return "dense" if report.mode == "dense" else f"the model as it is, in {report.mode} mode,"


def input_table(report: InputCalibration) -> str:
    """The report as text."""
    plain = sorted(each.plain_tokens_per_s for each in report.settings)
    lines = [
        f"sites   left out  perplexity             tokens/s, over {report.mode}",
        (
            f"{report.mode:6}    0.0 %  {report.perplexity_dense:10.3f}"
            f"            {plain[len(plain) // 2]:9.1f}"
        ),
    ]
    for each in report.settings:
        lines.append(
            f"{len(each.limits):5}   {100 * each.left_out:6.1f} %  {each.perplexity:10.3f} "
            f"({100 * report.cost(each):+7.2f} %){each.tokens_per_s:9.1f}    {each.speedup:5.2f}×"
        )
    chosen = report.chosen
    if chosen is None and report.idle:
        verdict = (
            f"{_as_it_is(report)} is best: on this machine every product is faster with all "
            "inputs, so no setting left one out. Nothing was written"
        )
    elif chosen is None:
        verdict = _dense_is_best(report, _as_it_is(report))
    else:
        verdict = (
            f"best: limits at {len(chosen.limits)} of {report.sites} sites, "
            f"{100 * chosen.left_out:.1f} % of their inputs left out, perplexity "
            f"{100 * report.cost(chosen):+.2f} %, {chosen.speedup:.2f}× the speed of "
            f"{report.mode}, up to {report.column_bytes / 2**20:,.1f} MiB more memory; "
            f"wrote {report.output}"
        )
    return "\n".join([*lines, "", f"{report.held_out_tokens:,} tokens held out; {verdict}"])


def cutoff_table(report: CutoffCalibration) -> str:
    """The report as text."""
    dense = sorted(each.dense_tokens_per_s for each in report.settings)
    lines = [
        "cutoff on  left out  output error  perplexity             tokens/s, over dense",
        (
            f"dense         0.0 %             0  {report.perplexity_dense:10.3f}"
            f"            {dense[len(dense) // 2]:9.1f}"
        ),
    ]
    for each in report.settings:
        lines.append(
            f"{each.on:9}  {100 * each.left_out:6.1f} %  {each.output_error:12.3f}  "
            f"{each.perplexity:10.3f} ({100 * report.cost(each):+7.2f} %)"
            f"{each.tokens_per_s:9.1f}    {each.speedup:5.2f}×"
        )
    chosen = report.chosen
    if chosen is None and not any(any(each.cutoffs) for each in report.settings):
        verdict = (
            "no cutoff was found: the activation's exact zeros are more than the shares that were "
            "tried, and cost nothing; --method predictors is for such models. Nothing was written"
        )
    elif chosen is None:
        verdict = _dense_is_best(report)
    else:
        verdict = (
            f"best: a cutoff on the {chosen.on} in "
            f"{sum(each > 0 for each in chosen.cutoffs)} of {len(chosen.cutoffs)} layers, "
            f"{100 * chosen.left_out:.1f} % left out, perplexity {100 * report.cost(chosen):+.2f} "
            f"%, {chosen.speedup:.2f}× the speed of dense"
        )
        verdict += f"; wrote {report.output}" if report.output else ""
    return "\n".join([*lines, "", f"{report.held_out_tokens:,} tokens held out; {verdict}"])


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
        f"reads {100 * report.cost:.1f} % of the feed-forward weights per token; wrote "
        f"{report.output} ({report.format})"
    )
    lines += ["", perplexity, bytes_read]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:5.2f}%"
