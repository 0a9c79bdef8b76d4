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
from web_harness import Refuser, axe_source, running, serve

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
NARROW = f"""{UNTIL}
    await until(() => innerWidth < 640 && byId("map").clientWidth < innerWidth); // laid out again
    for (const each of document.querySelectorAll("details")) each.open = true;
    byId("prompt").value = "שלום";
    byId("max_tokens").value = "4";
    byId("go").click();
    await until(() => isIn("ready"));
    // What does not scroll by itself. WebKit's scrollWidth counts its scroll bar.
    const parts = [...document.querySelectorAll("body *:not(.scroll *, .map *)")];
    const edges = parts.map((each) => each.getBoundingClientRect().right);
    const directions = ["#prompt", "#output .text"].map(
        (each) => getComputedStyle(document.querySelector(each)).direction);
    return [innerWidth, Math.max(...edges), directions];
"""
# Only rules about names and roles: Chromium's test runs all.
AXE = """
    const [source] = given;
    if (!window.axe) new Function(source).call(window);
    const rules = ["cat.name-role-value", "cat.forms", "cat.aria"];
    const { violations } = await axe.run(document, { runOnly: { type: "tag", values: rules } });
    return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
"""
TAB, ENTER = "\ue004", "\ue006"
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


@pytest.fixture(scope="module")
def visited(driver: Driver, site: dict[str, SiteFile]) -> Iterator[tuple[Driver, str]]:
    """The browser with the page, at its first visit to a static host, and the host's address."""
    with serve(site, isolated=False) as server:
        driver.open(server.origin)
        assert driver.run(STARTED) == ["ready", ""]
        yield driver, server.origin


@pytest.mark.parametrize("visit", [1, 2])
def test_visits_to_a_static_host_make_the_native_text(
    visited: tuple[Driver, str], native: Model, visit: int
) -> None:
    """The first visit is not cross-origin isolated. The second is, by the service worker; in
    WebKitGTK it has no shared memory all the same."""
    driver, origin = visited
    if visit == 2:
        driver.run(CACHED)
        driver.open(origin)
        assert driver.run(STARTED) == ["ready", ""]
        isolated, told = driver.run(CAPABILITIES)
        assert isolated
        assert "Not cross-origin isolated" not in told
    for mode in ("sparse", "dense"):
        text = "".join(native.generate(PROMPT, TOKENS, mode=mode, temperature=0))
        assert driver.run(GENERATE, PROMPT, mode, TOKENS) == [text, "", "Token limit reached"]
    assert driver.run(STOP).startswith("Stopped: ")


def test_a_keyboard_is_enough(visited: tuple[Driver, str]) -> None:
    """The focus returns to Generate, and the reason why the text ended can be seen."""
    driver, _ = visited
    driver.run("document.getElementById('max_tokens').value = '400'")
    driver.run("document.getElementById('prompt').focus()")
    for _ in range(6):
        driver.press(TAB)
        if driver.run("return document.activeElement.id") == "go":
            break
    driver.press(ENTER)
    driver.run(f"{UNTIL} await until(() => document.activeElement.id === 'stop')")
    driver.press(ENTER)
    driver.run(f"{UNTIL} await until(() => isIn('ready'))")
    assert driver.run("return document.activeElement.id") == "go"
    reason = "const e = document.getElementById('announce'); return [e.textContent, e.offsetHeight]"
    told, height = driver.run(reason)
    assert told.startswith("Stopped: ")
    assert height > 10


def test_a_small_window_and_names_for_screen_readers(visited: tuple[Driver, str]) -> None:
    """320 CSS pixels, or what the browser's smallest window has; with the user's colours and
    reduced motion, where the driver can ask for them."""
    driver, _ = visited
    driver.resize(320, 640)
    width, wide, directions = driver.run(NARROW)
    assert width < 520
    assert wide <= width
    assert directions == ["rtl", "rtl"]
    assert driver.run(AXE, axe_source()) == []
    driver.resize(1280, 900)
