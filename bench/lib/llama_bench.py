"""llama-bench, the program by which llama.cpp times itself, and that of its fork ik_llama.cpp.

Both are built from their sources for this machine. Imports the standard library alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .compilers import build
from .peer_files import HOME, MissingPeer

# Options with which each is timed; the fastest counts.
OPTIONS = {
    "llama.cpp": (("-fa", "0"), ("-fa", "1")),
    "ik_llama.cpp": (("-fa", "1"), ("-fa", "1", "-rtr", "1")),  # the second: repacked at load
}
_PARTS = ("CURL", "OPENSSL", "BUILD_SERVER", "BUILD_TESTS")  # which the program does without


def install(source: Path) -> Path:
    """Builds the program from the sources of llama.cpp or ik_llama.cpp, which takes some minutes;
    its path. `MissingPeer` where the folder has other things, or no compiler is there."""
    if not (source / "ggml" / "src").is_dir():
        raise MissingPeer(f"{source} has no sources of llama.cpp or ik_llama.cpp")
    name = "ik_llama.cpp" if (source / "ggml" / "src" / "iqk").is_dir() else "llama.cpp"
    without = {f"LLAMA_{part}": "OFF" for part in _PARTS}
    options = {"BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "ON", "GGML_OPENMP": "OFF", **without}
    build(source, _program(name).parent.parent, ["llama-bench"], options)
    return _program(name)


def programs() -> dict[str, Path]:
    """The programs that are installed, by the peer's name. `MissingPeer` where there is none."""
    found = {name: _program(name) for name in OPTIONS if _program(name).exists()}
    if not found:
        raise MissingPeer(
            "llama-bench is not installed; install it from the sources of llama.cpp or "
            "ik_llama.cpp with: python -m bench.install --sources FOLDER"
        )
    return found


def seconds(
    program: Path,
    model: Path,
    threads: int,
    test: Literal["prompt", "decode"],
    tokens: int,
    options: Sequence[str] = (),
    repeats: int = 1,
) -> float:
    """The seconds that a prompt of so many tokens, or decoding so many, takes by the program's own
    clock, the mean of ``repeats``. `subprocess.CalledProcessError` where it fails."""
    counts = {"prompt": ("-p", str(tokens), "-n", "0"), "decode": ("-p", "0", "-n", str(tokens))}
    command = [str(program), "-m", str(model), "-t", str(threads), *counts[test], *options]
    command += ["-r", str(repeats), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # ik_llama.cpp writes what it does before the list.
    found = json.loads(done.stdout[done.stdout.index("[\n") :])
    return tokens / float(found[0]["avg_ts"])


def _program(name: str) -> Path:
    return HOME / f"llama-bench of {name}" / "bin" / "llama-bench"
