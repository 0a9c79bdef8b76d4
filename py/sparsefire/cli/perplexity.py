"""`sparsefire perplexity`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..errors import ArgumentError
from .common import (
    Progress,
    add_engine_options,
    add_mode_options,
    add_model_options,
    cache_parts,
    cache_report,
    engine_options,
    load_model,
    print_json,
    read_text,
    uses_engine,
)


def add_perplexity_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "perplexity",
        help="measure how well a model predicts a text",
        description="Computes the perplexity of a text in consecutive windows that do not overlap. "
        "Every token of a window except the first is scored.",
    )
    parser.set_defaults(run=_perplexity)
    add = parser.add_argument
    add("--text", required=True, metavar="FILE", help="UTF-8 text; '-' reads standard input")
    add("--context", type=int, metavar="N", help="tokens per window; default: the model's context")
    add("--json", action="store_true", help="print one JSON object instead")
    add_engine_options(parser.add_argument_group("who computes the windows").add_argument)
    add_model_options(parser)
    add_mode_options(parser)


def _perplexity(arguments: argparse.Namespace) -> int:
    text = read_text(arguments.text)
    if uses_engine(arguments):
        return _run_on_engine(arguments, text)
    with load_model(arguments, arguments.context) as model:
        return _run(arguments, text, model)


def _run(arguments: argparse.Namespace, text: str, model: Any) -> int:
    with Progress() as show:
        result = model.perplexity(
            text,
            mode=arguments.mode,
            progress=lambda done, total, perplexity: show(
                f"{done:,} of {total:,} tokens, perplexity {perplexity:.3f}", done / total
            ),
        )
    stats = model.stats
    if arguments.json:
        numbers = stats.as_dict()
        names = (
            *("active_share", "selected_share", "mode", "model", "backend", "isa", "threads"),
            *("head", "head_rows", "head_bytes"),
        )
        print_json(
            {
                "perplexity": result.perplexity,
                "loss": result.loss,
                "n_scored": result.n_scored,
                "context": model.context,
                "tokens_per_s": result.tokens_per_s,
                **{name: numbers[name] for name in names},
                **cache_report(model),
            }
        )
    else:
        speed = f"{result.tokens_per_s:.0f} tokens/s {stats.mode}"
        parts = [speed, stats.neurons(), *cache_parts(model), stats.where()]
        print(
            f"perplexity {result.perplexity:.4f} over {result.n_scored} tokens\n"
            f"[{'; '.join(parts)}]"
        )
    return 0


def _run_on_engine(arguments: argparse.Namespace, text: str) -> int:
    if arguments.neuron_profile is not None or isinstance(arguments.neuron_budget, float):
        raise ArgumentError(
            "--engine, --workers: not with --neuron-profile or a --neuron-budget in percent"
        )
    from ..batch.shards import perplexity

    names = (
        *("threads", "backend", "isa", "context", "mode", "activation", "pre"),
        *("neuron_budget", "mapped", "head", "k_format", "v_format"),
    )
    settings = {name: getattr(arguments, name) for name in names}
    began = time.perf_counter()
    with Progress() as show:
        options = engine_options(arguments)
        result = perplexity(text, arguments.model, progress=show, **options, **settings)
    speed = result.n_scored / (time.perf_counter() - began)
    if arguments.json:
        found = {"perplexity": result.perplexity, "loss": result.loss, "n_scored": result.n_scored}
        print_json({**found, "tokens_per_s": speed, "engine": arguments.engine})
    else:
        print(
            f"perplexity {result.perplexity:.4f} over {result.n_scored} tokens\n"
            f"[{speed:.0f} tokens/s with the start of processes; engine {arguments.engine}]"
        )
    return 0
