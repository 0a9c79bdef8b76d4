"""The command line of benchmarks: sections, effort, and peers that are not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from .peer_files import MissingPeer

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """How much a benchmark does: all that its results need, or (``quick``) just enough to show
    that it works."""

    quick: bool = False

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """``shape``, of at most 256×512 when quick."""
        return (min(shape[0], 256), min(shape[1], 512)) if self.quick else shape

    def seconds(self, seconds: float) -> float:
        """How long to repeat; when quick, the fewest repetitions suffice."""
        return 0.0 if self.quick else seconds

    def some(self, values: Sequence[T]) -> Sequence[T]:
        """``values``, or the first of them when quick."""
        return values[:1] if self.quick else values


def parse_sections(prog: str, description: str, names: Collection[str]) -> argparse.Namespace:
    """`sections` (those that the command line names, by default all), `json` and `effort`."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    add_quick(parser)
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(names)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}")
    arguments.sections = arguments.sections or list(names)
    arguments.effort = Effort(arguments.quick)
    return arguments


def add_quick(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--quick``."""
    about = "tiny sizes and few repetitions: shows that it works, measures nothing"
    parser.add_argument("--quick", action="store_true", help=about)


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Runs a program; when a peer is missing, ends it with the sentence that says how to get it."""
    try:
        sys.exit(main())
    except MissingPeer as error:
        sys.exit(str(error))
