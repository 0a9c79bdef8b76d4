"""Reads of experts beside the core's work: past the page cache, failing, and interrupted."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moe_model
import sparsefire as sf
import tiny_model
from sparsefire.core.core import Core
from sparsefire.ffn import cached_experts
from sparsefire.ffn.uncached import UncachedFile

IDS = np.arange(30) * 37 % moe_model.VOCAB
SIZE = (9 << 20) + 1234  # more than two direct reads, and no multiple of anything

reads_at_a_place = pytest.mark.skipif(
    not UncachedFile.supported, reason="the system has no reads at a place"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    content = np.random.default_rng(0).bytes(SIZE)
    path = tmp_path_factory.mktemp("uncached") / "file"
    path.write_bytes(content)
    return path, content


def system(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Makes the system one on which direct reads are refused in some way."""
    plain_open, plain_read, direct = os.open, os.preadv, getattr(os, "O_DIRECT", 0)
    descriptors = set()

    def open_file(path: Any, flags: int, *rest: Any) -> int:
        if flags & direct and kind == "refused by open":
            raise OSError(errno.EINVAL, "Invalid argument")
        found = plain_open(path, flags, *rest)
        if flags & direct:
            descriptors.add(found)
        return found

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        is_direct = descriptor in descriptors
        if is_direct and (kind == "refused by read" or (kind == "refused later" and offset)):
            raise OSError(errno.EINVAL, "Invalid argument")
        if kind == "in small pieces":
            step = 8192 if is_direct else 777
            buffers = [each[:step] for each in buffers[:1]]
        return plain_read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "preadv", preadv)
    if kind == "no fadvise":
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
        monkeypatch.delattr(os, "O_DIRECT", raising=False)


