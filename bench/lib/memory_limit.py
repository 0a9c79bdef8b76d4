"""Processes with limited memory, page cache included: Linux control groups of either version."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .peer_files import MissingPeer

_ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_group(nbytes: int) -> Iterator[Path]:
    """A group below that of this process, which is removed at the end; write the id of a process
    to its file ``cgroup.procs``. `MissingPeer` where groups cannot be made."""
    own, limit = _own_group()
    group = own / f"bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(nbytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise MissingPeer(
            f"memory cannot be limited here ({error}): run as root, or in a control group of yours"
        ) from error
    try:
        yield group
    finally:
        for _ in range(50):  # until the kernel has noticed that its processes ended
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _own_group() -> tuple[Path, str]:
    """The control group of this process for memory, and the file of its limit."""
    lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if "memory" in kinds.split(","):
            return _ROOT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    path = lines[-1].split(":", 2)[2]
    return _ROOT / path.lstrip("/"), "memory.max"


def forget(path: Path) -> None:
    """Drops a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
