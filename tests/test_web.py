"""The browser page with its own model, in Chromium, without any network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from sparsefire.lm.model import Model
from web_harness import Refuser, Web, axe_source

pytest_plugins = ("web_fixtures",)
PROMPT = "The people of"
MODES = ("sparse", "exact", "dense")
GREEDY = {"temperature": 0, "repeat_penalty": 1}
SHIFTS = """
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const { value, hadRecentInput, sources } of list.getEntries()) {
            const moved = sources.map(({ node }) => node?.id || node?.className || node?.nodeName);
            if (!hadRecentInput) window.shifts.push([value, moved]);
        }
    }).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="module")
def page(browser: tuple[Any, Refuser], origin: str) -> Iterator[Web]:
    """A page that has started by itself, untouched until its first test, and shared by tests that
    leave it usable."""
    context = browser[0].new_context(viewport={"width": 1280, "height": 800})
    web = Web(context.new_page(), origin, alive=True)
    web.page.add_init_script(SHIFTS)
    yield web.open()
    context.close()
    assert browser[1].refused == []
    assert web.errors == []


@pytest.fixture(autouse=True)
def seen(page: Web) -> dict[str, Any]:
    """What the page showed before anybody touched it."""
    if not hasattr(page, "seen"):
        ids = ("speed-mean", "share", "bytes", "headline", "announce", "model-facts", "prompt")
        text = {name: page.page.inner_text(f"#{name}") for name in ids}
        page.seen = {  # type: ignore[attr-defined]
            **text,
            "prompt": page.page.input_value("#prompt"),
            "columns": page.page.locator("#output .column").all_inner_texts(),
            "text": page.made(),
            "row": page.page.inner_text("#side tr[data-mode=sparse]"),
            "unlit": page.page.is_visible("#map-empty"),
            "shifts": page.page.evaluate("window.shifts"),
            "ends": [end for _, end in page.boxes("go", "map-box", "bytes").values()],
        }
    found: dict[str, Any] = page.seen  # type: ignore[attr-defined]
    return found


def test_a_stranger_sees_it_work_without_touching_anything(seen: dict[str, Any]) -> None:
    assert seen["prompt"] == PROMPT
    assert len(seen["text"]) > 100
    for figure in ("speed-mean", "share", "bytes"):
        assert seen[figure][0].isdigit()
    assert not seen["unlit"]
    factor = seen["row"].partition("(")[2].partition("×")[0]
    told = f"{seen['share']} of neurons computed, {factor}× as fast as dense, in this tab"
    assert seen["headline"] == told
    assert seen["share"] in seen["row"]  # everywhere the mean over the text
    assert seen["announce"].startswith("Token limit reached: 120 tokens at ")
    assert seen["model-facts"].startswith("Small, trained on public-domain speeches")
    for column, mode in zip(seen["columns"], ("Dense", "Sparse"), strict=True):
        assert re.match(rf"{mode}\s+[\d.]+ tokens/s\s+{PROMPT} \w", column), column
    # In the window, of which the browser's own bars may take some.
    assert max(seen["ends"]) <= 700
    assert sum(value for value, _ in seen["shifts"]) < 0.05, seen["shifts"]  # nothing jumps


@pytest.mark.parametrize("width", [360, 320])
def test_on_a_phone_text_and_map_stay_in_view(page: Web, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 640})
    page.page.evaluate("document.getElementById('go').scrollIntoView()")
    page.begin(PROMPT, "sparse", max_tokens=300, seed=1)
    boxes = page.boxes("output", "map-box")
    page.page.keyboard.press("Escape")
    page.wait_for("ready")
    page.page.evaluate("scrollTo(0, 0)")
    boxes_at_top = page.boxes("output", "map-box")
    page.page.set_viewport_size({"width": 1280, "height": 800})
    for each in (boxes, boxes_at_top):
        assert each["output"][0] >= 0
        assert each["output"][1] <= each["map-box"][0]
        assert each["map-box"][1] <= 640


def test_each_mode_makes_the_native_text(page: Web, native: Model) -> None:
    for mode in MODES:
        expected = "".join(native.generate(PROMPT, 40, mode=mode, temperature=0))
        assert page.generate(PROMPT, mode, max_tokens=40, **GREEDY) == expected
    rows = page.page.inner_text("#side").splitlines()
    assert all("–" not in row for row in rows), rows


def test_stop_ends_a_text_and_the_page_goes_on(page: Web, native: Model) -> None:
    page.begin(PROMPT, "dense", max_tokens=400, temperature=1, seed=1)
    page.page.wait_for_function("document.querySelector('.generated')?.textContent.length > 20")
    page.page.click("#stop")
    page.wait_for("ready")
    assert page.page.inner_text("#announce").startswith("Stopped: ")
    assert len(page.engine("tokens")["ids"]) < 400
    expected = "".join(native.generate(PROMPT, 12, mode="sparse", temperature=0))
    assert page.generate(PROMPT, "sparse", max_tokens=12, **GREEDY) == expected


