"""The command line: `sparsefire COMMAND`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .bench import add_bench_parser
from .calibrate import add_calibrate_parser
from .chat import add_chat_parser
from .common import (
    Parser,
    Progress,
    add_mode_options,
    add_model_options,
    add_sampling_options,
    load_model,
    read_text,
    run_command,
    sampling_options,
)
from .convert import add_convert_parser
from .inspect import add_inspect_parser
from .page import add_web_parser
from .quantize import add_quantize_parser
from .serve import add_serve_parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import sparsefire

        print(f"sparsefire {sparsefire.__version__}")
        parser.exit(0)


def build_parser() -> argparse.ArgumentParser:
    """The parser; each subcommand sets `run`, which takes the arguments and returns the exit
    status."""
    parser = Parser(prog="sparsefire", description="Activation-sparse neural inference.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_generate(commands)
    add_chat_parser(commands)
    add_serve_parser(commands)
    _add_perplexity(commands)
    add_calibrate_parser(commands)
    add_inspect_parser(commands)
    add_quantize_parser(commands)
    add_convert_parser(commands)
    add_bench_parser(commands)
    add_web_parser(commands)
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continues a text. Under it stand the speed, sparse and dense, and the share "
        "of neurons that were computed.",
    )
    parser.set_defaults(run=_generate)
    add = parser.add_argument
    add("prompt", help="the text to continue; '-' reads it from standard input")
    add("-n", "--max-tokens", type=int, default=64, metavar="N", help="default %(default)s")
    add("--context", type=int, metavar="N", help="tokens of prompt and text together, at most")
    add("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    add("--json", action="store_true", help="print one JSON object instead")
    add(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="measure the dense mode too, by evaluating the same tokens once more "
        "(default: yes, but not with --json or --neuron-budget)",
    )
    add_model_options(parser)
    add_mode_options(parser)
    add_sampling_options(parser)


def _generate(arguments: argparse.Namespace) -> int:
    prompt = read_text("-") if arguments.prompt == "-" else arguments.prompt
    model = load_model(arguments, arguments.context)
    pieces = model.generate(
        prompt,
        arguments.max_tokens,
        mode=arguments.mode,
        stop=arguments.stop,
        **sampling_options(arguments),
    )
    stats = model.stats
    if arguments.json:
        text = "".join(pieces)
        report = {"text": text, **stats.as_dict(), **_cache_report(model)}
        if arguments.compare:
            report["compared_tokens_per_s"] = _speeds(model)
        _print_json(report)
        return 0
    print(prompt, end="", flush=True)
    speeds: dict[str, float] = {}
    status = 0
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
        if arguments.compare or (arguments.compare is None and model.neurons is None):
            speeds = _speeds(model)
    except KeyboardInterrupt:
        # What was made so far still gets its line.
        pieces.close()
        print(flush=True)
        status = 130
    print(_summary(stats, speeds, model), flush=True)
    return status


def _cache_report(model: Any) -> dict[str, Any]:
    """What the neuron caches did, for JSON; nothing for a model that is in memory."""
    neurons = model.neurons
    if neurons is None:
        return {}
    stats = neurons.stats
    found = {"budget_bytes": neurons.budget_bytes, "layer_bytes": neurons.nbytes}
    return {"neuron_cache": {**found, **asdict(stats), "hit_rate": stats.hit_rate}}


def _speeds(model: Any) -> dict[str, float]:
    """Tokens per second of the run's mode and of the dense one, measured side by side."""
    from ..lm.compare import compare_modes

    stats = model.stats
    # The last token was drawn but not evaluated.
    evaluated = stats.token_ids[:-1]
    if stats.mode == "dense" or not evaluated:
        return {}
    return compare_modes(model, stats.prompt_token_ids, evaluated, (stats.mode, "dense"))


def _summary(stats: Any, speeds: dict[str, float], model: Any) -> str:
    """The line under a text."""
    if speeds:
        mine, dense = speeds[stats.mode], speeds["dense"]
        speed = (
            f"{mine:.0f} tokens/s {stats.mode}, {dense:.0f} tokens/s dense ({mine / dense:.1f}×)"
        )
    else:
        speed = f"{stats.tokens_per_s:.0f} tokens/s {stats.mode}"
    parts = [f"{stats.n_tokens} tokens", speed, stats.neurons()]
    if model.neurons is not None:
        cache = model.neurons.stats
        parts.append(
            f"{cache.hit_rate:.1%} of neurons found in {model.neurons.budget_bytes:,} bytes, "
            f"{cache.bytes_read:,} bytes read"
        )
    return f"[{'; '.join([*parts, stats.where()])}]"


def _add_perplexity(commands: Any) -> None:
    parser = commands.add_parser(
        "perplexity",
        help="how well a model predicts a text",
        description="Perplexity over consecutive windows of the text that do not overlap; every "
        "token of a window but the first is scored.",
    )
    parser.set_defaults(run=_perplexity)
    add = parser.add_argument
    add("--text", required=True, metavar="FILE", help="UTF-8 text; '-' reads standard input")
    add("--context", type=int, metavar="N", help="tokens of a window; default: the model's context")
    add("--json", action="store_true", help="print one JSON object instead")
    add_model_options(parser)
    add_mode_options(parser)


def _perplexity(arguments: argparse.Namespace) -> int:
    text = read_text(arguments.text)
    model = load_model(arguments, arguments.context)
    with Progress() as show:
        result = model.perplexity(
            text,
            mode=arguments.mode,
            progress=lambda done, total, perplexity: show(
                done / total, f"{done:,} of {total:,} tokens, perplexity {perplexity:.3f}"
            ),
        )
    stats = model.stats
    if arguments.json:
        numbers = stats.as_dict()
        names = ("active_share", "selected_share", "mode", "model", "backend", "isa", "threads")
        _print_json(
            {
                "perplexity": result.perplexity,
                "loss": result.loss,
                "n_scored": result.n_scored,
                "context": model.context,
                "tokens_per_s": result.tokens_per_s,
                **{name: numbers[name] for name in names},
                **_cache_report(model),
            }
        )
    else:
        print(
            f"perplexity {result.perplexity:.4f} over {result.n_scored} tokens\n"
            f"[{result.tokens_per_s:.0f} tokens/s {stats.mode}; {stats.neurons()}; "
            f"{stats.where()}]"
        )
    return 0


def _print_json(report: dict[str, Any]) -> None:
    print(json.dumps(report, ensure_ascii=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    parsed = build_parser().parse_args(arguments)
    return run_command("sparsefire", parsed.run, parsed)
