"""Fixtures of the tests of the HTTP server; a test file names this one as a plugin of pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_harness import CONTEXT, Running, Start, write_model
from sparsefire.lm.model import Model
from sparsefire.serve.app import Server
from sparsefire.serve.fields import Limits
from sparsefire.serve.requests import Requests


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's file."""
    return write_model(tmp_path_factory.mktemp("server"))


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts servers; each has a model of its own."""
    with contextlib.ExitStack() as stack:

        def begin(limits: Limits | None = None, **options: Any) -> Running:
            model = stack.enter_context(Model.load(path, context=CONTEXT))
            running = Running(Server(Requests(model, ["tiny"], limits or Limits()), **options))
            stack.callback(running.close)
            return running

        yield begin


@pytest.fixture(scope="module")
def shared(path: Path) -> Iterator[Running]:
    """A server with default limits, for requests that leave nothing behind."""
    with Model.load(path, context=CONTEXT) as model:
        running = Running(Server(Requests(model, ["tiny", "other"], Limits())))
        yield running
        running.close()


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    """The same model, to compare with."""
    with Model.load(path, context=CONTEXT) as loaded:
        yield loaded