def test_only_generation_can_be_interrupted(page: Web) -> None:
    requests = """async () => {
        const { engine } = (await import("/page.js")).state;
        for (let i = 0; i < 100; i++) {
            new Uint8Array(engine.interrupt)[0] = 2;
            await engine.request("tokens");
        }
        return crossOriginIsolated;
    }"""
    assert page.page.evaluate(requests)


def test_compare_runs_every_mode(page: Web, native: Model) -> None:
    """Side by side; the figures at the end are those of sparse mode."""
    page.settings(max_tokens=8, repeat_penalty=1.1)
    page.page.fill("#prompt", PROMPT)
    page.page.check('input[name="mode"][value="sparse"]')  # and so it is afterwards
    page.page.click("#compare")
    page.page.wait_for_function(
        "[...document.querySelectorAll('#side tr')].every((row) => row.textContent.includes('ms'))"
        " && document.documentElement.dataset.state === 'ready'"
        " && document.querySelector('input[name=mode]:checked').value === 'sparse'"
    )
    assert "×" in page.page.inner_text("#side tr[data-mode=sparse]")
    assert page.page.inner_text("#share") != "100 %"
    for mode in MODES:
        column = page.page.locator(f".column[data-mode={mode}]")
        made = native.generate(PROMPT, 8, mode=mode, temperature=0, repeat_penalty=1.1)
        assert column.locator(".generated").text_content() == "".join(made)
        assert column.locator(".rate").inner_text().endswith(" tokens/s")
    assert page.page.is_visible("#why-sparse")


def test_memory_is_stable_while_a_long_text_is_made(page: Web) -> None:
    """Bytes after 50 and after 200 tokens of one text."""
    client = page.page.context.new_cdp_session(page.page)

    def heap() -> int:
        client.send("HeapProfiler.collectGarbage")
        return int(client.send("Runtime.getHeapUsage")["usedSize"])

    page.generate(PROMPT, "sparse", max_tokens=60, **GREEDY)  # what is made once is made now
    script = """async () => {
        const { state } = await import("/page.js");
        await new Promise((done) => state.engine.addEventListener("text", ({ detail }) => {
            if (detail.tokens >= 50) done();
        }));
        return state.engine.request("memory");
    }"""
    page.page.evaluate(f"window.at50 = ({script})(); undefined")
    page.begin(PROMPT, "sparse", max_tokens=200, **GREEDY)
    at_50, heap_50 = page.page.evaluate("window.at50"), heap()
    page.wait_for("ready")
    at_200, heap_200 = page.engine("memory"), heap()
    assert len(page.engine("tokens")["ids"]) == 200
    assert at_50["core"] == at_200["core"] > 1 << 20
    assert at_50["python"] == at_200["python"] > 1 << 20
    assert heap_200 < heap_50 + (1 << 20)


def test_the_map_shows_what_fires_and_can_be_switched_off(page: Web) -> None:
    def picture() -> str:
        """The map, once it rests."""
        return str(
            page.page.evaluate(
                """async () => {
                    const look = () => document.getElementById("map").toDataURL();
                    for (let before = ""; ; ) {
                        const now = look();
                        if (now === before) return now;
                        before = now;
                        await new Promise((done) => setTimeout(done, 300));
                    }
                }"""
            )
        )

    page.generate(PROMPT, "sparse", max_tokens=8, **GREEDY)
    lit = picture()
    page.page.uncheck("#watch")
    page.generate(PROMPT, "dense", max_tokens=30, **GREEDY)
    assert picture() == lit
    page.page.check("#watch")
    page.generate(PROMPT, "dense", max_tokens=30, **GREEDY)
    assert picture() != lit
    assert "4 layers of 1792 neurons" in page.page.get_attribute("#map", "aria-label")


def test_a_keyboard_is_enough(page: Web) -> None:
    page.page.focus("#theme")
    page.page.keyboard.press("Shift+Tab")
    assert page.page.evaluate("document.activeElement.className") == "skip"
    page.page.keyboard.press("Enter")
    page.page.keyboard.press("Tab")
    for _ in range(3):
        if page.page.evaluate("document.activeElement.id") == "prompt":
            break
        page.page.keyboard.press("Tab")
    page.settings(max_tokens=300)
    page.page.focus("#prompt")
    focused = "document.activeElement.id"
    page.page.keyboard.press("Control+Enter")
    page.wait_for("busy")
    page.page.keyboard.press("Escape")
    page.wait_for("ready")
    assert page.page.inner_text("#announce").startswith("Stopped: ")
    assert page.page.evaluate(focused) == "prompt"
    page.page.focus("#go")
    page.page.keyboard.press("Enter")
    page.page.wait_for_function(f"{focused} === 'stop'")
    page.page.keyboard.press("Enter")
    page.wait_for("ready")
    assert page.page.evaluate(focused) == "go"


