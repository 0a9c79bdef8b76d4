"""Text of files that people are shown: model files are untrusted, and terminals obey what they
print."""

from __future__ import annotations

import json
import re

# Control characters (escape codes, line breaks), marks that reorder a line, lone surrogates (bytes
# that are not UTF-8), and the two line breaks outside of ASCII.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str) -> str:
    """The text in one line, in which U+FFFD stands for each character that is not shown as
    itself."""
    return _UNSHOWN.sub("\ufffd", text)


def json_line(value: object) -> str:
    """JSON in one line, in which such characters are escaped, and others are not."""
    return _UNSHOWN.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
