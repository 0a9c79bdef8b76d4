"""The subcommand `sparsefire convert`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from .common import Progress, add_host_options, choose_host


def add_convert_parser(commands: Any) -> None:
    """Adds `convert` to the subcommands."""
    parser = commands.add_parser(
        "convert",
        help="make a GGUF file of a Hugging Face checkpoint",
        description="Makes a GGUF file of a directory with config.json, safetensors files and a "
        "tokeniser, as Hugging Face has them: models of the types llama, mistral, qwen2 and qwen3, "
        "also with ReLU, ReLU² or FATReLU, which the file then says.",
    )
    parser.set_defaults(run=_convert)
    add = parser.add_argument
    add("directory", metavar="DIR", help="the checkpoint")
    add("output", metavar="OUT.gguf", help="the new file")
    add(
        "--format",
        default="keep",
        metavar="FORMAT",
        help="of the matrices: q8_0, f16 …; default: as they are",
    )
    add("--name", metavar="NAME", help="of the model; default: the directory's")
    add("--pre", metavar="RULE", help="how the vocabulary cuts words, where it is not recognised")
    add("--force", action="store_true", help="replace OUT.gguf where it exists")
    add("--json", action="store_true", help="print one JSON object instead")
    add_host_options(parser)


def _convert(arguments: argparse.Namespace) -> int:
    from ..files.convert.checkpoint import convert_checkpoint

    choose_host(arguments)
    with Progress() as show:
        report = convert_checkpoint(
            arguments.directory,
            arguments.output,
            format=arguments.format,
            name=arguments.name,
            pre=arguments.pre,
            force=arguments.force,
            progress=show,
        )
    if arguments.json:
        print(json.dumps(asdict(report)))
        return 0
    print(
        f"{report.output}: {report.nbytes:,} bytes, {report.tensors} tensors of {report.weights:,} "
        f"weights, mostly {report.format.upper()}; {report.architecture}, {report.activation}, "
        f"{report.tokenizer}"
    )
    return 0
