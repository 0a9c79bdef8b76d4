"""`sparsefire convert`: convert a Hugging Face checkpoint to GGUF."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .common import Progress, add_host_options, add_output_options, choose_host, print_json


def add_convert_parser(commands: Any) -> None:
    """Adds `convert` to the subcommands."""
    parser = commands.add_parser(
        "convert",
        help="convert a Hugging Face checkpoint to GGUF",
        description="Converts a directory with config.json, safetensors files and a tokeniser, as "
        "published on Hugging Face, to one GGUF file. Model types: Llama, Mistral, Qwen 2 and 3, "
        "Granite, Arcee, Nemotron, Nemotron-H, RWKV 7, BitNet, and mixtures of experts such as "
        "Mixtral, Qwen 3 MoE, OLMoE, SmallThinker, DeepSeek-V3 and gpt-oss. The activation (ReLU, "
        "ReLU² and FATReLU included) is recorded in the file.",
    )
    parser.set_defaults(run=_convert)
    add = parser.add_argument
    add("directory", metavar="DIR", help="checkpoint directory")
    add("output", metavar="OUT.gguf", help="output file")
    add(
        "--format",
        default="keep",
        metavar="FORMAT",
        help="weight format: q8_0, f16 …; default: unchanged",
    )
    add(
        "--name",
        metavar="NAME",
        help="model name; default: the directory's, or the cached repository's",
    )
    add("--pre", metavar="RULE", help="pre-tokeniser, if it is not recognised")
    add_output_options(parser)
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
        print_json(asdict(report))
        return 0
    print(
        f"{report.output}: {report.nbytes:,} bytes, {report.tensors} tensors of {report.weights:,} "
        f"weights, mostly {report.format.upper()}; {report.architecture}, {report.activation}, "
        f"{report.tokenizer}"
    )
    return 0
