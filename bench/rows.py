"""A row of the comparison, and how rows are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timing import Times, ratio


@dataclass(frozen=True)
class Row:
    """One comparison. ``value`` is what ``target`` is about: mostly how many times as fast ours is
    as the peer. ``noise`` is the same ratio of ours with itself, timed twice in the same run."""

    section: str
    what: str
    value: float
    target: float
    ours: Times | None = None
    peer: Times | None = None
    peer_name: str = ""
    noise: float | None = None
    at_most: bool = False

    @classmethod
    def compare(
        cls,
        section: str,
        what: str,
        target: float,
        ours: Times,
        again: Times,
        peer: Times,
        peer_name: str,
    ) -> Row:
        """How many times as fast ours is as the peer."""
        return cls(
            section, what, ratio(peer, ours), target, ours, peer, peer_name, ratio(again, ours)
        )

    @property
    def reached(self) -> bool:
        """The target is reached."""
        return self.value <= self.target if self.at_most else self.value >= self.target

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        parts = [f"{self.what}: {self.value:.3g} (target {sign} {self.target:g})"]
        if self.ours is not None:
            parts.append(f"ours {_times(self.ours)}")
        if self.peer is not None:
            parts.append(f"{self.peer_name} {_times(self.peer)}")
        if self.noise is not None:
            parts.append(f"with itself {self.noise:.2f}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in milliseconds."""
        report: dict[str, Any] = {
            "section": self.section,
            "what": self.what,
            "value": self.value,
            "target": self.target,
            "at_most": self.at_most,
            "reached": self.reached,
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
        "| what | ratio | target | reached | ours, ms (quartiles) | peer, ms (quartiles) | noise |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≤" if row.at_most else "≥"
        ours = _times(row.ours).replace(" ms", "") if row.ours else ""
        peer = f"{row.peer_name} {_times(row.peer).replace(' ms', '')}" if row.peer else ""
        noise = "" if row.noise is None else f"{row.noise:.2f}"
        lines.append(
            f"| {row.section}: {row.what} | {row.value:.2f} | {sign} {row.target:g} | "
            f"{'yes' if row.reached else 'no'} | {ours} | {peer} | {noise} |"
        )
    return "\n".join(lines)
