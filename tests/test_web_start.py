"""How the browser page starts in browsers that lack a feature, and what it says when it cannot."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench.lib.web_drivers import ENGINES
from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile
from web_harness import AT_REST, WITHOUT_SHARED_MEMORY, Web

pytest_plugins = ("web_fixtures",)
PROMPT = "The people of"
GREEDY = {"temperature": 0, "repeat_penalty": 1}
# What the browser itself writes to the console about these pages.
COMPLAINTS = ("Failed to load resource", "SyntaxError", "Unexpected token", "out of order")


@pytest.fixture
def changed(visit: Any, site: dict[str, SiteFile]) -> Any:
    """Opens a page whose scripts have been changed: `scripts` maps a script's name to code that
    precedes it, or to None where it is missing, and `page` runs in the page before its scripts."""

    def make(page: str = "", **scripts: str | None) -> Web:
        files = dict(site)
        for name, code in scripts.items():
            original = files.pop(f"{name}.js").read()
            if code is not None:
                files[f"{name}.js"] = SiteFile(data=code.encode() + original)
        web: Web = visit(script=f"{AT_REST}{page};\n", files=files)
        web.expected += COMPLAINTS
        web.driver.open(web.origin)
        return web

    return make


def test_without_shared_memory_and_newer_functions_it_makes_the_same_text(
    changed: Any, native: Model
) -> None:
    web = changed(
        "delete self.SharedArrayBuffer; delete CanvasRenderingContext2D.prototype.roundRect;"
        "delete self.OffscreenCanvas",
        worker="delete self.SharedArrayBuffer; delete self.TransformStream;",
    )
    web.wait_for("ready")
    assert web.evaluate("crossOriginIsolated")
    assert "No shared memory" in web.support()
    assert web.is_disabled("#threads")
    expected = "".join(native.generate(PROMPT, 12, mode="sparse", temperature=0))
    assert web.generate(PROMPT, "sparse", max_tokens=12, **GREEDY) == expected


@pytest.mark.parametrize("browser", sorted(set(ENGINES) - {*WITHOUT_SHARED_MEMORY}), indirect=True)
def test_an_engine_that_does_not_start_is_started_with_less(changed: Any) -> None:
    """Python's interrupt buffer cannot be set, and models cannot be stored. Without shared memory
    every start is one with less."""
    web = changed(
        worker="Uint8Array = class extends Uint8Array { constructor(...given) { super(...given);"
        "if (self.SharedArrayBuffer && this.buffer instanceof SharedArrayBuffer)"
        "throw new Error('no atomics') } };",
        store_worker="navigator.storage.getDirectory = () => Promise.reject(new Error('denied'));",
    )
    assert web.problem() == (
        "The engine runs with one thread and strict arithmetic, since it did not start otherwise: "
        "no atomics."
    )
    web.wait_for("ready")
    web.until(
        "document.getElementById('capabilities').textContent.includes('Models are not stored')"
    )


LACKS = "This browser lacks {}, which the page requires: update it, or use another one."
FAILED = "The page could not start: {}."
AGAIN = " Reload it, or try another browser."


@pytest.mark.parametrize(
    ("page", "scripts", "said"),
    [
        ("WebAssembly.validate = () => false", {}, LACKS.format("WebAssembly SIMD")),
        (
            "delete self.WebAssembly; delete self.Worker",
            {},
            LACKS.format("Workers, WebAssembly, WebAssembly SIMD"),
        ),
        ("", {"lifecycle": None}, FAILED.format("one of its scripts did not load") + AGAIN),
        (
            "",
            {"format": "let x = ;"},
            FAILED.format("(Uncaught )?SyntaxError: .+") + AGAIN,
        ),
        ("", {"worker": None}, FAILED.format("the worker's script did not load")),
        ("", {"worker": "throw new Error('out of order');"}, "(Uncaught )?Error: out of order."),
        (
            "self.Worker = class extends Worker { constructor(url) { super(url) } }",
            {},
            FAILED.format("this browser lacks module workers"),
        ),
    ],
)
def test_a_page_that_cannot_start_says_why(
    changed: Any, page: str, scripts: dict[str, str | None], said: str
) -> None:
    web = changed(page, **scripts)
    web.wait_for("failed")
    told = web.problem()
    assert re.search(rf"{said}$", told), told  # engines have words of their own
    assert "\n" not in told
    assert web.is_disabled("#go")
