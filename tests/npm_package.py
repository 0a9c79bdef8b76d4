"""Packages of npm that tests use, kept in the project's cache."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.lib.web_drivers import find_program
from shared import locked, unpack
from sparsefire.page.fetch import check_digest


def npm_package(name: str, version: str, sha256: str) -> Path:
    """The directory of a package's files, fetched at first. `name` has no scope. Errors:
    `FileNotFoundError` (npm is missing), `CalledProcessError` (it cannot fetch), `OSError` (another
    digest)."""
    with locked(f"{name}-{version}") as home:
        if not (home / "package").exists():
            home.mkdir(exist_ok=True)
            command = [find_program("npm"), "pack", "--silent", f"{name}@{version}"]
            subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)
            tarball = home / f"{name}-{version}.tgz"
            check_digest(tarball, sha256)
            unpack(tarball, home / "unpacked")
            (home / "unpacked" / "package").rename(home / "package")
            tarball.unlink()
    return home / "package"
