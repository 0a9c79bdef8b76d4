"""Tokenising and detokenising with the vocabulary of a GGUF file."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from .._options import checked, flag, text
from .._shown import shown_value
from ..errors import ArgumentError, ModelFileError, UnsupportedError
from .byte_bpe import ByteLevelBpe
from .least_cost import LeastCost
from .longest_match import LongestMatch
from .normalizer import Normalizer
from .pretokenizer import DEFAULT_RULE, FORM_KEY, PRE_KEY, PreTokenizer, check_rule, pretokenizer
from .sentencepiece import PieceBpe, PieceMerges, Unigram
from .vocabulary import WHITE_SPACE, TokenType, Vocabulary, numbers, strings
from .wordpiece import WordPiece


class Segmenter(Protocol):
    """A tokenising algorithm."""

    def encode(self, text: str, ids: list[int], starts: bool) -> None:
        """Appends the tokens of a text without special tokens; `starts`: nothing precedes it."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a whole text without what `encode` prepends."""


class Tokenizer:
    """Converts text to token ids and back. `from_metadata` creates one from a model file.

    `size` is the number of tokens; `bos` and `eos` are ids or None; `end_ids` contains every id
    that ends a generation; `add_bos` and `add_eos` say whether they are added to a text.
    """

    def __init__(self, vocabulary: Vocabulary, segmenter: Segmenter, kind: str = "") -> None:
        self.vocabulary = vocabulary
        self.kind = kind
        self._segmenter = segmenter
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], name: str = "the model", *, pre: str | None = None
    ) -> Tokenizer:
        """The tokeniser of a GGUF file's metadata; `name` is the name of the file in messages.

        pre: name of the pre-tokeniser of a byte-level BPE vocabulary, in place of the file's.

        Errors: `ModelFileError` (a key is missing or invalid), `UnsupportedError` (another kind of
        tokeniser, or an unknown pre-tokeniser), `ArgumentError` (`pre`).
        """
        kind = _kind_of(metadata, name)
        if pre is not None:
            if kind != "gpt2":
                raise ArgumentError(
                    f"pre: {name} has a vocabulary of the kind {kind!r}; only byte-level BPE has "
                    "a pre-tokeniser"
                )
            check_rule(pre)
            metadata = {**metadata, PRE_KEY: pre}
        try:
            return _KINDS[kind](metadata)
        except (ModelFileError, UnsupportedError) as error:
            raise type(error)(f"{name}: {error}") from None

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.vocabulary.size

    @property
    def bos(self) -> int | None:
        """The BOS token's id, or None."""
        return self.vocabulary.bos

    @property
    def eos(self) -> int | None:
        """The EOS token's id, or None."""
        return self.vocabulary.eos

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a generation."""
        return self.vocabulary.end_ids

    @property
    def add_bos(self) -> bool:
        """True if `encode` prepends `bos` by default."""
        return self.vocabulary.add_bos

    @property
    def add_eos(self) -> bool:
        """True if `encode` appends `eos` by default."""
        return self.vocabulary.add_eos

    def control_ids(self, names: Iterable[str]) -> frozenset[int]:
        """The ids of those names that are control tokens', which leave no text."""
        found = {self.vocabulary.ids.get(name) for name in names}
        return frozenset(
            token
            for token in found
            if token is not None and self.vocabulary.types[token] == TokenType.CONTROL
        )

    # -- text to ids -----------------------------------------------------------------------------

    @checked(text=text, add_bos=flag, add_eos=flag, special=flag)
    def encode(
        self,
        text: str,
        *,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
        special: bool = True,
    ) -> list[int]:
        """Token ids of a text.

        With `special`, names of control tokens in the text (as in "<|endoftext|>") become those
        tokens; otherwise they are ordinary text. `add_bos` and `add_eos` add the BOS and EOS
        tokens; the defaults are the file's, but no second BOS token is added. A lone surrogate is
        read as U+FFFD. `ArgumentError` if the vocabulary lacks a byte or character.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        ids: list[int] = []
        splitter = self.vocabulary.splitter(special)
        parts = [text] if splitter is None else splitter.split(text)
        for index, part in enumerate(self._stripped(parts)):
            if index % 2:
                ids.append(self.vocabulary.ids[part])
            elif part:
                self._segmenter.encode(part, ids, index == 0)
        # By default a text that the caller began with the BOS token does not get another.
        begun = add_bos is None and ids[:1] == [self.bos]
        if (self.add_bos if add_bos is None else add_bos) and not begun:
            ids.insert(0, self._wanted(self.bos, "add_bos", "begins"))
        if self.add_eos if add_eos is None else add_eos:
            ids.append(self._wanted(self.eos, "add_eos", "ends"))
        return ids

    def _stripped(self, parts: list[str]) -> list[str]:
        """Parts of a text, with names of tokens at odd places, without the white space that these
        tokens take."""
        left, right = self.vocabulary.strip_left, self.vocabulary.strip_right
        if not left and not right:
            return parts
        ids, found = self.vocabulary.ids, [*parts]
        for place in range(1, len(parts), 2):
            token = ids[parts[place]]
            if token in left:
                found[place - 1] = found[place - 1].rstrip(WHITE_SPACE)
            if token in right:
                found[place + 1] = found[place + 1].lstrip(WHITE_SPACE)
        return found

    @staticmethod
    def _wanted(token: int | None, argument: str, what: str) -> int:
        if token is None:
            raise ArgumentError(f"{argument}: the vocabulary has no token that {what} a text")
        return token

    # -- ids to text -----------------------------------------------------------------------------

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; none for a control token unless `special`, and none
        for an id between the vocabulary's size and the model's."""
        if not special or token >= self.size:
            hidden = (TokenType.CONTROL, TokenType.UNKNOWN)
            if token >= self.size or self.vocabulary.types[token] in hidden:
                return b""
        raw = self._bytes.get(token)
        if raw is None:
            raw = self._bytes[token] = self._segmenter.token_bytes(token)
        return raw

    def decode(self, ids: Iterable[int], *, special: bool = False, continues: bool = False) -> str:
        """The text of token ids. Control tokens are omitted unless `special`; bytes that are not
        UTF-8 become U+FFFD.

        continues: the ids continue a text. Otherwise the space that some vocabularies prepend to a
        text is removed.

        Errors: `ArgumentError` for a negative id.
        """
        pieces = []
        for token in ids:
            if token < 0:
                raise ArgumentError(f"token id {token} is negative")
            pieces.append(self.token_bytes(int(token), special=special))
        raw = b"".join(pieces)
        return (raw if continues else self._segmenter.strip_start(raw)).decode("utf-8", "replace")

    def streaming_decoder(self, *, special: bool = False) -> StreamingDecoder:
        """A decoder for one token at a time, of ids that continue a text."""
        return StreamingDecoder(self, special=special)

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.size} tokens, {self._segmenter!r})"


