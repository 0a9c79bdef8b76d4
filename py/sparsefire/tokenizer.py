"""Byte-level BPE, from the vocabulary and merges in a GGUF file.

Text is cut into words by the vocabulary's own splitting rule (`pretokenizer`), a word's UTF-8
bytes are written as 256 printable characters, and neighbours are merged, the pair that was
learnt first first (Sennrich et al. 2016; Radford et al. 2019).
"""

from __future__ import annotations

import codecs
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .errors import ArgumentError, ModelFileError, UnsupportedError
from .pretokenizer import PreTokenizer, pretokenizer

# Token types of `tokenizer.ggml.token_type`.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5

_CACHE_WORDS = 1 << 16
_CACHE_LETTERS = 64  # longer words are hardly ever seen again


def _byte_letters() -> list[str]:
    """The printable character that stands for each byte: itself when it is printable Latin-1,
    else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, following = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else following))
        following += byte not in printable
    return letters


_LETTER_OF_BYTE = _byte_letters()
_BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(_LETTER_OF_BYTE)}


class Tokenizer:
    """Turns text into token ids and back.

    `size` is the number of tokens; `bos` and `eos` are ids or None; `end_ids` holds every id
    that ends a generation; `add_bos` says whether a text starts with `bos`.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[str],
        pre: str = "gpt-2",
        *,
        token_types: Sequence[int] | None = None,
        bos: int | None = None,
        eos: int | None = None,
        end_ids: Iterable[int] = (),
        unknown: int | None = None,
        add_bos: bool | None = None,
    ) -> None:
        self._rule: PreTokenizer = pretokenizer(pre)
        self._tokens = tokens
        self._types = [1] * len(tokens) if token_types is None else list(token_types)
        if len(self._types) != len(tokens):
            raise ModelFileError(
                f"'tokenizer.ggml.token_type' has {len(self._types)} entries for {len(tokens)} "
                "tokens"
            )
        self._ids = {token: index for index, token in enumerate(tokens)}
        self.size = len(tokens)
        self.bos = self._checked_id("bos", bos)
        self.eos = self._checked_id("eos", eos)
        self._unknown = self._checked_id("unknown", unknown)
        ends = {*end_ids} if self.eos is None else {self.eos, *end_ids}
        self.end_ids = frozenset(ends)
        self.add_bos = self.bos is not None and (self._rule.add_bos if add_bos is None else add_bos)
        self._byte_ids = [self._ids.get(letter, -1) for letter in _LETTER_OF_BYTE]
        self._merges = self._merge_table(merges)
        self._cache: dict[str, list[int]] = {}
        self._splitters: dict[bool, re.Pattern[str] | None] = {}
        self._bytes: list[bytes] = []

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], name: str = "the model") -> Tokenizer:
        """The tokeniser of a GGUF file's metadata; `name` is what messages call the file.

        Errors: `ModelFileError` (a key is missing or does not fit), `UnsupportedError` (another
        kind of tokeniser, or a splitting rule that is not known).
        """
        kind = metadata.get("tokenizer.ggml.model")
        if kind is None:
            raise ModelFileError(f"{name}: key 'tokenizer.ggml.model' is missing: no vocabulary")
        if kind != "gpt2":
            raise UnsupportedError(
                f"{name}: the tokeniser {kind!r} is not supported; byte-level BPE ('gpt2') is"
            )
        try:
            return cls(
                _strings(metadata, "tokens"),
                _strings(metadata, "merges"),
                metadata.get("tokenizer.ggml.pre", ""),
                token_types=_integers(metadata, "token_type"),
                bos=_token_id(metadata, "bos"),
                eos=_token_id(metadata, "eos"),
                end_ids=[
                    end
                    for end in (_token_id(metadata, "eot"), _token_id(metadata, "eom"))
                    if end is not None
                ],
                unknown=_token_id(metadata, "unknown"),
                add_bos=metadata.get("tokenizer.ggml.add_bos_token"),
            )
        except (ModelFileError, UnsupportedError) as error:
            raise type(error)(f"{name}: {error}") from None

    def _checked_id(self, name: str, token: int | None) -> int | None:
        if token is not None and not 0 <= token < self.size:
            raise ModelFileError(
                f"'tokenizer.ggml.{name}_token_id' is {token}, outside the {self.size} tokens"
            )
        return token

    def _merge_table(self, merges: Sequence[str]) -> dict[tuple[int, int], tuple[int, int]]:
        """(left id, right id) → (rank, id of the joined token)."""
        table: dict[tuple[int, int], tuple[int, int]] = {}
        ids = self._ids
        for rank, merge in enumerate(merges):
            left, space, right = merge.partition(" ")
            try:
                table.setdefault((ids[left], ids[right]), (rank, ids[left + right]))
            except KeyError as error:
                problem = f"needs the token {error}, which the vocabulary lacks"
                if not space:
                    problem = "is not two tokens with a blank between them"
                raise ModelFileError(
                    f"'tokenizer.ggml.merges': merge {rank}, {merge!r}, {problem}"
                ) from None
        return table

    # -- text to ids -----------------------------------------------------------------------------

    def encode(self, text: str, *, add_bos: bool | None = None, special: bool = True) -> list[int]:
        """Token ids of a text.

        With `special`, names of control tokens in the text (as in "<|endoftext|>") become those
        tokens; otherwise they are ordinary text. `add_bos` puts the token that begins a text
        first; by default as the file says. A lone surrogate is read as U+FFFD. `ArgumentError`
        when the vocabulary lacks a byte.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"expected text as str, got {type(text).__name__}")
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        ids: list[int] = []
        if self.add_bos if add_bos is None else add_bos:
            if self.bos is None:
                raise ArgumentError("add_bos: the vocabulary has no token that begins a text")
            ids.append(self.bos)
        splitter = self._splitter(special)
        if splitter is None:
            self._encode_ordinary(text, ids)
            return ids
        for index, part in enumerate(splitter.split(text)):
            if index % 2:
                ids.append(self._ids[part])
            elif part:
                self._encode_ordinary(part, ids)
        return ids

    def _splitter(self, special: bool) -> re.Pattern[str] | None:
        """A pattern that finds the tokens that are matched as they are written, longest first."""
        if special not in self._splitters:
            kinds = (_CONTROL, _USER_DEFINED) if special else (_USER_DEFINED,)
            names = [
                token
                for token, kind in zip(self._tokens, self._types, strict=True)
                if kind in kinds and token
            ]
            names.sort(key=len, reverse=True)
            pattern = "|".join(map(re.escape, names))
            self._splitters[special] = re.compile(f"({pattern})") if names else None
        return self._splitters[special]

    def _encode_ordinary(self, text: str, ids: list[int]) -> None:
        cache = self._cache
        for word in self._rule.split(text):
            known = cache.get(word)
            if known is None:
                known = self._encode_word(word)
                if len(word) <= _CACHE_LETTERS:
                    if len(cache) >= _CACHE_WORDS:
                        cache.clear()
                    cache[word] = known
            ids += known

    def _encode_word(self, word: str) -> list[int]:
        raw = word.encode("utf-8")
        if self._rule.whole_words_first:
            whole = self._ids.get("".join([_LETTER_OF_BYTE[byte] for byte in raw]))
            if whole is not None:
                return [whole]
        symbols = [self._byte_ids[byte] for byte in raw]
        if -1 in symbols:
            if self._unknown is None:
                byte = raw[symbols.index(-1)]
                raise ArgumentError(f"the vocabulary has no token for byte 0x{byte:02x}")
            symbols = [self._unknown if symbol < 0 else symbol for symbol in symbols]
        return _merged(symbols, self._merges) if len(symbols) > 1 else symbols

    # -- ids to text -----------------------------------------------------------------------------

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; none for a control token unless `special`, and none
        for an id between the vocabulary's size and the model's."""
        if not self._bytes:
            self._bytes = [self._raw_bytes(index) for index in range(self.size)]
        if token >= self.size or (not special and self._types[token] in (_CONTROL, _UNKNOWN)):
            return b""
        return self._bytes[token]

    def _raw_bytes(self, token: int) -> bytes:
        text, kind = self._tokens[token], self._types[token]
        if kind in (_CONTROL, _USER_DEFINED, _UNUSED, _UNKNOWN):
            return text.encode("utf-8", "surrogateescape")
        try:
            return bytes([_BYTE_OF_LETTER[letter] for letter in text])
        except KeyError:  # an added token that the file does not mark as such
            return text.encode("utf-8", "surrogateescape")

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of token ids. Control tokens are left out unless `special`; bytes that are not
        UTF-8 become U+FFFD. `ArgumentError` for a negative id."""
        pieces = []
        for token in ids:
            if token < 0:
                raise ArgumentError(f"token id {token} is negative")
            pieces.append(self.token_bytes(int(token), special=special))
        return b"".join(pieces).decode("utf-8", "replace")

    def streaming_decoder(self, *, special: bool = False) -> StreamingDecoder:
        """A decoder that takes one token at a time."""
        return StreamingDecoder(self, special=special)

    def __repr__(self) -> str:
        return f"Tokenizer({self.size} tokens, {len(self._merges)} merges, {self._rule.name})"


class StreamingDecoder:
    """Turns tokens into text as they come, and never gives out half a character."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that is complete with this token; it may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token, special=self._special))

    def finish(self) -> str:
        """What is left: U+FFFD when the last character was not completed, else nothing."""
        return self._decoder.decode(b"", True)


