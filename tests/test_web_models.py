"""The user's own models in the browser page: dropped, downloaded, stored, too large, damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moe_model
import recurrent_models
import tiny_model
from bench.lib.web_drivers import ENGINES
from conftest import open_test_core
from model_host import Host, OpenServer
from sparsefire.lm.model import Model
from sparsefire.page.site import SiteFile
from web_harness import GREEDY, WITHOUT_STORAGE, Browser, Web, greedy_text, running, serve
from web_maps import EXPERTS, NAMES, TILES, WRITTEN, with_tokens

pytest_plugins = ("web_fixtures",)
PROMPT = "abc"
# What the browser itself writes to the console about answers that a test has made bad.
COMPLAINTS = ("Failed to load resource", "CORS policy", "net::ERR")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 6 MB."""
    path = tmp_path_factory.mktemp("models") / "large.gguf"
    return tiny_model.write(path, hidden=4096, context=64, bundled=True, rank=4)


@pytest.fixture
def host(large: Path) -> Iterator[Host]:
    """A host of the larger model."""
    with running(Host(large.read_bytes())) as server:
        yield server


def can_download(web: Web, url: str = "https://models.example/some.gguf") -> bool:
    """Whether the browser can store models; a page that cannot says so when it is to download."""
    if web.stores():
        return True
    web.download(url)
    said = "This browser cannot store downloads: download the file and choose it here."
    assert web.problem() == said
    web.click("#problem-close")
    return False


def test_the_list_is_read_while_files_come_and_go(page: Web) -> None:
    """A file that is renamed or deleted meanwhile does not end the storing of models."""
    if not page.stores():
        return
    script = """async () => {
        const store = (await imported("/store.js")).openStore();
        const failed = [];
        for (let i = 0; i < 10; i++) {
            const name = `passing-${i}.gguf`;
            let busy = true;
            const changes = store
                .request("put", { name, file: new File([new Uint8Array(1 << 16)], name) })
                .then(() => store.request("remove", { name }))
                .finally(() => { busy = false; });
            const lists = [];
            while (busy) {
                lists.push(store.request("list").catch((error) => failed.push(error.message)));
                await new Promise((resolve) => setTimeout(resolve, 1));
            }
            await Promise.all([changes, ...lists]);
        }
        return failed;
    }"""
    assert page.evaluate(script) == []


def test_a_browser_that_refused_is_asked_again(page: Web) -> None:
    """One failure does not end the storing of models; the page says what the browser said."""
    if not page.stores():
        return
    script = """async (says) => {
        const client = (await imported("/store.js")).openStore();
        if (says) client.request = () => Promise.reject(new Error(says));
        else delete client.request;
        await (await imported("/models.js")).refreshModels();
        return document.getElementById("capabilities").textContent;
    }"""
    said = page.evaluate(script, "the disk is busy")
    assert "choose the model again at each visit. It says: the disk is busy." in said
    assert "Models are stored" in page.evaluate(script, "")


# ---- Files -------------------------------------------------------------------------------------


def test_a_dropped_file_is_run_and_kept(page: Web, small: Path) -> None:
    page.drop("small.gguf", small.read_bytes())
    page.wait_for_model("small.gguf")
    text = page.generate(PROMPT, "exact", max_tokens=20, **GREEDY)
    assert text == greedy_text(small, PROMPT, "exact")
    assert "Sparse" in page.text("#side")
    assert page.is_disabled("input[name=mode][value=sparse]")
    assert any(row.startswith("small.gguf") for row in page.kept())


