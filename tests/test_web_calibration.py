"""The page calibrates models, in every browser: what it offers, tells and keeps."""

from __future__ import annotations

import re
from pathlib import Path

import tiny_model
from sparsefire.lm.opening import default_model
from web_harness import GREEDY, Web, greedy_text

pytest_plugins = ("web_fixtures",)
PROMPT = "abc"

CALIBRATE = "(options) => imported('/calibration.js').then(({ calibrate }) => calibrate(options))"
STORED = """async () => {
    const root = await navigator.storage.getDirectory();
    const names = [];
    for await (const name of (await root.getDirectoryHandle("models")).keys()) names.push(name);
    return names;
}"""
# Leaves the first half of a stored file.
CUT_OFF = """async (name) => {
    const root = await navigator.storage.getDirectory();
    const handle = await (await root.getDirectoryHandle("models")).getFileHandle(name);
    const file = await handle.getFile();
    const half = await file.slice(0, file.size / 2).arrayBuffer();
    const writable = await handle.createWritable();
    await writable.write(half);
    await writable.close();
}"""
HEAD = "imported('/page.js').then(({ state }) => state.model.head)"


def calibrate_for_long(web: Web) -> None:
    """Begins a calibration that takes hours."""
    web.evaluate(f"(options) => {{ ({CALIBRATE})(options); }}", {"tokens": 1_000_000})
    web.until("document.getElementById('progress-text').textContent.startsWith('Writing a text')")
    assert web.text("#calibrate") == "Cancel calibrating"


# Whether the browser asks before it leaves the page.
ASKS = """() => {
    const event = new Event("beforeunload", { cancelable: true });
    dispatchEvent(event);
    return event.defaultPrevented;
}"""


def test_a_dense_model_is_calibrated_at_the_press_of_a_button(page: Web, tmp_path: Path) -> None:
    """No screen is near enough to a matrix of random numbers. A calibration that fails, or cannot
    begin, leaves its model in use."""
    path = tiny_model.write(tmp_path / "dense.gguf", context=64, activation="silu")
    page.choose(path)
    page.wait_for_model("dense.gguf")
    page.evaluate(CALIBRATE, {"text": "abc"})
    assert page.problem().startswith(
        "dense.gguf could not be calibrated: the text has 2 tokens; calibration needs 1000 or more"
    )
    page.evaluate(
        """async () => {
            const { engine } = (await imported("/page.js")).state;
            const { request } = engine;
            engine.request = () => Promise.reject(new Error("no connection"));
            document.getElementById("calibrate").click();
            engine.request = request;
        }"""
    )
    page.until("document.getElementById('problem-text').textContent.includes('connection')")
    assert page.problem() == "dense.gguf could not be calibrated: no connection."
    page.wait_for("ready")
    page.evaluate(CALIBRATE, {"tokens": 1_000})
    said = (
        "No screen of the output matrix was near enough to it and smaller: the model stays dense."
    )
    assert page.text("#calibration") == said
    assert page.text("#announce") == "The model stays dense."
    assert not page.is_visible("#problem")
    assert page.evaluate(HEAD) == "dense"
    text = page.generate(PROMPT, "dense", max_tokens=5, **GREEDY)
    assert text == greedy_text(path, PROMPT, "dense", 5)
    slower = {"kl": 0.004, "agreement": 0.99951, "read_share": 0.2}
    slower |= {"tokens_per_s": 40, "dense_tokens_per_s": 41.0}
    assert page.evaluate(
        "(found) => imported('/calibration.js').then(({ described }) => described(found))",
        {"measured": slower, "written": False, "held_out_tokens": 614},
    ) == (
        "Not faster here, so the model stays dense. On 614 tokens held out: 20 % of the output "
        "matrix read per token, divergence 0.0040 nats, the same most likely token for 99.9 %; "
        "40 against 41 tokens/s."
    )


