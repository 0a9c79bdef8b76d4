"""sparsefire against its peers; both sides of a row take turns in one run.

    python -m bench.peers                      # every section, as a table
    python -m bench.peers dense sparse --json  # two sections, as JSON
    python -m bench.peers --quick calls        # tiny sizes: only shows that it works

bench/README.md lists the sections with their peers and running times.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator

from ..lib.command import Effort, parse_sections, run_program
from ..lib.peer_files import MissingPeer
from ..lib.rows import Row, table

SECTIONS = (
    "dense",
    "sparse",
    "exact",
    "shares",
    "decode",
    "programs",
    "sparse-decode",
    "threads",
    "calls",
    "load",
    "wasm",
    "chromium",
)


def section_rows(section: str, effort: Effort) -> Iterator[Row]:
    """The rows of one section."""
    module = importlib.import_module(f".{section.replace('-', '_')}", __package__)
    rows: Callable[[Effort], Iterator[Row]] = module.rows
    return rows(effort)


def main() -> int:
    """Runs the sections that the command line names; 1 when a section lacks its peer."""
    arguments = parse_sections("bench.peers", "sparsefire against its peers.", SECTIONS)
    rows: list[Row] = []
    status = 0
    for section in arguments.sections:
        print(f"{section} …", file=sys.stderr, flush=True)
        try:
            for row in section_rows(section, arguments.effort):
                rows.append(row)
                print(f"  {row}", file=sys.stderr, flush=True)
        except MissingPeer as error:
            print(f"  {error}", file=sys.stderr, flush=True)
            status = 1
    if arguments.json:
        print(json.dumps([row.as_dict() for row in rows], indent=1))
    elif rows:
        print(table(rows))
    return status


if __name__ == "__main__":
    run_program(main)
