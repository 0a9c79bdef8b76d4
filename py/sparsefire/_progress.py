"""The progress callback of long operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float], object]
"""Called with what is being done and the share of the whole that is done, 0 … 1."""
