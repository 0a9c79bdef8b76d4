"""The browser page with its own model, in each engine, without any network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile
from web_harness import (
    GREEDY,
    WITHOUT_FORCED_COLOURS,
    WITHOUT_SHARED_MEMORY,
    Browser,
    Web,
    axe_source,
    serve,
)

pytest_plugins = ("web_fixtures",)
PROMPT = "The people of"
MODES = ("sparse", "exact", "dense")
# What moves once the page generates by itself, and what Chromium says of that.
SHIFTS = """
    window.shifts = [];
    if (PerformanceObserver.supportedEntryTypes?.includes("layout-shift")) {
        new PerformanceObserver((list) => {
            for (const { value, hadRecentInput, sources } of list.getEntries()) {
                const moved = sources.map(({ node }) => node?.id || node?.className);
                if (!hadRecentInput) window.shifts.push([value, moved]);
            }
        }).observe({ type: "layout-shift", buffered: true });
    }
    window.moves = [];
    const places = {};
    (function look() {
        if (document.documentElement.dataset.state === "busy") {
            for (const id of ["output", "prompt", "go", "map-box", "share", "side", "models"]) {
                const top = document.getElementById(id).getBoundingClientRect().top + scrollY;
                places[id] ??= top;
                if (Math.abs(top - places[id]) > 1) window.moves.push([id, places[id], top]);
            }
        }
        requestAnimationFrame(look);
    })();
