"""The files of the browser page, which `sparsefire web` serves or exports.

A site maps paths to files. Its `site.json` holds the paths of Pyodide, the package's wheel and the
model, and the sizes of all files, from which the page computes its progress.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .._files import check_output, write_bytes
from ..errors import BackendError, ModelFileError
from ..gguf.reader import GgufFile
from ..lm.opening import default_model
from .compile import compile_archives
from .fetch import PYODIDE_VERSION, RUNTIME_FILES, Progress, ensure_pyodide, numpy_wheel

# Headers of cross-origin isolation: the server sends them, and so does the service worker where a
# server does not.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# What the page says of the embedded model; its model card says more.
_ABOUT = "Small, trained on public-domain speeches and a novel."

_PACKAGE = Path(__file__).resolve().parent.parent
_PAGE_SUFFIXES = (".html", ".css", ".js", ".svg", ".webmanifest")
_WHEEL_SUFFIXES = (".py", ".pyi", ".typed", ".wasm", ".js")
_STDLIB = "python_stdlib.zip"
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class SiteFile:
    """A file of the site, on disk or in memory."""

    path: Path | None = None
    data: bytes = b""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return len(self.data) if self.path is None else self.path.stat().st_size

    def read(self) -> bytes:
        """Its contents."""
        return self.data if self.path is None else self.path.read_bytes()


def page_directory() -> Path:
    """The directory of the page's own files: in the package or, in a source tree, next to it."""
    for directory in (_PACKAGE / "web", _PACKAGE.parent.parent / "web"):
        if (directory / "index.html").is_file():
            return directory
    raise BackendError(
        "this installation does not contain the page's files; `pip install .` in the project's "
        "directory installs them"
    )


def make_site(
    model: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    numpy: Path | None = None,
) -> dict[str, SiteFile]:
    """All files of the page by their paths in the site.

    model: the model that the page loads first, by default the embedded one; the first file of a
      split model.
    cache, progress, numpy: see `ensure_pyodide`.

    Raises `ModelFileError` without the model, `BackendError` without Pyodide or a built core.
    """
    model = model or default_model()
    if not model.is_file():
        raise ModelFileError(f"{model}: no such file")
    with GgufFile.open(model) as file:
        parts = {f"models/{path.name}": path for path in file.paths}
    home = ensure_pyodide(cache, progress, numpy)
    site = {
        path.name: SiteFile(path)
        for path in sorted(page_directory().iterdir())
        if path.suffix in _PAGE_SUFFIXES
    }
    site["isolation.js"] = SiteFile(data=f"self.ISOLATION = {json.dumps(ISOLATION)};\n".encode())
    runtime, wheel, more = _add_python(site, home, progress)
    site |= {name: SiteFile(path) for name, path in parts.items()}
    described = {
        "version": metadata_version(),
        "pyodide": {"version": PYODIDE_VERSION, "path": f"{runtime}/"},
        "numpy": f"{runtime}/{numpy_wheel(home).name}",
        "wheel": f"{wheel}?v={_stamp_of(site[wheel].read())}",
        **{
            name: path and f"{path}?v={_stamp_of(site[path].read())}" for name, path in more.items()
        },
        "model": {
            "name": re.sub(r"-\d{5}-of-\d{5}$", "", model.stem),
            "about": _ABOUT if model == default_model() else "",
            "bytes": sum(path.stat().st_size for path in parts.values()),
            "files": [f"{name}?v={_stamp(path)}" for name, path in parts.items()],
        },
        "bytes": {path: file.nbytes for path, file in site.items()},
    }
    site["site.json"] = SiteFile(data=json.dumps(described, indent=1).encode())
    return site


def _add_python(
    site: dict[str, SiteFile], home: Path, progress: Progress | None
) -> tuple[str, str, dict[str, str | None]]:
    """Adds Pyodide, numpy, the package's wheel and archives with what chat templates and
    calibration need, where that is installed. Returns the directory of Pyodide, the path of the
    wheel, and the paths of those archives, or None."""
    wheel, numpy = f"wheel/{wheel_name()}", numpy_wheel(home).name
    more = {"chat": chat_archive(), "calibration": calibration_archive()}
    paths = {name: f"wheel/{name}.zip" if data else None for name, data in more.items()}
    archives = {name: (home / name).read_bytes() for name in (_STDLIB, numpy)}
    archives[wheel] = build_wheel()
    archives |= {f"wheel/{name}.zip": data for name, data in more.items() if data}
    compiled = compile_archives(archives, home, progress)
    files = {name: SiteFile(compiled.get(name), data) for name, data in archives.items()}
    # The name of the directory is its version, since browsers cache its files permanently.
    runtime = f"pyodide-{PYODIDE_VERSION}"
    if compiled:
        runtime += f"-compiled-{compiled[_STDLIB].stem[:8]}"
    for name in (*RUNTIME_FILES, numpy):
        site[f"{runtime}/{name}"] = files.get(name) or SiteFile(home / name)
    site |= {name: file for name, file in files.items() if "/" in name}
    return runtime, wheel, paths


