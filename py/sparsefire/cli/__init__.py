"""The command line: `sparsefire COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .batch import add_batch_parser
from .bench import add_bench_parser
from .calibrate import add_calibrate_parser
from .chat import add_chat_parser
from .common import Parser, can_be_written, run_command, usable_streams
from .convert import add_convert_parser
from .generate import add_generate_parser
from .inspect import add_inspect_parser
from .page import add_web_parser
from .perplexity import add_perplexity_parser
from .quantize import add_quantize_parser
from .rerank import add_rerank_parser
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
    add_generate_parser(commands)
    add_chat_parser(commands)
    add_serve_parser(commands)
    add_batch_parser(commands)
    add_rerank_parser(commands)
    add_perplexity_parser(commands)
    add_calibrate_parser(commands)
    add_inspect_parser(commands)
    add_quantize_parser(commands)
    add_convert_parser(commands)
    add_bench_parser(commands)
    add_web_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    with usable_streams():
        try:
            parsed = build_parser().parse_args(arguments)
        except (SystemExit, BrokenPipeError):  # --help and --version print, and end
            if not can_be_written(sys.stdout):
                return 1
            raise
        return run_command("sparsefire", parsed.run, parsed)