"""
# How many of the map's pixels have no colour of its ground, of idle dots or of its numbers.
LIT = """() => {
    const canvas = document.getElementById("map");
    const { width, height } = canvas;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    let lit = 0; // orange and blue-green differ in red and blue, the others are nearly grey
    for (let i = 0; i < data.length; i += 4) lit += Math.abs(data[i] - data[i + 2]) > 60;
    return lit;
}"""


@pytest.fixture(scope="module")
def page(browser: Browser, site: dict[str, SiteFile]) -> Iterator[Web]:
    """A page that has started by itself, untouched until its first test, and shared by tests that
    leave it usable."""
    with serve(site, SHIFTS) as server, browser.tab() as driver:
        web = Web(driver, server.origin)
        yield web.open()
        errors = web.errors
    assert errors == []


@pytest.fixture(autouse=True)
def seen(page: Web) -> dict[str, Any]:
    """What the page showed before anybody touched it."""
    if not hasattr(page, "seen"):
        ids = ("speed-mean", "share", "bytes", "headline", "announce", "model-facts", "prompt")
        text = {name: page.text(f"#{name}") for name in ids}
        page.seen = {  # type: ignore[attr-defined]
            **text,
            "prompt": page.value("#prompt"),
            "columns": page.texts("#output .column"),
            "text": page.made(),
            "row": page.text("#side tr[data-mode=sparse]"),
            "unlit": page.is_visible("#map-empty"),
            "lit": page.evaluate(LIT),
            "claims": page.is_visible("#why-sparse"),
            "shifts": page.evaluate("window.shifts"),
            "moves": page.evaluate("window.moves"),
            "ends": [end for _, end in page.boxes("go", "map-box", "bytes").values()],
        }
    found: dict[str, Any] = page.seen  # type: ignore[attr-defined]
    return found


def test_a_stranger_sees_it_work_without_touching_anything(
    seen: dict[str, Any], native: Model
) -> None:
    """With the text of the native core, and its share of neurons."""
    assert seen["prompt"] == PROMPT
    sampling = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    made = native.generate(PROMPT, 120, seed=7, repeat_penalty=1.1, mode="sparse", **sampling)
    assert seen["text"] == "".join(made)
    for figure in ("speed-mean", "share", "bytes"):
        assert seen[figure][0].isdigit()
    share = 100 * native.stats.active_share.mean
    assert seen["share"] == (f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %")
    assert not seen["unlit"]
    assert not seen["claims"]  # of exact mode nothing is known yet
    assert seen["lit"] > 500
    factor = seen["row"].partition("(")[2].partition("×")[0]
    told = f"{seen['share']} of neurons computed, {factor}× as fast as dense, in this tab"
    assert seen["headline"] == told
    assert seen["share"] in seen["row"]  # everywhere the mean over the text
    assert seen["announce"].startswith("Token limit reached: 120 tokens at ")
    assert seen["model-facts"].startswith("Small, trained on public-domain speeches")
    rates = []
    for column, mode in zip(seen["columns"], ("Dense", "Sparse"), strict=True):
        found = re.match(rf"{mode}\s+([\d.]+) tokens/s\s+{PROMPT} \w", column)
        assert found, column
        rates.append(float(found[1]))
    # The factor is that of the two speeds; all three are rounded, the speeds to integers.
    rounding = 0.02 + sum(0.5 / rate for rate in rates)
    expected = rates[1] / rates[0]
    assert float(factor) == pytest.approx(expected, abs=rounding * expected + 0.05)
    # In the window, of which the browser's own bars may take some.
    assert max(seen["ends"]) <= 700
    assert sum(value for value, _ in seen["shifts"]) < 0.05, seen["shifts"]  # nothing jumps
    assert seen["moves"] == []


@pytest.mark.parametrize("width", [360, 320])
def test_on_a_phone_text_and_map_stay_in_view(page: Web, width: int) -> None:
    page.driver.resize(width, 640)
    page.evaluate("document.getElementById('go').scrollIntoView()")
    # In a frame WebKit finds which media queries hold now.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.begin(PROMPT, "sparse", max_tokens=300, seed=1)
    boxes = page.boxes("output", "map-box")
    page.press("Escape")
    page.wait_for("ready")
    page.evaluate("scrollTo(0, 0)")
    boxes_at_top = page.boxes("output", "map-box")
    page.driver.resize(1280, 800)
    for each in (boxes, boxes_at_top):
        assert each["output"][0] >= 0
        assert each["output"][1] <= each["map-box"][0]
        assert each["map-box"][1] <= 640


def test_each_mode_makes_the_native_text(page: Web, native: Model) -> None:
    for mode in MODES:
        expected = "".join(native.generate(PROMPT, 40, mode=mode, temperature=0))
        assert page.generate(PROMPT, mode, max_tokens=40, **GREEDY) == expected
    rows = page.text("#side").splitlines()
    assert all("–" not in row for row in rows), rows


def test_stop_ends_a_text_and_the_page_goes_on(page: Web, native: Model) -> None:
    page.begin(PROMPT, "dense", max_tokens=400, temperature=1, seed=1)
    page.until("document.querySelector('.generated')?.textContent.length > 20")
    page.click("#stop")
    page.wait_for("ready")
    assert page.text("#announce").startswith("Stopped: ")
    assert len(page.engine("tokens")["ids"]) < 400
    expected = "".join(native.generate(PROMPT, 12, mode="sparse", temperature=0))
    assert page.generate(PROMPT, "sparse", max_tokens=12, **GREEDY) == expected


def test_only_generation_can_be_interrupted(page: Web) -> None:
    requests = """async () => {
        const { engine } = (await imported("/page.js")).state;
        for (let i = 0; i < 100; i++) {
            new Uint8Array(engine.interrupt)[0] = 2;
            await engine.request("tokens");
        }
        return crossOriginIsolated;
    }"""
    assert page.evaluate(requests)


def test_compare_runs_every_mode(page: Web, native: Model) -> None:
    """Side by side; the figures at the end are those of sparse mode."""
    page.settings(max_tokens=8, repeat_penalty=1.1)
    page.fill("#prompt", PROMPT)
    page.check('input[name="mode"][value="sparse"]')  # and so it is afterwards
    page.click("#compare")
    page.until(
        "[...document.querySelectorAll('#side tr')].every((row) => row.textContent.includes('ms'))"
        " && document.documentElement.dataset.state === 'ready'"
        " && document.querySelector('input[name=mode]:checked').value === 'sparse'"
    )
    assert "×" in page.text("#side tr[data-mode=sparse]")
    assert page.text("#share") != "100 %"
    for mode in MODES:
        column = f".column[data-mode={mode}]"
        made = native.generate(PROMPT, 8, mode=mode, temperature=0, repeat_penalty=1.1)
        assert page.content(f"{column} .generated") == "".join(made)
        assert page.text(f"{column} .rate").endswith(" tokens/s")
    # Said of what was measured alone: the bars are as long as the modes are fast.
    bars = page.evaluate(
        "() => ['sparse', 'exact'].map((mode) =>"
        " parseFloat(document.querySelector(`#side tr[data-mode=${mode}] i`).style.width))"
    )
    assert page.is_visible("#why-sparse") == (bars[0] > bars[1])


def test_no_mode_is_faster_than_another_before_both_are_measured(page: Web) -> None:
    script = """async () => {
        const { Speeds } = await imported("/speeds.js");
        const speeds = new Speeds(document.getElementById("side").cloneNode(true));
        const found = [];
        const look = () => found.push(speeds.isFaster("sparse", "exact"));
        const add = (mode, speed) => {
            const rest = { ffn_bytes: 1, other_bytes: 1, first_token_ms: 1, done: true };
            speeds.add(mode, { tokens: 11, speed, evaluated: 10, ...rest }, 0.1);
            look();
        };
        look();
        add("sparse", 50);
        add("exact", 40);
        add("exact", 90); // as fast as 55 tokens a second together
        speeds.reset({});
        look();
        return found;
    }"""
    assert page.evaluate(script) == [False, False, True, False, False]


def test_memory_is_stable_while_a_long_text_is_made(page: Web) -> None:
    """Bytes after 50 and after 200 tokens of one text."""
    page.generate(PROMPT, "sparse", max_tokens=60, **GREEDY)  # what is made once is made now
    script = """async () => {
        const { state } = await imported("/page.js");
        await new Promise((done) => state.engine.addEventListener("text", ({ detail }) => {
            if (detail.tokens >= 50) done();
        }));
        return state.engine.request("memory");
    }"""
    page.evaluate(f"() => {{ window.at50 = ({script})(); }}")
    page.begin(PROMPT, "sparse", max_tokens=200, **GREEDY)
    at_50, heap_50 = page.evaluate("window.at50"), page.driver.heap()
    page.wait_for("ready")
    at_200, heap_200 = page.engine("memory"), page.driver.heap()
    assert len(page.engine("tokens")["ids"]) == 200
    assert at_50["core"] == at_200["core"] > 1 << 20
    assert at_50["python"] == at_200["python"] > 1 << 20
    if heap_50 is None or heap_200 is None:
        assert page.driver.engine != "chromium"  # which tells
    else:
        assert heap_200 < heap_50 + (1 << 20)


def test_the_map_shows_what_fires_and_can_be_switched_off(page: Web) -> None:
    def picture() -> str:
        """The map, once it rests: it draws in a frame after a timer of 100 ms, as this looks."""
        return str(
            page.evaluate(
                """async () => {
                    const look = () => document.getElementById("map").toDataURL();
                    for (let before = ""; ; ) {
                        const now = look();
                        if (now === before) return now;
                        before = now;
                        for (const end = Date.now() + 240; Date.now() < end; ) {
                            await new Promise((done) => setTimeout(done, 120));
                            await new Promise(requestAnimationFrame);
                        }
                    }
                }"""
            )
        )

    page.generate(PROMPT, "sparse", max_tokens=8, **GREEDY)
    lit = picture()
    page.check("#watch", on=False)
    page.generate(PROMPT, "dense", max_tokens=30, **GREEDY)
    assert picture() == lit
    page.check("#watch")
    page.generate(PROMPT, "dense", max_tokens=30, **GREEDY)
    assert picture() != lit
    assert "4 layers of 1792 neurons" in page.evaluate("document.getElementById('map').ariaLabel")


def test_a_keyboard_is_enough(page: Web) -> None:
    page.focus("#theme")
    page.press("Shift+Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.press("Enter")
    page.press("Tab")
    for _ in range(3):
        if page.evaluate("document.activeElement.id") == "prompt":
            break
        page.press("Tab")
    page.settings(max_tokens=300)
    page.focus("#prompt")
    focused = "document.activeElement.id"
    page.press("Control+Enter")
    page.wait_for("busy")
    page.press("Escape")
    page.wait_for("ready")
    assert page.text("#announce").startswith("Stopped: ")
    assert page.evaluate(focused) == "prompt"
    page.focus("#go")
    page.press("Enter")
    page.until(f"{focused} === 'stop'")
    page.press("Enter")
    page.wait_for("ready")
    assert page.evaluate(focused) == "go"


def test_what_cannot_be_generated_is_explained(page: Web) -> None:
    page.begin("people " * 600, "sparse", max_tokens=10, **GREEDY)
    assert "the context holds 512; shorten the prompt" in page.problem()
    page.click("#problem-close")
    assert page.generate(PROMPT, "sparse", max_tokens=4, **GREEDY)
    page.fill("#top_p", "7")
    page.evaluate("document.getElementById('sampling').open = false")
    page.click("#go")  # the browser itself says what is wrong with the field
    assert page.evaluate("document.getElementById('sampling').open")
    page.until("document.activeElement.id === 'top_p'")
    page.fill("#top_p", "0.95")


@pytest.mark.parametrize("width", [320, 360, 640, 768, 1280, 2000])
def test_it_fits_every_window(page: Web, width: int) -> None:
    """640: half of 1280, as at a zoom of 200 %. Nothing is cut off or needs scrolling sideways."""
    page.driver.resize(width, 400 if width == 640 else 800)
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    room, wide, cut = page.evaluate(
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
    page.driver.resize(1280, 800)
    assert wide <= room
    assert cut == []


def test_columns_begin_with_whole_lines_in_every_window(page: Web) -> None:
    """Where the lines break elsewhere, at the end or where the user has scrolled to. On a phone
    three columns stand in two rows, which are both in the box."""
    page.evaluate(
        """async (words) => {
            const { openColumns, Text } = await imported("/output.js");
            const columns = openColumns(["dense", "sparse", "exact"]);
            for (const { box, rate } of Object.values(columns)) new Text(box, words, rate).end();
            const scrolled = columns.sparse.box;
            scrolled.scrollTop = 8 * Number.parseFloat(getComputedStyle(scrolled).lineHeight);
        }""",
        "and so on " * 80,
    )
    script = """async () => {
        for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
        const box = document.getElementById("output").getBoundingClientRect();
        return [...document.querySelectorAll(".column .text")].map((each) => {
            const line = Number.parseFloat(getComputedStyle(each).lineHeight);
            const { scrollTop, scrollHeight, clientHeight } = each;
            return [(scrollTop / line) % 1, scrollHeight - scrollTop - clientHeight < 1,
                each.getBoundingClientRect().bottom <= box.bottom, scrollTop > 2 * line];
        });
    }"""
    for width in (1280, 480, 768, 1280):
        page.driver.resize(width, 800)
        for column, (part, ended, inside, scrolled) in enumerate(page.evaluate(script)):
            assert min(part, 1 - part) < 0.06, (width, column)  # lines of 16 pixels and more
            assert ended == (column != 1), (width, column)
            assert inside, (width, column)
            assert scrolled, (width, column)
    page.evaluate(
        """async (words) => {
            const { openText, Text } = await imported("/output.js");
            new Text(openText(), words).end();
        }""",
        "and so on " * 80,
    )
    ended = """async () => {
        for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
        const { scrollTop, scrollHeight, clientHeight } = document.getElementById("output");
        return scrollTop > 40 && scrollHeight - scrollTop - clientHeight < 1;
    }"""
    for width in (480, 1280):
        page.driver.resize(width, 800)
        assert page.evaluate(ended), width


def test_colours_of_the_user_and_reduced_motion(page: Web) -> None:
    """WebKit has no forced colours, and keeps the page's."""
    page.driver.prefer(forced_colours=True, reduced_motion=True)
    matches = "(query) => matchMedia(query).matches"
    assert page.evaluate(matches, "(prefers-reduced-motion: reduce)")
    forced = page.evaluate(matches, "(forced-colors: active)")
    assert forced == (page.driver.engine not in WITHOUT_FORCED_COLOURS)
    page.generate(PROMPT, "sparse", max_tokens=8, **GREEDY)
    assert not page.is_visible("#map-empty")
    style = """(selector) => {
        const style = getComputedStyle(document.querySelector(selector));
        return [style.backgroundColor, style.transitionDuration];
    }"""
    ground, still = page.evaluate(style, "#go")
    assert still == "0s"
    shown = {page.evaluate(style, f".legend .{each}")[0] for each in ("cold", "hot", "idle")}
    assert len(shown - {ground}) == 3  # the legend keeps the colours of the map
    assert page.evaluate(style, "#side [data-mode=sparse] i")[0] in shown
    page.driver.prefer()


