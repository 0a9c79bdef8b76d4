"""Servers of models at another origin than the page's."""

from __future__ import annotations

import http.server
import re
import time
from typing import Any

from sparsefire.page.server import WebServer
from sparsefire.page.site import SiteFile


class Host(http.server.ThreadingHTTPServer):
    """A server of `data` at another origin. Words in a file's name choose its behaviour: "slow",
    "broken" (the first answer ends halfway), "ranges" (it supports ranges), "closed" (no CORS
    header), "html"; without any of them it answers 404. As hubs of models do, it redirects
    /…/resolve/… to an address that is another one each time."""

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _HostHandler)
        self.data = data
        self.asked: list[str] = []  # ranges, "" for the whole
        self.origin = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that the page closes early."""


class _HostHandler(http.server.BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        name = self.path.split("?")[0].rpartition("/")[2]
        if "/resolve/" in self.path:
            self.send_response(302)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Location", f"/files/{name}?signed={len(self.server.asked)}")
            self.end_headers()
            return
        words = name.removesuffix(".gguf").split("-")
        if not {"slow", "broken", "closed", "html", "large"} & set(words):
            self.send_response(404)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            return
        given = self.headers.get("Range", "")
        self.server.asked.append(given)
        data = self.server.data
        if "html" in words:
            data = b"<!doctype html>" * (10 if "short" in words else 100_000)
        start = int(re.findall(r"\d+", given)[0]) if given and "ranges" in words else 0
        self.send_response(206 if start else 200)
        if "closed" not in words:
            self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        end = len(data) // 2 if "broken" in words and len(self.server.asked) == 1 else len(data)
        while start < end:
            piece = data[start : min(end, start + (1 << 16))]
            self.wfile.write(piece)
            start += len(piece)
            if "slow" in words:
                time.sleep(0.02)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


class OpenServer(WebServer):
    """Serves files to pages of any origin."""

    def __init__(self, site: dict[str, SiteFile]) -> None:
        super().__init__(site, isolated=False)

        class Handler(self.RequestHandlerClass):  # type: ignore[misc, name-defined]
            def end_headers(self) -> None:
                self.send_header("Access-Control-Allow-Origin", "*")
                super().end_headers()

        self.RequestHandlerClass = Handler
