"""Installs peers into the environment of this interpreter.

python -m bench.install llama.cpp     # llama-cpp-python, built from source: some minutes
python -m bench.install onnx playwright
python -m bench.install --sources path/to/ik_llama.cpp    # llama-bench, for `bench.peers programs`
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .lib.command import run_program
from .lib.compilers import llama_environment
from .lib.llama_bench import install as build_llama_bench
from .lib.peer_files import PEERS


def install(name: str) -> None:
    """Installs a peer with pip into the environment of this interpreter. llama.cpp is built from
    source for this machine, which takes some minutes."""
    command, environment = [sys.executable, "-m", "pip", "install"], dict(os.environ)
    if name == "llama.cpp":
        command += ["--no-binary", "llama-cpp-python", "llama-cpp-python"]
        environment = llama_environment()
        environment["CMAKE_ARGS"] = "-DGGML_NATIVE=ON"
    else:
        command += [name]
    subprocess.run(command, check=True, env=environment)


def main() -> None:
    """Installs what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.install", description="Installs peers of the benchmarks."
    )
    names = sorted(PEERS.values())
    add = parser.add_argument
    add("names", nargs="*", metavar="PEER", help=", ".join(names))
    about = "of llama.cpp or ik_llama.cpp: builds their program llama-bench"
    add("--sources", nargs="+", type=Path, default=[], metavar="FOLDER", help=about)
    arguments = parser.parse_args()
    if not arguments.names and not arguments.sources:
        parser.error(f"name a peer ({', '.join(names)}) or --sources")
    if unknown := set(arguments.names) - set(names):
        parser.error(
            f"no peer is called {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    for name in arguments.names:
        install(name)
    for source in arguments.sources:
        print(build_llama_bench(source))


if __name__ == "__main__":
    run_program(main)
