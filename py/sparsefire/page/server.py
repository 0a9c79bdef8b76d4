"""A small HTTP server for the browser page, on the loopback interface.

It sends the headers of cross-origin isolation, which browsers require for shared memory and so for
threads, and supports ranges, so that large models can be read in chunks.
"""

from __future__ import annotations

import http.server
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from .site import ISOLATION, SiteFile

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "wasm": "application/wasm",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
_BLOCK = 1 << 18


class WebServer(http.server.ThreadingHTTPServer):
    """Serves `site` at `origin`; port 0 chooses a free one. `isolated` False omits the headers of
    cross-origin isolation, as many static hosts do."""

    daemon_threads = True

    def __init__(self, site: Mapping[str, SiteFile], port: int = 0, isolated: bool = True) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.site = dict(site)
        self.isolated = isolated
        self.origin = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that the browser closes early."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        file = self.server.site.get(name)
        if file is None:
            self.send_error(404, "no such file")
            return
        size = file.nbytes
        tag = f'"{_tag(file)}"'
        if self.headers.get("If-None-Match") == tag:
            self._start(304, tag, 0, name)
            return
        start, end = self._range(size)
        if start >= size > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        partial = (start, end) != (0, size)
        extra = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if partial else {}
        self._start(206 if partial else 200, tag, end - start, name, extra)
        if body:
            self._send(file, start, end)

    def _range(self, size: int) -> tuple[int, int]:
        """Start and end of the requested range; the whole file when the range is not understood."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return 0, size
        last = int(found[2]) if found[2] else size - 1
        return int(found[1]), min(last + 1, size)

    def _start(
        self, status: int, tag: str, length: int, name: str, extra: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        # Addresses that change with the file.
        versioned = "?v=" in self.path or name.startswith("pyodide-")
        headers = {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "ETag": tag,
            "Cache-Control": "max-age=31536000, immutable" if versioned else "no-cache",
            "X-Content-Type-Options": "nosniff",
            **(extra or {}),
            **(ISOLATION if self.server.isolated else {}),
        }
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def _send(self, file: SiteFile, start: int, end: int) -> None:
        if file.path is None:
            self.wfile.write(file.data[start:end])
            return
        with file.path.open("rb") as source:
            source.seek(start)
            while start < end and (block := source.read(min(_BLOCK, end - start))):
                self.wfile.write(block)
                start += len(block)

    def log_message(self, format: str, *args: Any) -> None:
        """No log: the terminal shows the address."""


def _tag(file: SiteFile) -> str:
    if file.path is None:
        return f"{hash(file.data) & 0xFFFFFFFFFFFFFFFF:x}"
    status = file.path.stat()
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"
