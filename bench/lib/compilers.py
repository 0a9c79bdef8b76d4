"""How llama.cpp is built for this machine. Imports the standard library alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .peer_files import MissingPeer

_CPU_INFO = Path("/proc/cpuinfo")
_CLANGS = (*(f"clang-{version}" for version in range(30, 13, -1)), "clang")


def llama_environment(
    environment: Mapping[str, str] = os.environ,
    cpu_info: str | None = None,
    which: Callable[[str], str | None] = shutil.which,
) -> dict[str, str]:
    """The environment in which llama.cpp is built: clang where the processor has AMX, unless CC
    names a compiler. gcc 12 puts the instruction that sets up AMX before the numbers that it
    reads, and the program that it builds ends there. `MissingPeer` where clang is missing."""
    found = dict(environment)
    if cpu_info is None:
        cpu_info = _CPU_INFO.read_text() if _CPU_INFO.exists() else ""
    if "CC" in found or " amx_tile" not in cpu_info:
        return found
    for name in _CLANGS:
        if which(name) and which(name.replace("clang", "clang++")):
            return {**found, "CC": name, "CXX": name.replace("clang", "clang++")}
    raise MissingPeer(
        "llama.cpp for a processor with AMX is built by clang, which is not installed; install it "
        "with: apt-get install clang"
    )


def build(source: Path, folder: Path, targets: Sequence[str], options: Mapping[str, str]) -> None:
    """Builds targets of a project of CMake in ``folder``. What is built already is used again.
    `MissingPeer` where a compiler or CMake is missing."""
    if shutil.which("cmake") is None:
        raise MissingPeer("CMake is not installed; install it with: apt-get install cmake")
    given = [f"-D{name}={value}" for name, value in options.items()]
    configure = ["cmake", "-S", str(source), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run([*configure, *given], check=True, env=llama_environment())
    jobs = ["--parallel", str(os.cpu_count() or 1)]
    made = ["cmake", "--build", str(folder), "--config", "Release", "--target", *targets]
    subprocess.run([*made, *jobs], check=True)
