"""What this machine offers: hosts, instruction sets and threads, and neural processors (NPUs),
which the core does not use."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import SparsefireError
from .core import count_of
from .hosts import BACKENDS, open_core

__all__ = ["Devices", "HostInfo", "devices"]

_ACCELERATORS = Path("/sys/class/accel")  # Linux's compute accelerators, NPUs among them


@dataclass(frozen=True)
class HostInfo:
    """A host that the core can run on.

    `isas`: instruction sets compiled in, best first; `supported`: those that this machine can run;
    `threads`: the default number; `reason`: why the host is not available ("" when it is);
    `note`: why there are not more threads, or not the fastest instructions ("" when there are).
    """

    name: str
    available: bool
    isas: tuple[str, ...] = ()
    supported: tuple[str, ...] = ()
    threads: int = 0
    version: str = ""
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Devices:
    """The result of `devices()`. `str()` formats it as a short table.

    `npus`: the neural processors that Linux lists, by name and driver; None on other systems. The
    core uses none of them.
    """

    hosts: tuple[HostInfo, ...]
    npus: tuple[str, ...] | None = None

    def __str__(self) -> str:
        lines = []
        for host in self.hosts:
            if host.available:
                others = [isa for isa in host.isas if isa not in host.supported]
                threads = count_of(host.threads, "thread")
                text = f"{', '.join(host.supported)}; {threads}"
                if others:
                    text += f" (not on this machine: {', '.join(others)})"
                if host.note:
                    text += f" ({host.note})"
            else:
                text = f"not available: {host.reason}"
            lines.append(f"{host.name:<9} {text}")
        found = "not looked for on this system" if self.npus is None else "none found"
        found = ", ".join(self.npus or ()) or found
        lines.append(f"{'npu':<9} {found}; the core uses no NPU")
        return "\n".join(lines)


def devices() -> Devices:
    """What this machine offers: each host with its instruction sets and threads, and the NPUs,
    which the core does not use."""
    return Devices(tuple(_host_info(name) for name in BACKENDS), _npus())


def _npus() -> tuple[str, ...] | None:
    if sys.platform != "linux":
        return None
    try:
        found = sorted(_ACCELERATORS.iterdir())
    except OSError:  # a kernel without the class
        return ()
    return tuple(f"{each.name} ({(each / 'device' / 'driver').resolve().name})" for each in found)


def _host_info(name: str) -> HostInfo:
    try:
        core = open_core(name)
    except SparsefireError as error:
        return HostInfo(name, False, reason=str(error))
    return HostInfo(
        name,
        True,
        tuple(core.isas()),
        tuple(core.supported_isas()),
        core.threads,
        core.text("sf_version") or "",
        note="; ".join(filter(None, (core.note, core.faster()))),
    )
