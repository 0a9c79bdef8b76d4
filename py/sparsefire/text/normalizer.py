"""SentencePiece's normalisation of a text before tokenising."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ModelFileError
from .vocabulary import BLANK, flag

_KEY = "tokenizer.ggml.precompiled_charsmap"
# How `convert` records where a space is prepended, which GGUF has no key for; see `Normalizer`.
SCHEME_KEY = "tokenizer.sparsefire.prepend_scheme"
_SCHEMES = ("every", "always", "first")


class Normalizer:
    """Replaces characters by those that the vocabulary was trained on, then handles spaces.

    add_blank: prepends a space to a text that is not empty. trim: strips spaces at both ends and
    collapses runs of them. charsmap: replacements, or None. scheme: where a space is prepended:
    "every" (each part of a text between special tokens), "always" (each part that does not begin
    with one) or "first" (the start of a text that does not begin with one), as Metaspace's
    `prepend_scheme` of the tokenizers package has it. lowercase: capitals become small letters, one
    at a time. blank: what a space becomes.
    """

    def __init__(
        self,
        add_blank: bool,
        trim: bool,
        charsmap: CharsMap | None = None,
        scheme: str = "every",
        lowercase: bool = False,
        blank: str = BLANK,
    ) -> None:
        if scheme not in _SCHEMES:
            raise ModelFileError(
                f"key '{SCHEME_KEY}' is {scheme!r}; expected one of {', '.join(_SCHEMES)}"
            )
        self.add_blank = add_blank
        self._scheme = scheme
        self._trim = trim
        self._charsmap = charsmap
        self._lowercase = lowercase
        self._blank = blank

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], *, trim: bool) -> Normalizer:
        """From a file's metadata; `trim` is the default of a missing key."""
        stored = metadata.get(_KEY)
        charsmap = None
        if stored is not None:
            if getattr(getattr(stored, "dtype", None), "itemsize", 0) != 1:
                raise ModelFileError(f"key '{_KEY}' is not a list of bytes")
            charsmap = CharsMap(stored.tobytes())
        return cls(
            flag(metadata, "add_space_prefix", True),
            flag(metadata, "remove_extra_whitespaces", trim),
            charsmap,
            metadata.get(SCHEME_KEY, "every"),
        )

    @classmethod
    def plain(cls, metadata: Mapping[str, Any], *, blank: str) -> Normalizer:
        """`blank` for spaces, small letters where a file's metadata wants them, and no more."""
        lowercase = flag(metadata, "normalizer.lowercase", False)
        return cls(add_blank=False, trim=False, lowercase=lowercase, blank=blank)

    def normalize(self, text: str, starts: bool) -> str:
        """The normalised text, with "▁" for spaces. `starts`: it is the start of a whole text, and
        not what follows a special token."""
        if self._charsmap is not None:
            text = self._charsmap.replace(text)
        if self._lowercase:
            text = lowered(text)
        if self._trim:
            # A "▁" in the text itself is a space only at the end, as in the reference.
            text = re.sub(" +", " ", text).lstrip(" ").rstrip(f" {BLANK}")
        if text and self.add_blank and self._prepends(text, starts):
            text = f" {text}"
        return text.replace(" ", self._blank)

    def _prepends(self, text: str, starts: bool) -> bool:
        if self._scheme == "every":
            return True
        return (starts or self._scheme == "always") and not text.startswith((" ", BLANK))


def lowered(text: str) -> str:
    """The text in small letters, one at a time: a sigma at the end of a word is no other one."""
    return text.replace("Σ", "σ").lower()


class CharsMap:
    """SentencePiece's table of replacements: a double-array trie (Aoe 1989) from UTF-8 to the
    offsets of NUL-terminated strings after it. The longest entry wins.

    `ModelFileError` when the table is not of that form.
    """

    def __init__(self, blob: bytes) -> None:
        size = int.from_bytes(blob[:4], "little")
        if len(blob) < 4 or size % 4 or size > len(blob) - 4:
            raise ModelFileError(f"key '{_KEY}' is damaged: {len(blob)} bytes, a trie of {size}")
        self._units: list[int] = np.frombuffer(blob, "<u4", size // 4, 4).tolist()
        self._texts = blob[4 + size :]
        self._known: dict[int, str] = {}

    def replace(self, text: str) -> str:
        """The text with every entry replaced."""
        raw = text.encode("utf-8")
        parts: list[str] = []
        at = kept = 0
        while at < len(raw):
            length, found = self._longest(raw, at)
            if found is not None:
                parts += (raw[kept:at].decode("utf-8"), found)
                at = kept = at + length
            else:
                first = raw[at]
                at += 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        return "".join(parts) + raw[kept:].decode("utf-8")

    def _longest(self, raw: bytes, start: int) -> tuple[int, str | None]:
        """Length in bytes and replacement of the longest entry at a position."""
        units = self._units
        count = len(units)
        length, found = 0, -1
        place = _offset(units[0]) if count else 0
        for at in range(start, len(raw)):
            byte = raw[at]
            place ^= byte
            if place >= count:
                break
            unit = units[place]
            if unit & 0x800000FF != byte:  # the label of a unit; bit 31 marks values
                break
            place ^= _offset(unit)
            if unit >> 8 & 1 and place < count:  # an entry ends here, and the unit holds its value
                length, found = at + 1 - start, units[place] & 0x7FFFFFFF
        return length, None if found < 0 else self._text(found)

    def _text(self, place: int) -> str:
        if place not in self._known:
            end = self._texts.find(b"\0", place)
            if end < 0:
                raise ModelFileError(f"key '{_KEY}' is damaged: a replacement lies outside")
            self._known[place] = self._texts[place:end].decode("utf-8", "replace")
        return self._known[place]


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)
