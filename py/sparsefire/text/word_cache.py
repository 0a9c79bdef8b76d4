"""Tokens of words that were seen before."""

from __future__ import annotations

_WORDS = 1 << 16
_LETTERS = 64  # longer words are hardly ever seen again


class WordCache(dict[str, list[int]]):
    """Words and their tokens, of bounded size: look a word up with ``get``, and ``remember`` the
    tokens of one that is not there."""

    def remember(self, word: str, tokens: list[int]) -> list[int]:
        """Keeps the tokens of a word and returns them."""
        if len(word) <= _LETTERS:
            if len(self) >= _WORDS:
                self.clear()
            self[word] = tokens
        return tokens
