"""Makes a wheel with a compiled extension out of one without.

python add_extension.py WHEEL EXTENSION TAG DIRECTORY

Writes a wheel with the tag TAG (python-abi-platform) into DIRECTORY: WHEEL's files, and EXTENSION
as the package's module core._native. The format: PyPA's "Binary distribution format" specification.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path


def record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def retagged(wheel_file: bytes, tag: str) -> bytes:
    """The WHEEL file for the tag, of a wheel that is not pure Python."""
    lines = []
    for line in wheel_file.decode().splitlines():
        key = line.partition(":")[0]
        if key == "Root-Is-Purelib":
            line = "Root-Is-Purelib: false"
        if key == "Tag":
            line = f"Tag: {tag}"
        lines.append(line)
    return ("\n".join(lines) + "\n").encode()


def add_extension(wheel: Path, extension: Path, tag: str, directory: Path) -> Path:
    """Writes the wheel and returns its path."""
    name, version = wheel.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist() if entry[-1] != "/"}
    files[f"{name}/core/{extension.name}"] = extension.read_bytes()
    files[f"{info}/WHEEL"] = retagged(files[f"{info}/WHEEL"], tag)
    del files[f"{info}/RECORD"]
    record = [record_line(entry, data) for entry, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in files.items():
            archive.writestr(entry, data)
    return made


if __name__ == "__main__":
    wheel, extension, tag, directory = sys.argv[1:]
    print(add_extension(Path(wheel), Path(extension), tag, Path(directory)))
