"""What this machine really offers to the core: hosts, instruction sets, threads, and neural
processors (NPUs)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ..errors import ArgumentError, BackendError, SparsefireError
from . import core as _core

__all__ = ["Devices", "HostInfo", "NpuInfo", "NpuProvider", "devices", "open_npu", "register_npu"]


@dataclass(frozen=True)
class HostInfo:
    """One place where the core can run.

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
class NpuInfo:
    """What one NPU provider found: device names, or the reason why there are none."""

    provider: str
    names: tuple[str, ...] = ()
    reason: str = ""


@runtime_checkable
class NpuProvider(Protocol):
    """Experimental: something that can run the dense part of a layer on a neural processor.

    `find` must be quick, must not raise, and must report only devices that it can really use.
    """

    name: str

    def find(self) -> NpuInfo:
        """The devices that can be used now, or the reason why there are none."""
        ...

    def open(self, device: str) -> object:
        """Opens one of the devices that `find` named."""
        ...


@dataclass(frozen=True)
class Devices:
    """The answer of `devices()`. `str()` gives it as a short table."""

    hosts: tuple[HostInfo, ...]
    npus: tuple[NpuInfo, ...] = field(default=())

    def __str__(self) -> str:
        lines = []
        for host in self.hosts:
            if host.available:
                others = [isa for isa in host.isas if isa not in host.supported]
                threads = _core.count_of(host.threads, "thread")
                text = f"{', '.join(host.supported)}; {threads}"
                if others:
                    text += f" (not on this machine: {', '.join(others)})"
                if host.note:
                    text += f" ({host.note})"
            else:
                text = f"not available: {host.reason}"
            lines.append(f"{host.name:<9} {text}")
        for npu in self.npus:
            lines.append(
                f"{'npu':<9} {', '.join(npu.names) or 'none found'}: {npu.reason or npu.provider}"
            )
        return "\n".join(lines)


_providers: dict[str, NpuProvider] = {}


def register_npu(provider: NpuProvider) -> None:
    """Makes an NPU provider known under its name. Raises `ArgumentError` when the name is taken."""
    if provider.name in _providers:
        raise ArgumentError(f"an NPU provider named {provider.name!r} is already registered")
    _providers[provider.name] = provider


def open_npu(name: str, device: str | None = None) -> object:
    """Opens a device (default: the first one) of the NPU provider `name`. Raises `BackendError`
    when there is none."""
    provider = _providers.get(name)
    if provider is None:
        known = ", ".join(sorted(_providers)) or "none"
        raise BackendError(
            f"no NPU provider named {name!r} (registered: {known}); "
            'use use_backend("auto") to run on the processor'
        )
    info = provider.find()
    if not info.names:
        raise BackendError(f"the NPU provider {name!r} found no device: {info.reason}")
    if device is not None and device not in info.names:
        raise BackendError(
            f"the NPU provider {name!r} has no device {device!r}; it has: {', '.join(info.names)}"
        )
    return provider.open(device or info.names[0])


def devices() -> Devices:
    """What this machine offers to the core: each host with its instruction sets and threads, and
    every NPU found."""
    hosts = tuple(_host_info(name) for name in _core.BACKENDS)
    npus = tuple(provider.find() for provider in _providers.values())
    if not npus:
        npus = (
            NpuInfo("none", (), "no NPU provider is installed, and the core itself drives no NPU"),
        )
    return Devices(hosts, npus)


def _host_info(name: str) -> HostInfo:
    try:
        core = _core.open_core(name)
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
