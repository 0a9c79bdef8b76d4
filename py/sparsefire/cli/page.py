"""`sparsefire web`: the page that runs a model in the browser."""

from __future__ import annotations

import argparse
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

from ..errors import ArgumentError

_PORT = 8765


def add_web_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "web",
        help="serve a page that runs the model in your browser",
        description="Serves, on this machine only, a page that runs the model in the browser and "
        "shows which neurons fire. The first run downloads Pyodide (about 17 MB); later ones need "
        "no network.",
    )
    parser.set_defaults(run=_web)
    add = parser.add_argument
    add("--port", type=int, metavar="N", help=f"default {_PORT}, or a free one if it is taken")
    add("-m", "--model", metavar="FILE", help="GGUF model to open; default: the embedded one")
    add("--open", action="store_true", help="open the page in the default browser")
    add(
        "--numpy-wheel",
        metavar="FILE",
        help="numpy's wheel for Pyodide, if it cannot be downloaded from Pyodide's CDN",
    )
    add("--export", metavar="DIR", help="write the page's files for a static host, and exit")
    add("--force", action="store_true", help="replace existing files in DIR")


def _web(arguments: argparse.Namespace) -> int:
    from ..page.site import export_site, make_site

    port: int | None = arguments.port
    if port is not None and not 0 <= port <= 65535:
        raise ArgumentError(f"--port must be from 0 to 65535, not {port}")
    model = Path(arguments.model) if arguments.model else None
    numpy = Path(arguments.numpy_wheel) if arguments.numpy_wheel else None
    site = make_site(model, progress=_Bar(), numpy=numpy)
    if arguments.export:
        directory = Path(arguments.export)
        total = export_site(site, directory, force=arguments.force)
        print(f"{directory}: {len(site)} files, {total / 1e6:.1f} MB")
        print("docs/guide/browser.md describes hosting. To try it: sparsefire web")
        return 0
    return _serve(site, port, arguments.open)


def _serve(site: Any, port: int | None, show: bool) -> int:
    from ..page.server import WebServer

    try:
        server = WebServer(site, _PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise ArgumentError(f"port {port} cannot be used: {error.strerror or error}") from None
        server = WebServer(site, 0)
    with server:
        print(f"{server.origin}  (Ctrl-C to stop)", flush=True)
        if show:
            webbrowser.open(server.origin)
        server.serve_forever()
    return 0


class _Bar:
    """A progress line on standard error."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._what = ""

    def __call__(self, what: str, done: int, size: int) -> None:
        fresh = what != self._what
        finished = 0 < size <= done
        if not fresh and not finished and time.monotonic() - self._shown < 0.1:
            return
        self._shown, self._what = time.monotonic(), what
        if not sys.stderr.isatty():
            if fresh:
                print(what, file=sys.stderr, flush=True)
            return
        line = what
        if size:
            filled = round(24 * done / size)
            bar = "█" * filled + "·" * (24 - filled)
            line += f" {bar} {done / 1e6:.1f} of {size / 1e6:.1f} MB"
        end = "\n" if finished or not size else ""
        print(f"\r{line}\x1b[K", end=end, file=sys.stderr, flush=True)
