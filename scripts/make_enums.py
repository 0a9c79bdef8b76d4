#!/usr/bin/env python3
"""Writes py/sparsefire/core/enums.py: the enumerations of core_c/include/sparsefire.h, for Python.

    scripts/make_enums.py

Run it after a change of the header's enumerations; a test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "core_c" / "include" / "sparsefire.h"
MODULE = ROOT / "py" / "sparsefire" / "core" / "enums.py"

_OPENING = '''\
"""The C core's enumerations. scripts/make_enums.py makes this module from sparsefire.h, which says
what each value means: a member is called as there, without "SF_"."""

from __future__ import annotations

from enum import IntEnum
'''


def enums(header: str) -> dict[str, dict[str, int]]:
    """The enumerations in the text of a header: their names, and the value of each enumerator.

    Values are literals, or shifts of literals. `ValueError` for an enumeration without a name, or
    an enumerator without a value.
    """
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    found: dict[str, dict[str, int]] = {}
    for name, body in re.findall(r"\benum\s*(\w*)\s*\{(.*?)\}", text, re.DOTALL):
        if not name:
            raise ValueError(f"an enumeration without a name: {body.strip()}")
        found[name] = {}
        for line in filter(None, map(str.strip, body.split(","))):
            match = re.fullmatch(r"(\w+)\s*=\s*(-?\d+)(?:\s*<<\s*(\d+))?", line)
            if match is None:
                raise ValueError(f"{name}: not an enumerator with a value: {line}")
            found[name][match[1]] = int(match[2]) << int(match[3] or 0)
    return found


def module(header: str) -> str:
    """The text of the module for the text of a header."""
    lines = [_OPENING]
    for name, members in enums(header).items():
        words = name.removeprefix("sf_").split("_")
        lines.append(f"\nclass {''.join(map(str.capitalize, words))}(IntEnum):")
        lines += [f"    {each.removeprefix('SF_')} = {value}" for each, value in members.items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    MODULE.write_text(module(HEADER.read_text(encoding="utf-8")), encoding="utf-8")
