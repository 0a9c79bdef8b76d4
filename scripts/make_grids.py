#!/usr/bin/env python3
"""Writes core_c/src/formats/grids.h: the points of the formats that store numbers of points, out of
the `gguf` package, which has GGUF's own tables.

    .venv/bin/python scripts/make_grids.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import quants

HEADER = Path(__file__).resolve().parent.parent / "core_c" / "src" / "formats" / "grids.h"
# Class of the gguf package, and what its table holds; of four or eight coordinates each.
GRIDS = {
    "IQ2_XXS": "magnitudes",
    "IQ2_XS": "magnitudes",
    "IQ2_S": "magnitudes",
    "IQ3_XXS": "magnitudes",
    "IQ3_S": "magnitudes",
    "IQ1_S": "weights",
}
OPENING = """\
/* The points of IQ1, IQ2 and IQ3, which quants number: scripts/make_grids.py makes this file. A
 * point of eight coordinates has two bits for each, one of four has four, from the lowest bits on:
 * the places of the coordinates among the values that they can have. */
#ifndef SF_GRIDS_H
#define SF_GRIDS_H

#include <stdint.h>

/* clang-format off */
"""
PER_LINE = 16


def table(name: str) -> str:
    """The C table of a format's points."""
    kind = getattr(quants, name)
    kind.init_grid()
    points = kind.grid.reshape(kind.grid_shape)
    places = np.searchsorted(np.array(kind.grid_map, np.float32), points).astype(np.uint32)
    bits = 16 // places.shape[1]
    codes = (places << (bits * np.arange(places.shape[1], dtype=np.uint32))).sum(axis=1)
    lines = [
        ", ".join(f"0x{code:04x}" for code in codes[at : at + PER_LINE])
        for at in range(0, len(codes), PER_LINE)
    ]
    values = ", ".join(f"{value}" for value in kind.grid_map)
    body = ",\n  ".join(lines)
    return (
        f"/* {name}: {GRIDS[name]} of {values}. */\n"
        f"static const uint16_t sf_{name.lower()}_grid[{len(codes)}] = {{\n  {body}}};\n"
    )


def header() -> str:
    """The text of the header."""
    tables = "\n".join(map(table, GRIDS))
    return f"{OPENING}\n{tables}/* clang-format on */\n\n#endif\n"


def main() -> None:
    """Writes it."""
    HEADER.write_text(header(), encoding="utf-8")


if __name__ == "__main__":
    main()
