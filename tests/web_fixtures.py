"""Fixtures of the tests of the browser page; a test file names this one as a plugin of pytest.

What uses `browser`, `page` or `visit` runs in each engine. Each test file opens and closes its own
browser of each: Playwright's synchronous interface keeps an event loop running in its thread, which
other tests use without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

import tiny_model
from bench.lib.web_drivers import ENGINES, launch
from conftest import missing, open_test_core
from pyodide_harness import ensure_pyodide
from shared import CACHE
from sparsefire.errors import BackendError
from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile, make_site
from web_harness import AT_REST, Browser, Refuser, Web, running, serve


@pytest.fixture(scope="session")
def site() -> dict[str, SiteFile]:
    """The files of the page."""
    try:
        ensure_pyodide()
        return make_site(cache=CACHE)
    except BackendError as error:
        missing(str(error))


@pytest.fixture(scope="module", params=list(ENGINES))
def browser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser of each engine."""
    directory: Path = tmp_path_factory.mktemp(request.param)
    with running(Refuser()) as refuser:
        try:
            with launch(request.param, directory, refuser.server_port) as first:
                yield Browser(first, directory, refuser.server_port)
        except FileNotFoundError as error:
            missing(str(error))
    assert refuser.refused == []


@pytest.fixture
def visit(browser: Browser, site: dict[str, SiteFile]) -> Iterator[Callable[..., Web]]:
    """Makes tabs without anything stored, by default for the page on a server of its own: `script`
    then runs before it. `origin` is that of another server. Errors on the console fail the test."""
    pages: list[Web] = []
    with ExitStack() as opened:

        def make(
            origin: str = "", script: str = AT_REST, files: Mapping[str, SiteFile] = site
        ) -> Web:
            origin = origin or opened.enter_context(serve(files, script)).origin
            pages.append(Web(opened.enter_context(browser.tab()), origin))
            return pages[-1]

        yield make
        errors = [error for page in pages for error in page.errors]
    assert errors == []


@pytest.fixture(scope="module")
def page(browser: Browser, site: dict[str, SiteFile]) -> Iterator[Web]:
    """One started page, shared by tests that leave it usable."""
    with serve(site) as server, browser.tab() as driver:
        web = Web(driver, server.origin).open()
        yield web
        errors = web.errors
    assert errors == []


@pytest.fixture(scope="module")
def native() -> Iterator[Model]:
    """The embedded model on the native core whose results are, bit for bit, those of wasm."""
    with Model.load(core=open_test_core("native-scalar")) as model:
        yield model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 0.3 MB."""
    return tiny_model.write(tmp_path_factory.mktemp("models") / "small.gguf", context=64)
