"""The command line of benchmarks that have sections."""

from __future__ import annotations

import argparse
from collections.abc import Collection


def parse_arguments(prog: str, description: str, names: Collection[str]) -> argparse.Namespace:
    """`sections`, those that the command line names or else all of them, and `json`."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(names)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}")
    arguments.sections = arguments.sections or list(names)
    return arguments
