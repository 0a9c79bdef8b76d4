"""How soon the browser page works in each engine, from an empty profile.

    python -m bench.browser.first_token             # Chromium, Firefox and WebKitGTK, in turns
    python -m bench.browser.first_token --runs 5 firefox

Prints the seconds from the start of the navigation, medians and all: until the model is loaded,
until the first token is shown, and until the map shows neurons that fired. The page is untouched
and starts by itself. It is served from this machine; the browsers have no GPU. Each run has a new
profile. Needs Playwright for Chromium, webkit2gtk-driver and Xvfb for WebKitGTK.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsefire.page.site import SiteFile, make_site

from ..lib import web_drivers
from ..lib.command import run_program
from ..lib.peer_files import MissingPeer
from .site import running

_NOWHERE = 9  # the port of a proxy for other hosts, where nothing listens

# Before the page's own scripts: notes when it shows what it is to show.
_WATCH = """
window.seen = {};
{
    const note = (name) => { window.seen[name] ??= performance.now() / 1000; };
    const look = () => {
        const byId = (id) => document.getElementById(id);
        if (document.documentElement.dataset.state === "busy") note("loaded");
        if (document.querySelector("#output .generated")?.textContent) note("token");
        // The hint goes with the first neurons; they are drawn in the frame after.
        if (byId("map-empty")?.hidden)
            requestAnimationFrame(() => requestAnimationFrame(() => note("lit")));
        if (window.seen.lit) observer.disconnect();
    };
    const observer = new MutationObserver(look);
    observer.observe(document, {
        subtree: true, childList: true, characterData: true, attributes: true,
        attributeFilter: ["hidden", "data-state"],
    });
}
"""
_WAIT = """
    for (const end = performance.now() + 240_000; !window.seen.lit || !window.seen.token; ) {
        if (performance.now() > end) throw new Error(`only ${JSON.stringify(window.seen)}`);
        await new Promise((go) => setTimeout(go, 50));
    }
    return window.seen;
"""
_NAMES = ("loaded", "token", "lit")


def watched(site: Mapping[str, SiteFile]) -> dict[str, SiteFile]:
    """The site with `_WATCH` before its first script."""
    return {**site, "guard.js": SiteFile(data=_WATCH.encode() + site["guard.js"].read())}


def visit(engine: str, site: Mapping[str, SiteFile]) -> tuple[dict[str, float], str]:
    """Seconds of one visit with an empty profile, and the version of the browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        launched = web_drivers.launch(engine, Path(profile), _NOWHERE, optimised=True)
        with running(site) as server, launched as driver:
            driver.open(server.origin)
            return driver.run(_WAIT), driver.version


def table(seen: Mapping[str, Sequence[Mapping[str, float]]], versions: Mapping[str, str]) -> str:
    """A table in Markdown."""
    head = ("browser", "model loaded, s", "first token, s", "neurons lit, s")
    rows = [head, ("---",) * len(head)]
    for engine, each in seen.items():
        cells = []
        for name in _NAMES:
            seconds = sorted(one[name] for one in each)
            whole = ", ".join(f"{one:.1f}" for one in seconds)
            cells.append(f"{statistics.median(seconds):.1f} ({whole})")
        rows.append((f"{engine} {versions[engine]}", *cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Visits the page with the engines that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.browser.first_token", description="How soon the browser page works."
    )
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=", ".join(web_drivers.ENGINES))
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    engines = arguments.engines or list(web_drivers.ENGINES)
    if unknown := set(engines) - set(web_drivers.ENGINES):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    site = watched(make_site())
    seen: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    versions: dict[str, str] = {}
    for _ in range(arguments.runs):
        for engine in engines:
            try:
                found, versions[engine] = visit(engine, site)
            except FileNotFoundError as error:
                raise MissingPeer(str(error)) from None
            seen[engine].append(found)
    print(table(seen, versions))
    return 0


if __name__ == "__main__":
    run_program(main)