@reads_at_a_place
@pytest.mark.parametrize(
    "kind",
    [
        "as it is",
        "refused by open",
        "refused by read",
        "refused later",
        "in small pieces",
        "no fadvise",
    ],
)
def test_any_part_of_a_file(
    large: tuple[Path, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = large
    system(monkeypatch, kind)
    file = UncachedFile(path)
    if kind in ("refused by open", "refused by read", "no fadvise"):
        assert not file.is_direct
    random = np.random.default_rng(1)
    spans = [(int(random.integers(SIZE)), int(random.integers(1, 20_000))) for _ in range(40)]
    spans += [(0, 4096), (1, 4095), (4095, 2), (0, SIZE), (77, SIZE), (SIZE - 1, 1), (5, 0)]
    spans += [(SIZE - 5000, 9000), (SIZE, 10), (SIZE + 9999, 10)]

    def check(span: tuple[int, int]) -> None:
        offset, count = span
        out = bytearray(count)
        expected = content[offset : offset + count]
        assert file.read(offset, memoryview(out)) == len(expected)
        assert bytes(out[: len(expected)]) == expected
        assert not any(out[len(expected) :])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(check, spans))
    file.close()
    file.close()


@reads_at_a_place
def test_files_that_cannot_be_opened_or_read(
    large: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        UncachedFile(tmp_path / "none")
    with pytest.raises(sf.ModelFileError, match="none: No such file"):
        cached_experts.ExpertReads((tmp_path / "none",))
    (tmp_path / "empty").touch()
    assert UncachedFile(tmp_path / "empty").read(0, memoryview(bytearray(10))) == 0

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    file = UncachedFile(large[0])
    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match="Input/output error"):
        file.read(0, memoryview(bytearray(10)))


@contextlib.contextmanager
def loaded(path: Path, activation: str = "silu") -> Iterator[tuple[sf.Model, Any]]:
    """A model that has room for two of the six experts of each layer, and its logits."""
    moe_model.write(path, "Q8_0", activation)
    with sf.Model.load(path) as whole:
        wanted = whole.logits(IDS)
        budget = sum(layer.nbytes for layer in whole.layers) // 3
    with sf.Model.load(path, neuron_budget=budget) as model:
        yield model, wanted


Read = Callable[[UncachedFile, int, memoryview], int]


@reads_at_a_place
@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize("kind", ["error", "short"])
def test_a_failing_read_leaves_a_usable_model(
    kind: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = UncachedFile.read
    calls = 0

    def fails(self: UncachedFile, offset: int, out: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls % 5:
            return read(self, offset, out)
        if kind == "error":
            raise OSError(errno.EIO, "Input/output error")
        return read(self, offset, out[:-1])

    with loaded(tmp_path / "m.gguf", activation) as (model, wanted):
        session = model.new_session(40)
        session.rewind(0, model.config.default_mode)
        logits = np.empty((10, moe_model.VOCAB), np.float32)
        for start in range(0, 30, 10):
            monkeypatch.setattr(UncachedFile, "read", fails)
            reason = "Input/output error" if kind == "error" else "ends too early"
            with pytest.raises(sf.ModelFileError, match=rf"expert \d of 'blk.*{reason}"):
                session.evaluate(IDS[start : start + 10].astype(np.int32), logits)
            assert len(session.tokens) == start
            monkeypatch.setattr(UncachedFile, "read", read)
            session.evaluate(IDS[start : start + 10].astype(np.int32), logits)
            np.testing.assert_array_equal(logits, wanted[start : start + 10])


@reads_at_a_place
@pytest.mark.parametrize("together", [False, True])
def test_an_interrupt_waits_for_what_is_being_read(
    together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reading, released = UncachedFile.read, threading.Event(), threading.Event()
    begun: list[int] = []
    ended: list[int] = []

    def slow(self: UncachedFile, offset: int, out: memoryview) -> int:
        begun.append(offset)
        reading.set()
        assert released.wait(60)
        count = read(self, offset, out)
        ended.append(offset)
        return count

    def interrupted(*_: object, **__: object) -> None:
        assert reading.wait(60)
        threading.Timer(0.05, released.set).start()
        raise KeyboardInterrupt

    with loaded(tmp_path / "m.gguf") as (model, wanted):
        session = model.new_session(40)
        given = IDS.tolist(), model.config.default_mode
        for _ in range(3):
            reading.clear()
            released.clear()
            with monkeypatch.context() as patch:
                patch.setattr(UncachedFile, "read", slow)
                patch.setattr(cached_experts, "wait", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    model.evaluate([(session, IDS)]) if together else session.feed(*given)
                assert sorted(begun) == sorted(ended)
                assert begun
            assert session.tokens == []
            np.testing.assert_array_equal(model.logits(IDS), wanted)


def test_a_stream_that_fails(host_core: Core, tmp_path: Path) -> None:
    class Flaky(io.BytesIO):
        broken = False

        def readinto(self, buffer: Any) -> int:
            if self.broken:
                raise OSError(errno.EIO, "Input/output error")
            return super().readinto(buffer)

    path = moe_model.write(tmp_path / "m.gguf", "Q8_0")
    stream = Flaky(path.read_bytes())
    with sf.Model.load(path) as whole, sf.Model.load(stream, neuron_budget=60_000) as model:
        wanted = whole.logits(IDS)
        for _ in range(2):
            stream.broken = True
            with pytest.raises(sf.ModelFileError, match=r"expert \d of .*Input/output error"):
                model.logits(IDS)
            stream.broken = False
            np.testing.assert_array_equal(model.logits(IDS), wanted)


def test_parts_of_a_model_that_are_paths_and_streams(tmp_path: Path) -> None:
    path = moe_model.write(tmp_path / "m.gguf", "Q8_0", "silu")
    parts = tiny_model.split(path, tmp_path, 4)
    with sf.Model.load(path) as whole, contextlib.ExitStack() as stack:
        wanted = whole.logits(IDS)
        mixed = [stack.enter_context(parts[0].open("rb")), *parts[1:]]
        with sf.Model.load(mixed, neuron_budget=60_000) as model:
            np.testing.assert_array_equal(model.logits(IDS), wanted)
