"""PLaMo 2's vocabulary (`tokenizer.ggml.model` = "plamo2"): the tokens with the highest sum of
scores, in ten-thousandths; of equally good ones the first is the longest, then the second, and so
on. Characters without a token are spelt in bytes. There is no normalisation, and a space is one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import ModelFileError
from .sentencepiece import byte_tokens, check_scores
from .vocabulary import TokenType, Vocabulary

_STEPS = 10_000  # of a score
_SPELT = 10_000_000  # what a character without a token costs, in these
_MOST = 2 * _SPELT  # what a token may cost
_MARK = "\ufeff"  # a byte order mark, which is left out at the beginning


class LeastCost:
    """Cuts text into the tokens that cost least."""

    def __init__(self, vocabulary: Vocabulary, scores: Sequence[float]) -> None:
        check_scores(vocabulary, scores)
        self._vocabulary = vocabulary
        self._byte_of_id = byte_tokens(vocabulary)
        self._id_of_byte = {byte: token for token, byte in self._byte_of_id.items()}
        if len(self._id_of_byte) < 256:
            raise ModelFileError("'tokenizer.ggml.tokens' lacks tokens for some bytes")
        self._costs: dict[str, tuple[int, int]] = {}  # name → cost, id
        lengths: dict[str, set[int]] = {}
        kinds = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        for token in vocabulary.of_type(*kinds):
            name, scaled = vocabulary.tokens[token], scores[token] * _STEPS
            cost = -int(math.copysign(math.floor(abs(scaled) + 0.5), scaled))
            if name and cost < _MOST:
                self._costs[name] = cost, token  # of several with a name the last
                lengths.setdefault(name[0], set()).add(len(name))
        self._lengths = {first: sorted(each, reverse=True) for first, each in lengths.items()}

    def encode(self, text: str, ids: list[int], starts: bool) -> None:
        """Appends the tokens of a text without special tokens. `starts` makes no difference."""
        text = text.removeprefix(_MARK)
        size = len(text)
        costs = [0] * (size + 1)  # of the text from here on
        best = [(0, -1)] * size  # length and id of the token here; -1: spelt
        for at in range(size - 1, -1, -1):
            least, chosen = costs[at + 1] + _SPELT, (1, -1)
            for length in self._lengths.get(text[at], ()):
                found = self._costs.get(text[at : at + length]) if at + length <= size else None
                if found is None:
                    continue
                cost = costs[at + length] + found[0]
                if cost < least or (cost == least and chosen[1] < 0):
                    least, chosen = cost, (length, found[1])
            costs[at], best[at] = least, chosen
        at = 0
        while at < size:
            length, token = best[at]
            if token < 0:
                ids += [self._id_of_byte[byte] for byte in text[at].encode("utf-8")]
            else:
                ids.append(token)
            at += length

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        byte = self._byte_of_id.get(token)
        if byte is not None:
            return bytes([byte])
        return self._vocabulary.tokens[token].encode("utf-8", "surrogateescape")

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a whole text, as they are: nothing is put before a text."""
        return raw

    def __repr__(self) -> str:
        return f"{len(self._costs)} tokens by least cost"