class StreamingDecoder:
    """Decodes tokens incrementally, and never returns a partial character."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text completed by this token; it may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token, special=self._special))

    def finish(self) -> str:
        """The rest: U+FFFD if the last character is incomplete, otherwise nothing."""
        return self._decoder.decode(b"", True)


# -- kinds of vocabularies -------------------------------------------------------------------------


def check_tokenizer(metadata: Mapping[str, Any], name: str = "the model") -> None:
    """The errors of `Tokenizer.from_metadata` for a kind of tokeniser, or a pre-tokeniser, that is
    missing or unknown, without reading the vocabulary."""
    kind = _kind_of(metadata, name)
    if _KINDS[kind] is _merges:
        try:
            _rule_of(metadata)
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {error}") from None


def _kind_of(metadata: Mapping[str, Any], name: str) -> str:
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise ModelFileError(f"{name}: key 'tokenizer.ggml.model' is missing: no vocabulary")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsupportedError(
            f"{name}: the tokeniser {shown_value(kind)} is not supported; supported: {_SUPPORTED}"
        )
    return kind


def _rule_of(metadata: Mapping[str, Any]) -> PreTokenizer:
    named = metadata.get(PRE_KEY, "")
    return pretokenizer(DEFAULT_RULE if isinstance(named, str) and not named else named)


def _merges(metadata: Mapping[str, Any]) -> Tokenizer:
    rule = _rule_of(metadata)
    vocabulary = Vocabulary.from_metadata(
        metadata, add_bos=rule.add_bos, add_separator=rule.add_separator
    )
    merges = strings(metadata, "merges")
    if rule.blank is None:
        # A file that names no rule may want another: say so where the kind is shown.
        guessed = ", words by the default rule" if rule.name == DEFAULT_RULE else ""
        segmenter: Segmenter = ByteLevelBpe(vocabulary, merges, rule, metadata.get(FORM_KEY))
        return Tokenizer(vocabulary, segmenter, f"byte-level BPE{guessed}")
    normalizer = Normalizer.plain(metadata, blank=rule.blank)
    segmenter = PieceMerges(vocabulary, merges, normalizer, rule)
    return Tokenizer(vocabulary, segmenter, "BPE")


def _gemma4(metadata: Mapping[str, Any]) -> Tokenizer:
    # Files say that texts get no BOS token, but Gemma 4 wants one.
    return _merges({**metadata, PRE_KEY: "gemma4", "tokenizer.ggml.add_bos_token": True})


def _word_piece(metadata: Mapping[str, Any]) -> Tokenizer:
    keys = "tokenizer.ggml.%s_token_id"
    begin = metadata.get(keys % "bos", metadata.get(keys % "cls", 101))
    end = metadata.get(keys % "seperator", 102)
    # A text stands between these two whatever the file says.
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    both |= {keys % "bos": begin, keys % "eos": end, keys % "seperator": end}
    vocabulary = Vocabulary.from_metadata({**metadata, **both}, add_separator=True, unknown=100)
    return Tokenizer(vocabulary, WordPiece.from_metadata(vocabulary, metadata), "WordPiece")


def _piece_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    vocabulary = Vocabulary.from_metadata(metadata, add_bos=True, bos=1, eos=2, unknown=0)
    normalizer = Normalizer.from_metadata(metadata, trim=False)
    segmenter = PieceBpe(vocabulary, numbers(metadata, "scores"), normalizer)
    return Tokenizer(vocabulary, segmenter, "SentencePiece BPE")


def _unigram(metadata: Mapping[str, Any]) -> Tokenizer:
    vocabulary = Vocabulary.from_metadata(metadata, add_eos=True, eos=1, unknown=2)
    normalizer = Normalizer.from_metadata(metadata, trim=True)
    segmenter = Unigram(vocabulary, numbers(metadata, "scores"), normalizer)
    return Tokenizer(vocabulary, segmenter, "SentencePiece unigram")


def _longest_match(metadata: Mapping[str, Any]) -> Tokenizer:
    vocabulary = Vocabulary.from_metadata(metadata)
    return Tokenizer(vocabulary, LongestMatch(vocabulary), "longest match")


def _least_cost(metadata: Mapping[str, Any]) -> Tokenizer:
    vocabulary = Vocabulary.from_metadata(metadata, bos=1, eos=2, unknown=0)
    return Tokenizer(vocabulary, LeastCost(vocabulary, numbers(metadata, "scores")), "least cost")


_KINDS = {
    "gpt2": _merges,
    "llama": _piece_bpe,
    "t5": _unigram,
    "rwkv": _longest_match,
    "bert": _word_piece,
    "gemma4": _gemma4,
    "whitespace": _merges,
    "plamo2": _least_cost,
}
_SUPPORTED = (
    "'gpt2' (byte-level BPE), 'llama' (SentencePiece BPE), 't5' (SentencePiece unigram), 'rwkv' "
    "(longest match), 'bert' (WordPiece), 'gemma4' and 'whitespace' (BPE of characters), 'plamo2' "
    "(least cost)"
)
