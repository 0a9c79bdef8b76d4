"""Installs peers into the environment of this interpreter.

python -m bench.install llama.cpp     # llama-cpp-python, built from source: some minutes
python -m bench.install onnx playwright
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from .lib.compilers import llama_environment
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
        prog="python -m bench.install", description="Installs peers of the benchmarks with pip."
    )
    names = sorted(PEERS.values())
    add = parser.add_argument
    add("names", nargs="+", choices=names, metavar="PEER", help=", ".join(names))
    for name in parser.parse_args().names:
        install(name)


if __name__ == "__main__":
    main()
