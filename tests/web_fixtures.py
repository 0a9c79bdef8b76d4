"""Fixtures of the tests of the browser page; a test file names this one as a plugin of pytest.

Each test file opens and closes its own browser: Playwright's synchronous interface keeps an event
loop running in its thread, which other tests use without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import missing, open_test_core
from pyodide_harness import ensure_pyodide
from shared import CACHE
from sparsefire.errors import BackendError
from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile, make_site
from web_harness import Refuser, Web, chromium, serve


@pytest.fixture(scope="session")
def site() -> dict[str, SiteFile]:
    """The files of the page."""
    try:
        ensure_pyodide()
        return make_site(cache=CACHE)
    except BackendError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def browser() -> Iterator[tuple[Any, Refuser]]:
    """Playwright's browser, and the proxy that refuses its requests."""
    try:
        with chromium() as both:
            yield both
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def origin(site: dict[str, SiteFile]) -> Iterator[str]:
    """The address of the page, served with the headers of cross-origin isolation."""
    with serve(site) as server:
        yield server.origin


@pytest.fixture
def visit(browser: tuple[Any, Refuser], origin: str) -> Iterator[Callable[..., Web]]:
    """Opens pages in a new profile. Requests for other hosts and errors on the console fail the
    test. `origin` replaces the address of the page; the other options are the profile's."""
    contexts: dict[str, Any] = {}
    pages: list[Web] = []

    def open_page(origin: str = origin, alive: bool = False, **options: Any) -> Web:
        context = contexts.get(str(options)) or browser[0].new_context(**options)
        contexts[str(options)] = context
        pages.append(Web(context.new_page(), origin, alive))
        return pages[-1]

    yield open_page
    for context in contexts.values():
        context.close()
    assert browser[1].refused == []
    assert [error for page in pages for error in page.errors] == []


@pytest.fixture(scope="module")
def page(browser: tuple[Any, Refuser], origin: str) -> Iterator[Web]:
    """One started page, shared by tests that leave it usable."""
    context = browser[0].new_context()
    web = Web(context.new_page(), origin).open()
    yield web
    context.close()
    assert browser[1].refused == []
    assert web.errors == []


@pytest.fixture(scope="module")
def native() -> Iterator[Model]:
    """The embedded model on the native core whose results are, bit for bit, those of wasm."""
    with Model.load(core=open_test_core("native-scalar")) as model:
        yield model
