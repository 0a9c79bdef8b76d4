"""Text of files that people are shown: model files are untrusted, and terminals obey what they
print."""

from __future__ import annotations

import json
import re
from collections.abc import Sized

_SHOWN_CHARACTERS = 80  # of a text in a message

# Control characters (escape codes, line breaks), marks that reorder a line, lone surrogates (bytes
# that are not UTF-8), and the two line breaks outside of ASCII.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str) -> str:
    """The text in one line, in which U+FFFD stands for each character that is not shown as
    itself."""
    return _UNSHOWN.sub("\ufffd", text)


def shown_value(value: object) -> str:
    """A value of a file's metadata, for messages: a text in quotes, a list by its length."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        start = shown(value[:_SHOWN_CHARACTERS])
        return f"'{start}'" if len(value) <= _SHOWN_CHARACTERS else f"'{start}…'"
    if isinstance(value, Sized):
        return f"a list of {len(value)}"
    return str(value)


def json_line(value: object) -> str:
    """JSON in one line, in which such characters are escaped, and others are not."""
    return _UNSHOWN.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
