"""`sparsefire generate`: continue a text."""

from __future__ import annotations

import argparse
from typing import Any

from .common import (
    add_mode_options,
    add_model_options,
    add_sampling_options,
    add_speculation_option,
    cache_parts,
    cache_report,
    load_model,
    print_json,
    read_text,
    sampling_options,
)


def add_generate_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continues a text, and prints the speed, sparse and dense, and the share of "
        "neurons computed.",
    )
    parser.set_defaults(run=_generate)
    add = parser.add_argument
    add("prompt", help="the text to continue; '-' reads it from standard input")
    add(
        "-n",
        "--max-tokens",
        type=int,
        default=64,
        metavar="N",
        help="maximum number of new tokens; default %(default)s",
    )
    add("--context", type=int, metavar="N", help="maximum number of tokens, prompt included")
    add("--stop", action="append", default=[], metavar="TEXT", help="stop before this text")
    add("--json", action="store_true", help="print one JSON object instead")
    add(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="also measure dense mode, by evaluating the same tokens again (default: yes, except "
        "with --json or --neuron-budget)",
    )
    add_model_options(parser)
    add_mode_options(parser)
    add_sampling_options(parser)
    add_speculation_option(parser)


def _generate(arguments: argparse.Namespace) -> int:
    prompt = read_text("-") if arguments.prompt == "-" else arguments.prompt
    with load_model(arguments, arguments.context) as model:
        return _run(arguments, prompt, model)


def _run(arguments: argparse.Namespace, prompt: str, model: Any) -> int:
    pieces = model.generate(
        prompt,
        arguments.max_tokens,
        mode=arguments.mode,
        stop=arguments.stop,
        speculation=arguments.speculation,
        **sampling_options(arguments),
    )
    stats = model.stats
    if arguments.json:
        text = "".join(pieces)
        report = {"text": text, **stats.as_dict(), **cache_report(model)}
        if arguments.compare:
            report["compared_tokens_per_s"] = _speeds(model)
        print_json(report)
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
        # The text so far still gets its summary.
        pieces.close()
        print(flush=True)
        status = 130
    print(_summary(stats, speeds, model), flush=True)
    return status


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
    parts = [f"{stats.n_tokens} tokens", speed, stats.neurons(), *cache_parts(model)]
    return f"[{'; '.join([*parts, stats.where()])}]"
