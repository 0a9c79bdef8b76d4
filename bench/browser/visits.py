"""What a page costs that makes a text: time, bytes, memory, and its main thread."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsefire.lm.opening import default_model
from sparsefire.page.site import make_site

from ..lib.command import Effort
from ..lib.peer_files import smollm2_as
from .site import CountingServer, bench_site, launch, running

PROMPT = "The history of the steam engine begins with"
TOKENS = 64

# How long the main thread did nothing else, in ms: between two of a timer's calls, 4 ms apart.
_WATCH = """
window.gaps = [];
{
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    window.gaps.push([last, now - last]);
    last = now;
  }, 4);
}
"""


# Presses Generate and sees it begin in one go: it may have ended before another look.
_BEGIN = """
new Promise((done) => {
  document.addEventListener("phase", done, { once: true });
  window.gaps.length = 0;
  document.getElementById("go").click();
})
"""


@dataclass(frozen=True)
class Visit:
    """One visit of a page, in a browser that knows the page (warm) or not (cold)."""

    page: str
    visit: str
    first_token_s: float
    downloaded_mb: float
    memory_mb: float
    busiest_ms: float

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return (
            f"{self.page}, {self.visit}",
            f"{self.first_token_s:.1f}",
            f"{self.downloaded_mb:.1f}",
            f"{self.memory_mb:.0f}",
            f"{self.busiest_ms:.0f}",
        )

    def __str__(self) -> str:
        return (
            f"{self.page}, {self.visit}: first token after {self.first_token_s:.1f} s, "
            f"{self.downloaded_mb:.1f} MB downloaded, peak memory {self.memory_mb:.0f} MB, "
            f"main thread busy for at most {self.busiest_ms:.0f} ms"
        )


def visits(effort: Effort) -> Iterator[Visit]:
    """A cold and a warm visit of each page: this project's with the embedded model and with
    SmolLM2, and one with wllama and SmolLM2. When quick, only the first."""
    pages = [(f"sparsefire, {default_model().stem}", make_site(), _use_page)]
    if not effort.quick:
        smollm2 = smollm2_as("q8_0")
        pages += [
            ("sparsefire, SmolLM2 q8_0", make_site(smollm2), _use_page),
            ("wllama, SmolLM2 q8_0", bench_site({"model": smollm2}), _use_wllama),
        ]
    for name, site, use in pages:
        with running(site) as server, tempfile.TemporaryDirectory() as profile:
            for visit in ("cold", "warm"):
                yield _visit(name, visit, server, profile, use)


def _visit(
    name: str, visit: str, server: CountingServer, profile: str, use: Callable[[Any, str], float]
) -> Visit:
    server.sent = 0
    with launch(profile) as context:
        page = context.pages[0]
        page.set_default_timeout(300_000)
        page.add_init_script(_WATCH)
        first = use(page, server.origin)
        gaps = page.evaluate("window.gaps.map(([, gap]) => gap)")
        memory = sum(_peak_bytes(pid) for pid in _renderers(profile))
    return Visit(name, visit, first, server.sent / 1e6, memory / 1e6, max(gaps))


def _use_page(page: Any, origin: str) -> float:
    """Makes a text with the project's page, then a longer one that is watched; seconds until the
    first token."""
    began = time.perf_counter()
    page.goto(origin)
    page.click("#go")
    page.wait_for_function("document.querySelector('#output .generated')?.textContent")
    first = time.perf_counter() - began
    page.wait_for_selector("html[data-state=ready]")
    if page.is_visible("#kinds"):  # the model converses too; a message may get a short answer
        page.check("input[name=kind][value=text]")
    page.fill("#prompt", PROMPT)
    page.evaluate("document.getElementById('max_tokens').value = 400")
    page.evaluate(_BEGIN)
    page.wait_for_selector("html[data-state=ready]")
    return first


def _use_wllama(page: Any, origin: str) -> float:
    began = time.perf_counter()
    page.goto(f"{origin}/browser.html")
    page.wait_for_function("window.ready")
    page.evaluate("(a) => window.open(...a)", ["wllama", "wllama", "/models/model.gguf", 2])
    opened = time.perf_counter() - began
    text = page.evaluate("(a) => window.generate(...a)", ["wllama", PROMPT, TOKENS])
    page.evaluate("window.gaps.length = 0")
    page.evaluate("(a) => window.generate(...a)", ["wllama", PROMPT, TOKENS])
    return opened + float(text["first_s"])


def _renderers(profile: str) -> Iterator[int]:
    """The processes that run pages of the browser with this profile."""
    parents, renderers, roots = {}, [], []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents[int(directory.name)] = int((directory / "stat").read_text().split()[3])
        except (OSError, IndexError, ValueError):
            continue
        if "--type=renderer" in command:
            renderers.append(int(directory.name))
        elif f"--user-data-dir={profile}" in command and "--type=" not in command:
            roots.append(int(directory.name))
    for pid in renderers:
        above = pid
        while above in parents and above not in roots:
            above = parents[above]
        if above in roots:
            yield pid


def _peak_bytes(pid: int) -> int:
    """The most memory that the process had at a time."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


def table(visits: list[Visit]) -> str:
    """A table in Markdown."""
    head = ("page", "first token, s", "downloaded, MB", "peak memory, MB", "main thread, ms")
    rows = [head, ("---",) * len(head), *(visit.cells() for visit in visits)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
