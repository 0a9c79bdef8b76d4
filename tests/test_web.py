"""The browser page, in Chromium, without any network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import missing, open_test_core
from sparsefire.errors import BackendError
from sparsefire.model import Model
from sparsefire.web_site import SiteFile, make_site
from web_harness import CACHE, Refuser, Web, chromium, serve

PROMPT = "The people of"
MODES = ("sparse", "exact", "dense")
GREEDY = {"temperature": 0, "repeat_penalty": 1}


@pytest.fixture(scope="module")
def site() -> dict[str, SiteFile]:
    try:
        return make_site(cache=CACHE)
    except BackendError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def browser() -> Iterator[tuple[Any, Refuser]]:
    try:
        with chromium() as both:
            yield both
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def origin(site: dict[str, SiteFile]) -> Iterator[str]:
    with serve(site) as server:
        yield server.origin


@pytest.fixture
def visit(browser: tuple[Any, Refuser], origin: str) -> Iterator[Callable[..., Web]]:
    """Opens pages in a profile of their own; what they asked of the network or complained about
    fails the test."""
    context = browser[0].new_context()
    pages: list[Web] = []

    def open_page(**options: Any) -> Web:
        pages.append(Web(context.new_page(), options.get("origin", origin)))
        return pages[-1]

    yield open_page
    context.close()
    assert browser[1].refused == []
    assert [error for page in pages for error in page.errors] == []


@pytest.fixture(scope="module")
def page(browser: tuple[Any, Refuser], origin: str) -> Iterator[Web]:
    """One page that has started, for the tests that leave it usable."""
    context = browser[0].new_context()
    web = Web(context.new_page(), origin).open()
    yield web
    context.close()
    assert web.errors == []


@pytest.fixture(scope="module")
def native() -> Iterator[Model]:
    """The embedded model on the native core whose results are, bit for bit, those of wasm."""
    with Model.load(core=open_test_core("native-scalar")) as model:
        yield model


def test_each_mode_makes_the_native_text(page: Web, native: Model) -> None:
    for mode in MODES:
        expected = "".join(native.generate(PROMPT, 40, mode=mode, temperature=0))
        assert page.generate(PROMPT, mode, max_tokens=40, **GREEDY) == expected
    rows = page.page.inner_text("#side").splitlines()
    assert all("–" not in row for row in rows), rows