def test_a_calibration_can_be_cancelled(page: Web, small: Path, tmp_path: Path) -> None:
    """At the press of its button, and for another model, which does not wait for it; deleting its
    model cancels it."""
    path = tiny_model.write(tmp_path / "dense.gguf", context=64, activation="silu")
    if not any("dense.gguf" in row and "In use" in row for row in page.kept()):
        page.choose(path)
        page.wait_for_model("dense.gguf")
    calibrate_for_long(page)
    assert page.evaluate(ASKS)
    if page.stores():
        page.download("http://127.0.0.1:9/some.gguf")
        assert page.problem() == (
            "dense.gguf is being calibrated: wait for it before another model is downloaded."
        )
    page.choose(small)
    page.until("document.getElementById('problem-text').textContent.includes('is loaded')")
    assert page.problem() == (
        "dense.gguf is being calibrated: wait for it before another model is loaded."
    )
    page.click("#problem-action")
    page.wait_for_model("small.gguf")
    assert not page.evaluate(ASKS)
    assert not page.is_visible("#problem")
    if page.stores():
        page.press_in_row("dense.gguf", "Load")
        page.wait_for_model("dense.gguf")
        calibrate_for_long(page)
        page.delete("dense.gguf")
        page.wait_for_model("sparsefire-sotu")
        page.delete("small.gguf")
    else:
        page.choose(path)
        page.wait_for_model("dense.gguf")
        calibrate_for_long(page)
        page.click("#calibrate")
        page.wait_for_model("dense.gguf")
        assert page.text("#announce") == "Cancelled."
        page.forget("dense.gguf")
    assert not page.is_visible("#calibrate")


def test_what_was_calibrated_is_used_and_kept_with_the_model(page: Web, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(default_model().read_bytes())
    page.choose(path)
    page.wait_for_model("own.gguf")
    page.generate(PROMPT, "sparse", max_tokens=5, **GREEDY)
    dense = page.text("#read-note")
    options = {"tokens": 1_000, "kl": 0.3, "agreement": 0.9, "even_if_slower": True}
    page.evaluate(CALIBRATE, options)
    said = page.text("#calibration")
    kept = "" if page.stores() else " It is kept until the page is closed."
    found = re.fullmatch(
        r"Calibrated\. On 150 tokens held out: ([\d.]+) % of the output matrix read per token,"
        r" divergence ([\d.e-]+) nats, the same most likely token for (\d+\.\d) %; \d+ against \d+"
        rf" tokens/s\.{re.escape(kept)}",
        said,
    )
    assert found, said
    share, divergence, agreement = map(float, found.groups())
    assert share < 80
    assert 0 < divergence < 1
    assert agreement > 80
    assert page.evaluate(HEAD) == "screened"
    assert "screened output matrix" in page.text("#model-facts")
    page.generate(PROMPT, "sparse", max_tokens=5, **GREEDY)
    assert page.text("#read-note") != dense
    page.press_in_row("sparsefire-sotu", "Load")
    page.wait_for_model("sparsefire-sotu")
    assert page.evaluate(HEAD) == "dense"
    if page.stores():
        page.press_in_row("own.gguf", "Load")
    else:
        page.choose(path)
    page.wait_for_model("own.gguf")
    assert page.evaluate(HEAD) == "screened"
    page.press_in_row("sparsefire-sotu", "Load")
    page.wait_for_model("sparsefire-sotu")
    if page.stores():
        page.evaluate(CUT_OFF, "own.gguf.companion")
        page.press_in_row("own.gguf", "Load")
        assert page.problem() == (
            "What was calibrated here for own.gguf is damaged, or was for another file of that "
            "name: it runs without. Calibrate it again."
        )
        page.wait_for_model("own.gguf")
        assert page.evaluate(HEAD) == "dense"
        page.click("#problem-close")
        page.forget("own.gguf")
        # One that ends when its model has been deleted, as in another tab, leaves nothing.
        keep = "imported('/lifecycle.js').then(({ keepCompanion }) => keepCompanion(...given))"
        source = {"kind": "stored", "name": "own.gguf"}
        told = page.evaluate(f"(...given) => {keep}", source, [1, 2, 3])
        assert told == " It is kept until the page is closed."
        assert not [name for name in page.evaluate(STORED) if name.startswith("own.gguf")]
