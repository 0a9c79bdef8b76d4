"""A row of a comparison, and how rows are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .timing import Times, ratio


@dataclass(frozen=True)
class Row:
    """One comparison. ``value`` is mostly how many times as fast ours is as the peer; where it is
    something else, ``what`` says so. ``noise`` is the ratio of two timings of ours in the same
    run."""

    section: str
    what: str
    value: float
    ours: Times | None = None
    peer: Times | None = None
    peer_name: str = ""
    noise: float | None = None

    @classmethod
    def compare(
        cls,
        section: str,
        what: str,
        times: Mapping[str, Times],
        ours: str = "ours",
        peer: str = "llama.cpp",
        again: str = "again",
    ) -> Row:
        """How many times as fast ``ours`` is as ``peer``; ``again`` is ours, timed once more."""
        mine, theirs = times[ours], times[peer]
        noise = ratio(times[again], mine)
        return cls(section, what, ratio(theirs, mine), mine, theirs, peer, noise)

    def __str__(self) -> str:
        parts = [f"{self.what}: {self.value:.3g}"]
        if self.ours is not None:
            parts.append(f"ours {_times(self.ours)}")
        if self.peer is not None:
            parts.append(f"{self.peer_name} {_times(self.peer)}")
        if self.noise is not None:
            parts.append(f"noise {self.noise:.2f}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in milliseconds."""
        report: dict[str, Any] = {
            "section": self.section,
            "what": self.what,
            "value": self.value,
            "noise": self.noise,
        }
        for name, times in (("ours", self.ours), (self.peer_name or "peer", self.peer)):
            if times is not None:
                report[name] = {
                    "median_ms": 1e3 * times.median,
                    "quartiles_ms": [1e3 * each for each in times.quartiles],
                    "repeats": len(times.seconds),
                }
        return report


def _times(times: Times) -> str:
    low, high = times.quartiles
    return f"{1e3 * times.median:.4g} ms ({1e3 * low:.4g} … {1e3 * high:.4g})"


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = [
        "| what | value | ours, ms (quartiles) | peer, ms (quartiles) | noise |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ours = _times(row.ours).replace(" ms", "") if row.ours else ""
        peer = f"{row.peer_name} {_times(row.peer).replace(' ms', '')}" if row.peer else ""
        noise = "" if row.noise is None else f"{row.noise:.2f}"
        what = f"{row.section}: {row.what}"
        lines.append(f"| {what} | {row.value:.2f} | {ours} | {peer} | {noise} |")
    return "\n".join(lines)