def _merged(symbols: list[int], merges: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Merges neighbours until no merge is left: always the one of lowest rank, and of equal ones
    the leftmost. A heap of candidates over a linked list: n log n for n symbols."""
    count = len(symbols)
    left = list(range(-1, count - 1))
    right = list(range(1, count + 1))
    heap: list[tuple[int, int, int, int]] = []  # rank, position, and the two ids when pushed
    for position, pair in enumerate(pairwise(symbols)):
        found = merges.get(pair)
        if found is not None:
            heap.append((found[0], position, *pair))
    heapq.heapify(heap)
    while heap:
        _, at, first, second = heapq.heappop(heap)
        after = right[at]
        if symbols[at] != first or after >= count or symbols[after] != second:
            continue  # one of the two was merged meanwhile
        symbols[at], symbols[after] = merges[first, second][1], -1
        right[at] = beyond = right[after]
        if beyond < count:
            left[beyond] = at
        for start, end in ((left[at], at), (at, beyond)):
            if start >= 0 and end < count:
                pair = (symbols[start], symbols[end])
                found = merges.get(pair)
                if found is not None:
                    heapq.heappush(heap, (found[0], start, *pair))
    return [symbol for symbol in symbols if symbol >= 0]


def _strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list):
        problem = "is missing" if value is None else "is not a list of strings"
        raise ModelFileError(f"key 'tokenizer.ggml.{name}' {problem}")
    return value


def _integers(metadata: Mapping[str, Any], name: str) -> list[int] | None:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        return None
    if getattr(getattr(value, "dtype", None), "kind", "") not in ("i", "u"):
        raise ModelFileError(f"key 'tokenizer.ggml.{name}' is not a list of integers")
    integers: list[int] = value.tolist()
    return integers


def _token_id(metadata: Mapping[str, Any], name: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ModelFileError(f"key 'tokenizer.ggml.{name}_token_id' is not an integer")
    return value
