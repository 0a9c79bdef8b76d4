"""What the pages of bench/browser.py ask for, served from this machine."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from peer_files import HOME
from sparsefire.page.fetch import RUNTIME_FILES, ensure_pyodide, numpy_wheel
from sparsefire.page.server import WebServer
from sparsefire.page.site import SiteFile, build_wheel

WLLAMA = "@wllama/wllama@3.8.1"
_PAGES = Path(__file__).resolve().parent / "chromium"


class CountingServer(WebServer):
    """Counts in `sent` the bytes that it sends, headers too."""

    def __init__(self, site: Mapping[str, SiteFile]) -> None:
        super().__init__(site)
        self.sent = 0
        server = self

        class Counting(self.RequestHandlerClass):  # type: ignore[misc, name-defined]
            def setup(self) -> None:
                super().setup()
                write = self.wfile.write

                def counted(data: bytes) -> int:
                    server.sent += len(data)
                    return int(write(data))

                self.wfile.write = counted

        self.RequestHandlerClass = Counting


@contextmanager
def running(site: Mapping[str, SiteFile]) -> Iterator[CountingServer]:
    """Serves a site for the time of a `with`."""
    server = CountingServer(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def bench_site(models: Mapping[str, Path]) -> dict[str, SiteFile]:
    """The pages with both engines, and these models as /models/NAME.gguf."""
    site = {path.name: SiteFile(path) for path in _PAGES.iterdir()}
    home = ensure_pyodide(None, None)
    for name in (*RUNTIME_FILES, numpy_wheel(home).name):
        site[f"pyodide/{name}"] = SiteFile(home / name)
    site["sparsefire.whl"] = SiteFile(data=build_wheel())
    for name in ("index.js", "wllama.wasm"):
        site[f"wllama/{name}"] = SiteFile(_wllama() / name)
    return site | {f"models/{name}.gguf": SiteFile(path) for name, path in models.items()}


def _wllama() -> Path:
    """The directory with wllama's script and module, as npm has them."""
    home = HOME / WLLAMA.replace("/", "-").lstrip("@")
    wanted = {"package/esm/index.js": "index.js", "package/esm/wasm/wllama.wasm": "wllama.wasm"}
    if not all((home / name).exists() for name in wanted.values()):
        home.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm") or "npm"
        subprocess.run([npm, "pack", "--silent", WLLAMA], cwd=home, check=True)
        with tarfile.open(next(home.glob("*.tgz"))) as archive:
            for member, name in wanted.items():
                source = archive.extractfile(member)
                assert source is not None
                (home / name).write_bytes(source.read())
    return home
