"""The main path of the browser page in Firefox and WebKitGTK, beside Chromium's in `test_web`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import web_drivers
from conftest import missing
from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile
from web_drivers import Driver
from web_harness import Refuser, running, serve

pytest_plugins = ("web_fixtures",)
PROMPT = "The people of"
TOKENS = 20
# What Firefox itself requests, whatever its preferences say.
_OF_FIREFOX = ("mozilla.", "firefox.")

UNTIL = """
    const until = async (holds) => {
        for (const end = Date.now() + 120_000; !(await holds()); ) {
            if (Date.now() > end) throw new Error(`not within 120 s: ${holds}`);
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
    };
    const byId = (id) => document.getElementById(id);
    const isIn = (...states) => states.includes(document.documentElement.dataset.state);
"""
STARTED = f"""{UNTIL}
    await until(() => isIn("ready", "failed"));
    return [document.documentElement.dataset.state, byId("problem-text").textContent];
"""
CAPABILITIES = "return [crossOriginIsolated, document.getElementById('capabilities').textContent]"
GENERATE = f"""{UNTIL}
    const [prompt, mode, tokens] = given;
    const fields = {{ prompt, temperature: 0, repeat_penalty: 1, max_tokens: tokens }};
    for (const [id, value] of Object.entries(fields)) byId(id).value = String(value);
    document.querySelector(`input[name="mode"][value="${{mode}}"]`).checked = true;
    byId("go").click();
    await until(() => isIn("ready", "failed"));
    const shown = document.querySelector("#output .generated").textContent;
    return [shown, byId("problem-text").textContent, byId("announce").textContent.split(":")[0]];
"""
STOP = f"""{UNTIL}
    byId("max_tokens").value = "400";
    byId("go").click();
    await until(() => document.querySelector("#output .generated")?.textContent.length > 10);
    byId("stop").click();
    await until(() => isIn("ready"));
    return byId("announce").textContent;
"""
CACHED = f"""{UNTIL}
    await until(() => byId("capabilities").textContent.includes("Works offline"));
"""


@pytest.fixture(scope="module", params=["firefox", "webkitgtk"])
def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    """A browser in which requests for other hosts fail the tests."""
    directory: Path = tmp_path_factory.mktemp(request.param)
    launch: Any = getattr(web_drivers, request.param)
    with running(Refuser()) as refuser:
        try:
            with launch(directory, refuser.server_port) as opened:
                yield opened
        except FileNotFoundError as error:
            missing(str(error))
    requests = [each for each in refuser.refused if not any(own in each for own in _OF_FIREFOX)]
    assert requests == []


def test_both_visits_to_a_static_host_make_the_native_text(
    driver: Driver, site: dict[str, SiteFile], native: Model
) -> None:
    """The first visit is not cross-origin isolated. The second is, by the service worker; in
    WebKitGTK it has no shared memory all the same."""
    expected = {
        mode: "".join(native.generate(PROMPT, TOKENS, mode=mode, temperature=0))
        for mode in ("sparse", "dense")
    }
    with serve(site, isolated=False) as server:
        for visit in range(2):
            driver.open(server.origin)
            assert driver.run(STARTED) == ["ready", ""]
            for mode, text in expected.items():
                assert driver.run(GENERATE, PROMPT, mode, TOKENS) == [
                    text,
                    "",
                    "Token limit reached",
                ]
            assert driver.run(STOP).startswith("Stopped: ")
            driver.run(CACHED)
            isolated, told = driver.run(CAPABILITIES)
            assert isolated == (visit == 1)
            assert ("Not cross-origin isolated" in told) != isolated
