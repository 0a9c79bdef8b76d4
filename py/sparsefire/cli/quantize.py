"""`sparsefire quantize`: write a model in another weight format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .._shown import shown
from .common import Progress, add_host_options, add_output_options, choose_host, print_report

if TYPE_CHECKING:
    from ..files.quantize import QuantizeReport

_SHOWN = 12  # tensors listed that did not get the requested format


def add_quantize_parser(commands: Any) -> None:
    """Adds `quantize` to the subcommands."""
    parser = commands.add_parser(
        "quantize",
        help="write a model in another weight format",
        description="Writes a model with its matrices in another weight format, tensor by tensor, "
        "so that a large model needs little memory. Norms, biases and predictors stay as they are. "
        "A matrix whose columns are not a multiple of the format's block size gets another format, "
        "and is listed.",
    )
    parser.set_defaults(run=_quantize)
    add = parser.add_argument
    add("input", metavar="IN.gguf", help="input model")
    add("output", metavar="OUT.gguf", help="output file")
    add("format", metavar="FORMAT", help="q8_0, q4_0, q4_1, q4_k, q5_k, q6_k, f16, bf16, f32 …")
    add("--output-format", metavar="FORMAT", help="format of the output matrix")
    add("--embedding-format", metavar="FORMAT", help="format of the token embedding")
    add_output_options(parser)
    add_host_options(parser)


def _quantize(arguments: argparse.Namespace) -> int:
    from ..files.quantize import quantize_model

    choose_host(arguments)
    with Progress() as show:
        report = quantize_model(
            arguments.input,
            arguments.output,
            arguments.format,
            output_format=arguments.output_format,
            embedding_format=arguments.embedding_format,
            force=arguments.force,
            progress=show,
        )
    return print_report(arguments, report, _summary)


def _summary(report: QuantizeReport) -> str:
    lines = [
        (
            f"{report.output}: {report.bytes_after:,} bytes, {report.bits_per_weight:.2f} bits per "
            f"weight; before {report.bytes_before:,} bytes"
        )
    ]
    notes: dict[tuple[str, str], list[str]] = {}
    for each in report.tensors:
        if each.note and each.after.lower() != report.format and len(each.shape) > 1:
            notes.setdefault((each.after, each.note), []).append(each.name)
    for (kind, note), names in notes.items():
        listed = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        lines.append(shown(f"{len(names)} in {kind.upper()} ({note}): {listed}"))
    return "\n".join(lines)
