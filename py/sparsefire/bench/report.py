"""What the reports of all benchmarks have."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where something was measured, and how often."""

    backend: str
    isa: str
    threads: int
    repeats: int

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)