def test_a_model_with_a_chat_template_converses(page: Web, tmp_path: Path) -> None:
    source = "{% for each in messages %}{{ each.content }} {% endfor %}"
    path = tiny_model.write(
        tmp_path / "chat.gguf", context=200, keys={"tokenizer.chat_template": source}
    )
    page.choose(path)
    page.wait_for_model("chat.gguf")
    assert page.is_checked("input[name=kind][value=chat]")
    page.settings(max_tokens=12, **GREEDY)
    messages: list[dict[str, str]] = []
    with Model.load(path, core=open_test_core("native-scalar")) as model:
        for said in ("abc", "dab"):
            page.fill("#prompt", said)
            page.focus("#prompt")
            page.press("Enter")
            page.until(
                "(count) => document.querySelectorAll('.turn').length === count"
                " && document.documentElement.dataset.state === 'ready'",
                len(messages) + 2,
            )
            messages.append({"role": "user", "content": said})
            ids = model.tokenize(model.apply_chat_template(messages), add_bos=False)
            made = "".join(model.generate(ids, 12, mode="exact", temperature=0))
            messages.append({"role": "assistant", "content": made})
            assert page.content(".turn:last-child") == made
    # The conversation is kept with its model, until a new one begins.
    page.press_in_row("sparsefire-sotu", "Load")
    page.wait_for_model("sparsefire-sotu")
    assert page.contents(".turn") == []
    if not page.stores():
        page.wait_for_row("chat.gguf", there=False)
        return
    page.press_in_row("chat.gguf", "Load")
    page.until("document.querySelectorAll('.turn').length === 4")
    shown = page.contents(".turn")
    assert shown == [message["content"] for message in messages]
    page.click("#new-conversation")
    assert page.contents(".turn") == []
    page.check("input[name=kind][value=text]")
    page.check("input[name=kind][value=chat]")
    page.wait(200)
    assert page.contents(".turn") == []
    page.check("input[name=kind][value=text]")
    assert page.generate(PROMPT, "exact", max_tokens=5, **GREEDY)
    page.forget("chat.gguf")


def test_neurons_of_an_expert_stand_together(page: Web, tmp_path: Path) -> None:
    """Each expert's dots in a tile, with room between the tiles."""
    extents, dots, others, group = page.evaluate(EXPERTS)
    assert (dots, others, group) == (192, 100, 1)
    for number, (left, right, top, bottom) in enumerate(extents):
        assert (right - left + 1) * (bottom - top + 1) - 32 < max(right - left, bottom - top) + 1
        for other in extents[number + 1 :]:
            beside = other[0] > right + 1 or left > other[1] + 1
            assert beside or other[2] > bottom + 1 or top > other[3] + 1
    page.choose(moe_model.write(tmp_path / "relu.gguf"))
    page.wait_for_model("relu.gguf")
    assert page.texts("#legend li") == ["fires", "does not fire"]
    assert page.text("#map-empty").startswith("Each dot is a neuron, in the tile of its expert.")
    page.generate(PROMPT, "exact", max_tokens=8, **GREEDY)
    assert not page.is_visible("#map-empty")
    page.forget("relu.gguf")


def test_names_of_layers_are_not_clipped(page: Web) -> None:
    edge, names, above, below = page.evaluate(NAMES)
    assert edge == above == below == 1
    assert names > 2


def test_recurrent_layers_are_named_in_the_map(page: Web, tmp_path: Path) -> None:
    page.choose(with_tokens(recurrent_models.write(tmp_path / "recurrent.gguf", "qwen3next")))
    page.wait_for_model("recurrent.gguf")
    page.evaluate(WRITTEN)
    page.evaluate("document.dispatchEvent(new Event('theme'))")  # draws the map again
    written = page.evaluate("window.written")
    assert {name for name in written if name.endswith("r")} <= {"1r", "2r", "3r", "5r"}
    assert {"1r", "3r", "5r"} <= written.keys()  # the others where there is room
    assert min(written.values()) > 0
    assert "r recurrent layer" in page.texts("#legend li")
    assert "(4 after recurrent ones)" in page.text("#model-facts")
    assert (
        page.evaluate(
            "imported('/format.js').then(({ layerMark }) =>"
            " layerMark({ block: 11, mixer: 'convolution' }))"
        )
        == "12c"
    )
    assert page.generate(PROMPT, "dense", max_tokens=4, **GREEDY)
    page.forget("recurrent.gguf")
    assert page.texts("#legend li")[-1] == "does not fire"


