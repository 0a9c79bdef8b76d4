"""The architectures that are supported, by their names in files."""

from __future__ import annotations

from . import decoder, mamba2, nemotron_h, smallthinker
from .architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    **decoder.ROWS,
    **smallthinker.ROWS,
    **nemotron_h.ROWS,
    **mamba2.ROWS,
}