def test_text_from_right_to_left(page: Web) -> None:
    page.generate("שלום", "sparse", max_tokens=4, **GREEDY)
    direction = "(id) => getComputedStyle(document.querySelector(id)).direction"
    assert page.evaluate(direction, "#output .text") == "rtl"
    assert page.evaluate(direction, "#prompt") == "rtl"
    page.generate(PROMPT, "sparse", max_tokens=4, **GREEDY)
    assert page.evaluate(direction, "#output .text") == "ltr"


@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_serious(page: Web, width: int) -> None:
    page.driver.resize(width, 800)
    page.evaluate("(source) => { new Function(source).call(window); }", axe_source())
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    for theme in ("light", "dark"):
        page.evaluate("(theme) => document.documentElement.dataset.theme = theme", theme)
        page.evaluate("imported('/page.js').then(({problem}) => problem('a test', {label: 'x'}))")
        page.wait(200)  # colours change within 0.12 s
        found = page.evaluate("axe.run(document).then(({violations}) => violations)")
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
    page.evaluate("delete document.documentElement.dataset.theme")
    page.click("#problem-close")
    page.driver.resize(1280, 800)


def test_a_user_takes_over_from_the_automatic_text(page: Web, native: Model) -> None:
    page.fill("#prompt", PROMPT)
    page.evaluate("imported('/writing.js').then(({demonstrate}) => void demonstrate())")
    page.wait_for("busy")
    expected = "".join(native.generate("We", 12, mode="sparse", temperature=0))
    assert page.generate("We", "sparse", max_tokens=12, **GREEDY) == expected
    assert page.text("#output").startswith("We")


def test_threads_and_relaxed_arithmetic_are_chosen(
    page: Web, request: pytest.FixtureRequest, native: Model
) -> None:
    if page.driver.engine in WITHOUT_SHARED_MEMORY:
        assert page.is_disabled("#threads")
        assert "More than one requires shared memory." in page.support()
        assert page.is_disabled("#arithmetic")
        assert "This browser does not support relaxed SIMD" in page.support()
        return
    web: Web = request.getfixturevalue("visit")().open()
    web.evaluate("document.getElementById('engine').open = true")
    web.select("#threads", "2")
    web.click("#apply")
    web.wait_for("starting")
    web.wait_for("ready")
    assert "2 threads" in web.support()
    expected = "".join(native.generate(PROMPT, 20, mode="dense", temperature=0))
    assert web.generate(PROMPT, "dense", max_tokens=20, **GREEDY) == expected
    web.select("#threads", "1")
    web.select("#arithmetic", "relaxed")
    web.click("#apply")
    web.wait_for("starting")
    web.wait_for("ready")
    assert "WebAssembly relaxed SIMD" in web.support()
    assert web.generate(PROMPT, "dense", max_tokens=5, **GREEDY)
