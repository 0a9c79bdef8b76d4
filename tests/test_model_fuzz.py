"""Damaged model files: whatever is in them, there is a model or a `SparsefireError`, and soon."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from c_builds import BUILDS, build
from conftest import ROOT, missing
from model_variants import HEAD_NORMS, POST_NORMS
from sparsefire.arch import screen
from sparsefire.calibrate.companion import write_companion
from sparsefire.core.core import Core
from sparsefire.errors import SparsefireError
from sparsefire.files.inspect import inspect_file
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model
from tiny_model import Tiny

SEEDS = {
    "calibrated": Tiny(layers=1, bundled=True, rank=8),
    "q8_0": Tiny(layers=1, format="Q8_0", attention_biases=True, biases=True),
    "gemma3": Tiny(
        arch="gemma3",
        layers=1,
        activation=None,
        vectors=(*HEAD_NORMS, *POST_NORMS),
        keys={"gemma3.attention.sliding_window": 3, "gemma3.rope.scaling.type": "linear"},
    ),
    "powerinfer": Tiny(layers=1, powerinfer=True, activation=None, rank=8),
}
ODD_NUMBERS = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
ODD_SIZES = (0, 1, 31, 2**16, 2**31 - 1, 2**31, 2**32, 2**33 + 1, 2**62, 2**63, 2**64 - 1)
ODD_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-45, 3.4e38)
SECONDS = 60  # for one file, on a slow machine


@cache
def seed(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return tiny_model.write(Path(folder) / "a.gguf", SEEDS[name]).read_bytes()


def try_model(data: bytes | Path, core: Core) -> None:
    """Loads and runs it in every mode that it allows."""
    began = time.perf_counter()
    try:
        with Model.load(data, core=core) as model:
            for mode in ("dense", "exact", "sparse"):
                try:
                    model.logits([1, 2, 3], mode=mode)
                except SparsefireError as error:
                    assert len(str(error)) > 10  # noqa: PT017
            "".join(model.generate("ab", 2))
    except SparsefireError as error:
        assert len(str(error)) > 10  # noqa: PT017
    assert time.perf_counter() - began < SECONDS


def thorough(core: Core) -> bool:
    """Where loading is fast enough for every damaged file; elsewhere it is some of them."""
    return core.host == "native" and "SPARSEFIRE_SANITIZED" not in os.environ


def header_end(data: bytes) -> int:
    return min(info.offset for info in GgufFile.open(data).tensors.values())


def damaged(name: str, count: int) -> Iterator[bytes]:
    """Files with lies in the header: bits, numbers, sizes and floats at places of chance, pieces
    left out, doubled or swapped, and numbers in the weights that are none."""
    return changed_files(seed(name), random.Random(name), count)


def changed_files(data: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    end = header_end(data)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            at = chance.randrange(4, end - 8)
            kind = chance.randrange(7)
            if kind == 0:
                changed[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                struct.pack_into("<I", changed, at, chance.choice(ODD_NUMBERS))
            elif kind == 2:
                struct.pack_into("<Q", changed, at, chance.choice(ODD_SIZES))
            elif kind == 3:
                struct.pack_into("<f", changed, at, chance.choice(ODD_FLOATS))
            elif kind == 4:
                del changed[at : at + chance.randrange(1, 40)]
            elif kind == 5:
                other = chance.randrange(4, end - 48)
                changed[at : at + 40] = changed[other : other + 40]
            else:
                place = chance.randrange(end, len(changed) - 4)
                struct.pack_into("<f", changed, place, chance.choice(ODD_FLOATS))
        yield bytes(changed)


@pytest.mark.parametrize("name", SEEDS)
def test_lying_headers(name: str, host_core: Core) -> None:
    for data in damaged(name, 150 if thorough(host_core) else 40):
        try_model(data, host_core)


def test_damaged_companions(host_core: Core, tmp_path: Path) -> None:
    """A screen and limits of inputs beside a model. `inspect` describes what is left of them."""
    path = tmp_path / "model.gguf"
    tiny_model.write(path, layers=1, format="Q4_0", activation="silu")
    values = np.random.default_rng(1)
    shapes = zip(screen.TENSORS, ((32, 64), (270, 32), (270,)), strict=True)
    tensors: dict[str, Any] = {
        name: values.standard_normal(shape).astype(np.float32) for name, shape in shapes
    }
    names = [f"blk.0.attn_{each}.weight" for each in ("q", "output")]
    keys = {screen.ROWS_KEY: 20, screen.NAMES_KEY: names, screen.LIMITS_KEY: np.full(2, 0.5, "f4")}
    with GgufFile.open(path) as file:
        of = screen.fingerprint(file)
    companion = screen.companion_path(path)
    write_companion(companion, "llama", of, keys, tensors, force=True)
    with Model.load(path, core=host_core) as model:
        assert model.head == "screened"
        assert model.config.leaves_out_inputs == (host_core.host == "native")
    count = 150 if thorough(host_core) else 40
    for data in changed_files(companion.read_bytes(), random.Random(1), count):
        companion.write_bytes(data)
        try_model(path, host_core)
        with contextlib.suppress(SparsefireError):
            inspect_file(companion)


def value_places(data: bytes) -> Iterator[tuple[str, int, str]]:
    """Where each number among the metadata lies, and its type."""
    file = GgufFile.open(data)
    for key, kind in file.metadata_types.items():
        at = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
        if kind.name in ("u32", "i32", "f32"):
            yield key, at, kind.name


@pytest.mark.parametrize("name", SEEDS)
def test_every_number_of_the_metadata(name: str, host_core: Core) -> None:
    data = seed(name)
    for _key, at, kind in value_places(data):
        odd: tuple[Any, ...] = ODD_FLOATS if kind == "f32" else (0, 1, 0xFFFF_FFFF)
        for value in odd[: 7 if thorough(host_core) else 3]:
            changed = bytearray(data)
            struct.pack_into("<f" if kind == "f32" else "<I", changed, at, value)
            try_model(bytes(changed), host_core)


@pytest.mark.parametrize("name", SEEDS)
def test_every_size_in_the_table_of_tensors(name: str, host_core: Core) -> None:
    """Dimensions, formats and offsets that overflow, alone and together."""
    data = seed(name)
    sizes = ODD_SIZES if thorough(host_core) else ODD_SIZES[3:8]
    for tensor in list(GgufFile.open(data).tensors.values())[:: 1 if "8" in name else 2]:
        label = struct.pack("<Q", len(tensor.name)) + tensor.name.encode()
        at = data.index(label) + len(label) + 4  # the first dimension
        count = len(tensor.shape)
        for size in sizes:
            for place in (*range(count + 1), None):
                changed = bytearray(data)
                if place is None:  # all dimensions, whose product overflows
                    struct.pack_into(f"<{count}Q", changed, at, *(size,) * count)
                elif place < count:
                    struct.pack_into("<Q", changed, at + 8 * place, size)
                else:
                    struct.pack_into("<Q", changed, at + 8 * count + 4, size)  # the offset
                try_model(bytes(changed), host_core)


@pytest.mark.parametrize("name", SEEDS)
def test_every_section_cut_off(name: str) -> None:
    data = seed(name)
    file = GgufFile.open(data)
    ends = {0, 4, 8, 16, 24, header_end(data), len(data) - 40}
    for label in (*file.metadata, *file.tensors):
        at = data.index(struct.pack("<Q", len(label)) + label.encode())
        ends |= {at, at + 4, at + 8, at + 8 + len(label), at + 12 + len(label)}
    for info in file.tensors.values():
        ends |= {info.offset, info.offset + 1, info.offset + info.nbytes - 1}
    for end in sorted(ends):
        with pytest.raises(SparsefireError):
            Model.load(data[:end])


# -- Under sanitizers ----------------------------------------------------------------------------


def sanitized_package(home: Path) -> dict[str, str]:
    """Puts the package with a sanitized extension into `home`; the environment that it needs."""
    if not shutil.which("gcc"):
        missing("gcc is not installed")
    built = build(next(kind for kind in BUILDS if kind.name == "memory-sanitized"))
    if isinstance(built, str):
        pytest.fail(f"the sanitized core does not build:\n{built}", pytrace=False)
    package = home / "sparsefire"
    left_out = shutil.ignore_patterns("__pycache__", "_native*", "*.wasm")
    shutil.copytree(ROOT / "py" / "sparsefire", package, ignore=left_out)
    command = ["gcc", "-shared", "-fPIC", "-O1", "-g", "-fsanitize=address,undefined"]
    command += ["-fno-sanitize-recover=all", "-DPy_LIMITED_API=0x030b0000"]
    command += ["-I", sysconfig.get_path("include"), "-I", str(ROOT / "core_c" / "include")]
    command += [str(ROOT / "py" / "ext" / "_native.c"), str(built.parent / "libsparsefire.a")]
    command += ["-o", str(package / "core" / "_native.abi3.so"), "-lm", "-lpthread"]
    subprocess.run(command, check=True)
    ask = ["gcc", "-print-file-name=libasan.so"]
    library = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    return {
        **os.environ,
        "SPARSEFIRE_SANITIZED": "1",
        "PYTHONPATH": str(home),
        "LD_PRELOAD": library,
        # Python itself leaks, and asks for more than there is on purpose in some tests.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


# What the sanitizers must see: a core that is told of 4,096 floats where there are 1,024.
READ_OUTSIDE = """
import numpy as np
from sparsefire.core.hosts import get_core
core, x, y = get_core(), np.ones(1024, np.float32), np.empty(4096, np.float32)
core.check("sf_softmax", core.context, core.inp(x), 4096, core.out(y), what="reading outside")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_corpus_under_sanitizers(tmp_path: Path) -> None:
    """The files above once more, with a native core that is built with the address and the
    undefined-behaviour sanitizer: the first access outside an allocation ends the process."""
    environment = sanitized_package(tmp_path)
    where = [sys.executable, "-c", "import sparsefire; print(sparsefire.__file__)"]
    found = subprocess.run(where, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(tmp_path / "sparsefire" / "__init__.py")
    outside = [sys.executable, "-c", READ_OUTSIDE]
    caught = subprocess.run(outside, env=environment, capture_output=True, text=True)
    assert caught.returncode != 0
    assert "heap-buffer-overflow" in caught.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += ["-k", "(native or section) and not sanitizers", "--timeout", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-6000:]}"
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