def test_the_map_of_a_dense_model_shows_that_all_neurons_are_computed(
    page: Web, tmp_path: Path
) -> None:
    """Its dots have the colour of neurons that are always computed, and the legend no other."""
    path = tiny_model.write(tmp_path / "dense.gguf", context=64, activation="silu")
    page.choose(path)
    page.wait_for_model("dense.gguf")
    legend = page.texts("#legend li")
    assert legend == ["computed, as all neurons of this model are for every token"]
    assert "sparsefire calibrate" in page.text("#mode-note")
    page.generate(PROMPT, "dense", max_tokens=8, **GREEDY)
    count = """async () => {
        const style = getComputedStyle(document.documentElement);
        const colour = (name) => parseInt(style.getPropertyValue(name).trim().slice(1), 16);
        const canvas = document.getElementById("map");
        const copy = Object.assign(document.createElement("canvas"), {
            width: canvas.width, height: canvas.height,
        });
        const context = copy.getContext("2d", { willReadFrequently: true });
        const found = {};
        for (let before = -1; found.hot !== before || !before; ) {
            before = found.hot;
            await new Promise((resolve) => setTimeout(resolve, 300));
            context.drawImage(canvas, 0, 0);
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
            for (const name of ["hot", "cold", "cold-bright"]) {
                const wanted = colour(`--${name}`);
                found[name] = 0;
                for (let i = 0; i < data.length; i += 4) {
                    found[name] += ((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]) === wanted;
                }
            }
        }
        return found;
    }"""
    found = page.evaluate(count)
    assert found["hot"] > 1000
    assert found["cold"] == found["cold-bright"] == 0
    page.choose(tiny_model.write(tmp_path / "exact.gguf", context=64))
    page.wait_for_model("exact.gguf")
    legend = page.texts("#legend li")
    assert legend == ["fires", "does not fire"]
    page.choose(moe_model.write(tmp_path / "moe.gguf", activation="silu"))
    page.wait_for_model("moe.gguf")
    legend = page.texts("#legend li")
    assert legend == ["expert that the router chose", "other expert: skipped"]
    assert page.text("#map-empty").startswith("Each tile is an expert.")
    assert "2 layers of 192 neurons" in page.text("#model-facts")
    page.generate(PROMPT, "dense", max_tokens=8, **GREEDY)
    assert page.text("#share") == "33 %"
    assert page.evaluate(TILES) == moe_model.EXPERTS * moe_model.LAYERS
    page.forget("dense.gguf")
    for name in ("exact.gguf", "moe.gguf"):
        page.delete(name)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1000], "is cut off or damaged"),
        (lambda data: b"no model at all" * 100, "not a GGUF file"),
        (lambda data: data[:2000] + b"\xff" * 200 + data[2200:], "damaged.gguf"),
    ],
)
def test_a_damaged_file_is_explained(page: Web, small: Path, damage: Any, said: str) -> None:
    page.drop("damaged.gguf", damage(small.read_bytes()))
    assert said in page.problem()
    page.click("#problem-close")
    page.wait_for("ready")
    assert page.generate(PROMPT, max_tokens=5, **GREEDY)
    assert not any("damaged" in row for row in page.kept())


def test_an_unknown_tokeniser_is_refused_before_the_copy(page: Web, tmp_path: Path) -> None:
    watch = """async () => {
        const store = (await imported("/store.js")).openStore();
        const request = store.request.bind(store);
        window.asked = [];
        store.request = (type, fields) => {
            window.asked.push(type);
            return request(type, fields);
        };
    }"""
    page.evaluate(watch)
    path = tiny_model.write(tmp_path / "other.gguf", keys={"tokenizer.ggml.model": "elmo"})
    before = page.text("#model-name")
    page.choose(path)
    assert "other.gguf cannot be loaded: the tokeniser 'elmo' is not" in page.problem()
    assert page.evaluate("window.asked") == []
    page.click("#problem-close")
    assert page.text("#model-name") == before
    assert page.generate(PROMPT, max_tokens=5, **GREEDY)


def test_weights_that_are_no_numbers_bring_the_model_before_back(page: Web, tmp_path: Path) -> None:
    broken = {"output_norm.weight": np.full(64, np.nan, np.float32)}
    path = tiny_model.write(tmp_path / "nan.gguf", tensors=broken)
    before = page.text("#model-name")
    page.choose(path)
    said = page.problem()
    assert "output_norm.weight" in said
    assert "holds NaN" in said
    page.wait_for("ready")
    assert page.text("#model-name") == before
    page.click("#problem-close")
    page.delete("nan.gguf")