def export_site(site: dict[str, SiteFile], directory: Path, *, force: bool = True) -> int:
    """Writes a site to a directory for any static host; returns its size in bytes. Files that exist
    are replaced only with ``force``, and never by themselves: `ArgumentError`, before anything is
    written."""
    inputs = [file.path for file in site.values() if file.path is not None]
    for name in site:
        if (directory / name).exists():
            check_output(directory / name, inputs, force=force)
    for name, file in site.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, file.read(), inputs, force=force)
    return sum(file.nbytes for file in site.values())


def _stamp_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


# ---- the wheel -----------------------------------------------------------------------------------


def metadata_version() -> str:
    """The version of the package."""
    import sparsefire

    return sparsefire.__version__


def wheel_name() -> str:
    """File name of the wheel that `build_wheel` builds."""
    return f"sparsefire-{metadata_version()}-py3-none-any.whl"


def build_wheel(models: bool = False) -> bytes:
    """Builds a wheel of the package for Pyodide, without the compiled extension.

    It consists of the files of the running package, so the page always has the same version.

    models: include the embedded model.

    Raises `BackendError` when the WebAssembly module is missing.
    """
    if not (_PACKAGE / "wasm" / "sparsefire_core.wasm").exists():
        raise BackendError(
            "the WebAssembly module is not built; run ./build_wasm.sh in the project's directory, "
            "then `pip install .`"
        )
    suffixes = (*_WHEEL_SUFFIXES, *((".gguf",) if models else ()))
    entries = {
        f"sparsefire/{path.relative_to(_PACKAGE).as_posix()}": path.read_bytes()
        for path in sorted(_PACKAGE.rglob("*"))
        if path.suffix in suffixes and path.relative_to(_PACKAGE).parts[0] != "web"
    }
    info = f"sparsefire-{metadata_version()}.dist-info"
    entries[f"{info}/METADATA"] = _metadata_text().encode()
    entries[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: sparsefire\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in entries.items())
    entries[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return _zipped(entries)


def chat_archive() -> bytes | None:
    """An archive of what chat templates need in the page: Jinja2 and the pure Python part of
    MarkupSafe, as installed here. None when Jinja2 is not installed."""
    entries = {}
    for name in ("jinja2", "markupsafe"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return None
        home = Path(spec.origin).parent
        for path in sorted(home.rglob("*.py")):
            entries[f"{name}/{path.relative_to(home).as_posix()}"] = path.read_bytes()
        entries[f"{name}/LICENSE.txt"] = _licence_of(name)
    return _zipped(entries)


def calibration_archive() -> bytes | None:
    """An archive of what calibration needs in the page: the part of the gguf package, as installed
    here, that writes files. None when it is not installed."""
    spec = importlib.util.find_spec("gguf")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    modules = ("constants", "lazy", "quants", "gguf_writer")
    entries = {f"gguf/{name}.py": (home / f"{name}.py").read_bytes() for name in modules}
    entries["gguf/__init__.py"] = b"from .constants import *\nfrom .gguf_writer import *\n"
    entries["gguf/LICENSE.txt"] = _licence_of("gguf")
    return _zipped(entries)


def _licence_of(distribution: str) -> bytes:
    files = metadata.files(distribution) or []
    texts = [Path(str(file.locate())).read_bytes() for file in files if "LICENSE" in file.name]
    return b"\n".join(texts)


def _zipped(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _metadata_text() -> str:
    try:
        text = metadata.distribution("sparsefire").read_text("METADATA")
    except metadata.PackageNotFoundError:
        text = None
    lines = ("Metadata-Version: 2.1", "Name: sparsefire", f"Version: {metadata_version()}")
    return text or "\n".join((*lines, "Requires-Dist: numpy>=1.26", ""))


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"