def test_what_cannot_be_generated_is_explained(page: Web) -> None:
    page.begin("people " * 600, "sparse", max_tokens=10, **GREEDY)
    assert "the context holds 512; shorten the prompt" in page.problem()
    page.page.click("#problem-close")
    assert page.generate(PROMPT, "sparse", max_tokens=4, **GREEDY)
    page.page.fill("#top_p", "7")
    page.page.evaluate("document.getElementById('sampling').open = false")
    page.page.click("#go")  # the browser itself says what is wrong with the field
    assert page.page.evaluate("document.getElementById('sampling').open")
    assert page.page.evaluate("document.activeElement.id") == "top_p"
    page.page.fill("#top_p", "0.95")


@pytest.mark.parametrize("width", [320, 360, 640, 768, 1280, 2000])
def test_it_fits_every_window(page: Web, width: int) -> None:
    """640: half of 1280, as at a zoom of 200 %. Nothing is cut off or needs scrolling sideways."""
    before = page.page.viewport_size
    page.page.set_viewport_size({"width": width, "height": 400 if width == 640 else 800})
    page.page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    room, wide, cut = page.page.evaluate(
        """() => {
            const texts = "button, label, h1, h2, h3, dt, dd, summary, p, legend";
            const cut = [...document.querySelectorAll(texts)].filter((each) =>
                each.checkVisibility() && !each.classList.contains("unseen") &&
                each.scrollWidth > each.clientWidth + 1 &&
                getComputedStyle(each).display !== "inline");
            const { clientWidth, scrollWidth } = document.documentElement;
            return [clientWidth, scrollWidth, cut.map((each) => each.outerHTML.slice(0, 80))];
        }"""
    )
    page.page.set_viewport_size(before)
    assert wide <= room
    assert cut == []


def test_colours_of_the_user_and_reduced_motion(page: Web) -> None:
    page.page.emulate_media(forced_colors="active", reduced_motion="reduce")
    page.generate(PROMPT, "sparse", max_tokens=8, **GREEDY)
    assert page.page.is_hidden("#map-empty")
    style = """(selector) => {
        const style = getComputedStyle(document.querySelector(selector));
        return [style.backgroundColor, style.transitionDuration];
    }"""
    ground, still = page.page.evaluate(style, "#go")
    assert still == "0s"
    shown = {page.page.evaluate(style, f".legend .{each}")[0] for each in ("cold", "hot", "idle")}
    assert len(shown - {ground}) == 3  # the legend keeps the colours of the map
    assert page.page.evaluate(style, "#side [data-mode=sparse] i")[0] in shown
    page.page.emulate_media(forced_colors="none", reduced_motion="no-preference")


def test_text_from_right_to_left(page: Web) -> None:
    page.generate("שלום", "sparse", max_tokens=4, **GREEDY)
    direction = "(id) => getComputedStyle(document.querySelector(id)).direction"
    assert page.page.evaluate(direction, "#output .text") == "rtl"
    assert page.page.evaluate(direction, "#prompt") == "rtl"
    page.generate(PROMPT, "sparse", max_tokens=4, **GREEDY)
    assert page.page.evaluate(direction, "#output .text") == "ltr"


@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_serious(page: Web, width: int) -> None:
    before = page.page.viewport_size
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.evaluate(axe_source())
    page.page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    for theme in ("light", "dark"):
        page.page.evaluate("(theme) => document.documentElement.dataset.theme = theme", theme)
        page.page.evaluate(
            "import('/page.js').then(({problem}) => problem('a test', {label: 'x'}))"
        )
        page.page.wait_for_timeout(400)  # colours change within 0.12 s
        found = page.page.evaluate("axe.run(document).then(({violations}) => violations)")
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
    page.page.evaluate("delete document.documentElement.dataset.theme")
    page.page.click("#problem-close")
    page.page.set_viewport_size(before)


def test_a_user_takes_over_from_the_automatic_text(page: Web, native: Model) -> None:
    page.page.fill("#prompt", PROMPT)
    page.page.evaluate("import('/writing.js').then(({demonstrate}) => void demonstrate())")
    page.wait_for("busy")
    expected = "".join(native.generate("We", 12, mode="sparse", temperature=0))
    assert page.generate("We", "sparse", max_tokens=12, **GREEDY) == expected
    assert page.page.inner_text("#output").startswith("We")


def test_threads_and_relaxed_arithmetic_are_chosen(visit: Any, native: Model) -> None:
    web = visit().open()
    web.page.evaluate("document.getElementById('engine').open = true")
    web.page.select_option("#threads", "2")
    web.page.click("#apply")
    web.wait_for("starting")
    web.wait_for("ready")
    assert "2 threads" in web.support()
    expected = "".join(native.generate(PROMPT, 20, mode="dense", temperature=0))
    assert web.generate(PROMPT, "dense", max_tokens=20, **GREEDY) == expected
    web.page.select_option("#threads", "1")
    web.page.select_option("#arithmetic", "relaxed")
    web.page.click("#apply")
    web.wait_for("starting")
    web.wait_for("ready")
    assert "WebAssembly relaxed SIMD" in web.support()
    assert web.generate(PROMPT, "dense", max_tokens=5, **GREEDY)