def test_a_model_that_is_too_large_is_refused_with_the_numbers(page: Web, tmp_path: Path) -> None:
    page.choose(tiny_model.write_hollow(tmp_path / "huge.gguf", 3_500_000))
    said = page.problem()
    assert re.search(r"huge\.gguf needs about 5\.\d GB of memory \(weights 5\.\d GB, ", said), said
    assert "a page can use at most 4.3 GB" in said
    page.click("#problem-close")
    assert page.generate(PROMPT, max_tokens=5, **GREEDY)


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_memory_that_the_browser_does_not_give_is_explained(
    browser: Browser, tmp_path: Path, site: dict[str, SiteFile]
) -> None:
    """In a browser that limits WebAssembly memories to 96 MiB, as only Chromium can be told."""
    with (
        browser.another("--js-flags=--wasm-max-mem-pages=1536") as driver,
        serve(site) as server,
    ):
        web = Web(driver, server.origin).open()
        web.choose(tiny_model.write_hollow(tmp_path / "fat.gguf", 75_000))
        said = web.problem()
        assert "The browser has not enough memory for fat.gguf" in said
        web.wait_for("ready")
        web.click("#problem-close")
        assert web.generate(PROMPT, max_tokens=5, **GREEDY)
        assert web.errors == []


def test_a_machine_that_may_be_too_small_is_told_of_before(page: Web, tmp_path: Path) -> None:
    """Deleting it then, while it is in use, asks and loads the page's own model."""
    give = "() => { Object.defineProperty(navigator, 'deviceMemory', %s); }"
    page.evaluate(give % "{ value: 0.25, configurable: true }")
    page.choose(tiny_model.write_hollow(tmp_path / "fat.gguf", 165_000))
    assert "the browser reports 268 MB in this machine" in page.problem()
    assert page.text("#problem-action") == "Load it anyway"
    page.click("#problem-action")
    page.wait_for_model("fat.gguf")
    page.evaluate("delete navigator.deviceMemory")
    if not page.stores():
        page.forget("fat.gguf")
        return
    page.press_in_row("fat.gguf", "Delete")
    asked = "Delete fat.gguf for good? It is in use: sparsefire-sotu is loaded instead."
    assert page.text("#announce") == asked
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == asked
    page.press("Enter")
    page.wait_for_model("sparsefire-sotu")
    page.wait_for_row("fat.gguf", there=False)
    assert page.generate(PROMPT, max_tokens=5, **GREEDY)


# ---- Split models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model in three files."""
    tiny = tiny_model.Tiny(context=64)
    return tiny_model.write_parts(tmp_path_factory.mktemp("parts"), 3, tiny)


def test_the_files_of_a_split_model_are_chosen_together(
    page: Web, parts: list[Path], tmp_path: Path
) -> None:
    expected = greedy_text(parts[0], PROMPT, "exact")
    page.choose(parts[2], parts[0], parts[1])
    page.wait_for_model("tiny.gguf")
    assert page.generate(PROMPT, "exact", max_tokens=20, **GREEDY) == expected
    renamed = [tmp_path / name for name in ("b.part", "a.part", "c.part")]
    for path, copy in zip(parts, renamed, strict=True):
        copy.write_bytes(path.read_bytes())
    page.choose(*renamed)
    page.wait_for_model("a.part.gguf")
    assert page.generate(PROMPT, "exact", max_tokens=20, **GREEDY) == expected
    if page.stores():
        page.press_in_row("tiny.gguf", "Load")
        page.wait_for_model("tiny.gguf")
        assert page.generate(PROMPT, "exact", max_tokens=20, **GREEDY) == expected
    for chosen, said in (
        (renamed[:1], "part 1 of a model in 3 files; give all of them together"),
        (renamed[::2], "the model is split over 3 files, and 2 are given: part 2 is missing"),
    ):
        page.choose(*chosen)
        assert said in page.problem()
        page.click("#problem-close")
    page.forget("tiny.gguf")
    page.delete("a.part.gguf")


