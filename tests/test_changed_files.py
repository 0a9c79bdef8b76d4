"""Model files that are changed while they are in use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sparsefire as sf
from model_variants import IDS, greedy, variant_path
from sparsefire.core.core import Core
from sparsefire.errors import ModelFileError
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.session import DECODED

CALIBRATED = "calibrated"


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def overwrite(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))


def rename_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)


CHANGES: list[Callable[[Path], None]] = [truncate, overwrite]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(variant_path(CALIBRATED), tmp_path / "model.gguf"))


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow changes to mapped files")
@pytest.mark.parametrize("change", CHANGES)
def test_a_mapped_file_that_changes(path: Path, change: Any, host_core: Core) -> None:
    with sf.Model.load(path) as model:
        ids = greedy(model, IDS, 4)
        change(path)
        if not host_core.shares_buffers:
            assert greedy(model, IDS, 4) == ids  # from the copy in the core
            return
        session, other = model.new_session(8), model.new_session(8)
        for _ in range(2):
            with pytest.raises(ModelFileError, match=r"model\.gguf: the file was changed while"):
                greedy(model, IDS, 4)
            with pytest.raises(ModelFileError, match="was changed"):
                session.feed(IDS[:3], "exact")
            with pytest.raises(ModelFileError, match="was changed"):
                session.evaluate(IDS[:1], mark=DECODED)
            with pytest.raises(ModelFileError, match="was changed"):
                model.evaluate([(session, IDS[:1]), (other, IDS[:2])], mode="exact")


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_read_may_change(path: Path, change: Any, host_core: Core) -> None:
    with sf.Model.load(path) as mapped:
        ids = greedy(mapped, IDS, 4)
    with sf.Model.load(path, mapped=False) as model:
        assert greedy(model, IDS, 4) == ids
        change(path)
        assert greedy(model, IDS[::-1], 4) is not None  # nothing is left from before
        assert greedy(model, IDS, 4) == ids


@pytest.mark.skipif(os.name == "nt", reason="Windows does not rename over open files")
@pytest.mark.parametrize("mapped", [True, False])
def test_another_file_under_the_name(path: Path, mapped: bool) -> None:
    with sf.Model.load(path, mapped=mapped) as model:
        ids = greedy(model, IDS, 4)
        rename_over(path)
        assert greedy(model, IDS, 4) == ids


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow changes to mapped files")
@pytest.mark.parametrize("mapped", [True, False])
def test_neurons_of_a_file_that_changes(path: Path, mapped: bool, host_core: Core) -> None:
    budget = sf.NeuronCache(hot_fraction=0.2)
    with sf.Model.load(path, neuron_budget=budget, mapped=mapped) as model:
        greedy(model, IDS[:2], 1)
        overwrite(path)
        with pytest.raises(ModelFileError, match="was changed"):
            greedy(model, IDS[::-1], 8, mode="exact")


def test_a_file_that_changes_while_it_is_read(path: Path) -> None:
    with GgufFile.open(path, mapped=False) as file:
        name = max(file.tensors, key=lambda name: file.tensors[name].nbytes)
        assert file.tensor_data(name).nbytes == file.tensors[name].nbytes
        overwrite(path)
        with pytest.raises(ModelFileError, match="was changed"):
            file.tensor_data(name)
        truncate(path)
        with pytest.raises(ModelFileError, match="truncated"):
            file.tensor_data(name)


def test_what_its_writer_still_holds_in_a_buffer_is_no_change(path: Path) -> None:
    whole = path.read_bytes()
    with path.with_name("copy").open("w+b", buffering=len(whole)) as stream:
        stream.write(whole)
        with sf.Model.load(stream) as model:
            assert greedy(model, IDS, 2)