def test_the_files_of_a_split_model_are_downloaded(page: Web, parts: list[Path]) -> None:
    """From the address of any of them; a part that is missing is named before the others load."""
    if not can_download(page):
        return
    page.expected += COMPLAINTS
    files = {f"some/{path.name}": SiteFile(path) for path in parts}
    with running(OpenServer(files)) as server:
        page.download(f"{server.origin}/some/{parts[1].name}")
        page.wait_for_model("tiny.gguf")
        text = page.generate(PROMPT, "exact", max_tokens=20, **GREEDY)
        assert text == greedy_text(parts[0], PROMPT, "exact")
        page.forget("tiny.gguf")
        del server.site[f"some/{parts[2].name}"]
        page.download(f"{server.origin}/some/{parts[0].name}")
        said = f"tiny.gguf: the server answered 404 for {parts[2].name}: there is no such file"
        assert said in page.problem()
    page.click("#problem-close")
    assert not any("tiny" in row for row in page.kept())


# ---- Kept models -------------------------------------------------------------------------------


@pytest.mark.parametrize("browser", sorted(set(ENGINES) - {*WITHOUT_STORAGE}), indirect=True)
def test_two_tabs_use_one_model_and_do_not_fetch_it_twice(
    visit: Any, host: Host, large: Path
) -> None:
    """The second with a budget of 2 MB for 6 MB of neurons, which it reads from OPFS."""
    first = visit().open()
    assert can_download(first)
    first.evaluate("localStorage.setItem('sparsefire-budget', '2')")
    second = Web(first.driver.tab(), first.origin).open()
    first.download(f"{host.origin}/slow-ranges.gguf")
    first.until("document.getElementById('progress-text').textContent.includes(' of ')")
    second.download(f"{host.origin}/slow-ranges.gguf")
    assert "another tab of this page is downloading slow-ranges.gguf" in second.problem()
    second.click("#problem-close")
    first.evaluate("localStorage.removeItem('sparsefire-budget')")
    first.wait_for_model("slow-ranges.gguf")
    assert "neurons in memory" not in first.text("#model-facts")
    second.evaluate("localStorage.setItem('sparsefire-budget', '2')")
    second.press_in_row("slow-ranges.gguf", "Load")
    second.wait_for_model("slow-ranges.gguf")
    assert "2.0 MB of 6.3 MB of neurons in memory" in second.text("#model-facts")
    expected = greedy_text(large, PROMPT, "sparse")
    assert first.generate(PROMPT, "sparse", max_tokens=20, **GREEDY) == expected
    # Each read takes its time in a profile that is kept in the browser's memory.
    made = second.generate(PROMPT, "sparse", max_tokens=4, **GREEDY)
    assert made
    assert expected.startswith(made)
    assert re.fullmatch(r"[\d.]+ %", second.text("#hits"))
    assert re.fullmatch(r"[\d.]+ [kM]B", second.text("#disk"))
    assert "in use" in first.text("#storage")
    # The first tab can do without the file, the second cannot.
    first.press_in_row("slow-ranges.gguf", "Delete")
    first.press_in_row("slow-ranges.gguf", "Delete for good?")
    assert "slow-ranges.gguf is in use, here or in another tab" in first.problem()
    first.wait_for_model("sparsefire-sotu")
    assert second.errors == []
    second.driver.close()


def test_a_copy_goes_on_after_a_reload(page: Web, tmp_path: Path) -> None:
    """When the same file is chosen again. The worker that copies ends with the page; here it ends
    before, at its first message, so that it cannot have finished."""
    if not page.stores():
        return
    fat = tiny_model.write_hollow(tmp_path / "fat.gguf", 60_000)
    shown = "document.getElementById('progress-text').textContent"
    page.evaluate(
        """async () => {
            const store = (await imported("/store.js")).openStore();
            store.addEventListener("transfer", () => {
                store.worker.terminate();
                window.ended = true;
            });
        }"""
    )
    page.choose(fat)
    page.until("window.ended")
    page.open()
    page.wait_for_row("copied: choose the file again to go on")
    page.evaluate(
        f"""() => {{
            window.first = "";
            new MutationObserver(() => {{
                const text = {shown};
                if (text.includes(" of ")) window.first ||= text;
            }}).observe(document.getElementById("progress-text"), {{ childList: true }});
        }}"""
    )
    page.choose(fat)
    page.wait_for_model("fat.gguf")
    first = page.evaluate("window.first")
    # More than the 4.2 MB with which a copy begins.
    assert float(re.findall(r": ([\d.]+) MB of", first)[0]) > 5, first
    page.forget("fat.gguf")


# ---- Downloads ---------------------------------------------------------------------------------

# Of the download that runs, whose bar has taken the place of an earlier one's.
SOME_CAME = """!document.getElementById("cancel").hidden &&
    /: [1-9].* of 6.* MB/.test(document.getElementById("progress-text").textContent)"""


def test_a_slow_download_is_cancelled_and_resumed(page: Web, host: Host, large: Path) -> None:
    if not can_download(page):
        return
    page.download(f"{host.origin}/slow-ranges.gguf")
    page.until(SOME_CAME)
    page.click("#cancel")
    page.wait_for_row("downloaded")
    assert "cancelled" in page.problem()
    page.click("#problem-close")
    assert page.generate(PROMPT, max_tokens=5, **GREEDY)
    page.press_in_row("slow-ranges.gguf", "Resume")
    page.wait_for_model("slow-ranges.gguf")
    assert host.asked[0] == ""
    assert re.fullmatch(r"bytes=[1-9]\d*-", host.asked[1])
    text = page.generate(PROMPT, "sparse", max_tokens=20, **GREEDY)
    assert text == greedy_text(large, PROMPT, "sparse")
    page.forget("slow-ranges.gguf")


def test_a_download_from_a_hub_goes_on_after_a_reload(page: Web, host: Host, large: Path) -> None:
    """With the range that is missing, also where the hub redirects it elsewhere."""
    if not can_download(page):
        return
    page.download(f"{host.origin}/some/model/resolve/main/slow-ranges.gguf")
    page.until(SOME_CAME)
    page.open()
    assert host.asked == [""]
    page.wait_for_row("downloaded")
    page.press_in_row("slow-ranges.gguf", "Resume")
    page.wait_for_model("slow-ranges.gguf")
    assert len(host.asked) == 2
    start = re.fullmatch(r"bytes=(\d+)-", host.asked[1])
    assert start
    assert 0 < int(start[1]) < large.stat().st_size
    text = page.generate(PROMPT, "sparse", max_tokens=20, **GREEDY)
    assert text == greedy_text(large, PROMPT, "sparse")
    page.forget("slow-ranges.gguf")


@pytest.mark.parametrize("kind", ["broken", "broken-ranges"])
def test_a_broken_download_goes_on_or_begins_anew(
    page: Web, host: Host, large: Path, kind: str
) -> None:
    if not can_download(page):
        return
    page.expected += COMPLAINTS
    page.download(f"{host.origin}/{kind}.gguf")
    page.wait_for_model(f"{kind}.gguf")
    assert len(host.asked) == 2
    text = page.generate(PROMPT, "dense", max_tokens=20, **GREEDY)
    assert text == greedy_text(large, PROMPT, "dense")
    page.forget(f"{kind}.gguf")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "the server answered 404: there is no such file"),
        ("closed", "cannot be reached, or does not allow other sites to read its files (CORS)"),
        ("html", "html.gguf: not a GGUF file but a web page (HTML)"),
        ("html-short", "html-short.gguf: not a GGUF file but a web page (HTML)"),
    ],
)
def test_what_cannot_be_downloaded_is_explained(
    page: Web, host: Host, name: str, said: str
) -> None:
    if not can_download(page):
        return
    page.expected += COMPLAINTS
    page.download(f"{host.origin}/{name}.gguf")
    assert said in page.problem()
    page.click("#problem-close")
    page.wait_for("ready")
    assert not any(name in row for row in page.kept())


def test_a_download_with_an_unknown_tokeniser_ends_with_its_header(
    page: Web, tmp_path: Path
) -> None:
    if not can_download(page):
        return
    keys = {"tokenizer.ggml.model": "elmo"}
    path = tiny_model.write(tmp_path / "other.gguf", hidden=4096, context=64, keys=keys)
    with running(Host(path.read_bytes())) as server:
        page.download(f"{server.origin}/large-slow.gguf")
        assert "the tokeniser 'elmo' is not supported" in page.problem()
        page.click("#problem-close")
    page.wait_for("ready")
    assert not any("large" in row for row in page.kept())
