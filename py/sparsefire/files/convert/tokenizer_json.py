"""What tokenizer.json says of a text on its way to tokens and back.

Every part is either one that a GGUF file can express, or the conversion is refused and the error
names the part: a part that is ignored would change tokens without a word. Only `truncation` and
`padding` are left out, since they belong to batches and not to the vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ModelFileError, UnsupportedError
from ...text.byte_bpe import merged
from ...text.pretokenizer import (
    DIGIT,
    FORMS,
    GPT2,
    PUNCTUATION,
    THREE_DIGITS,
    pretokenizer,
    rules_of,
)
from ...text.vocabulary import BLANK

_TOP = (
    "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model"
)
_MODEL = (
    "type vocab merges dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk "
    "byte_fallback ignore_merges"
)
_BYTE_LEVEL = "add_prefix_space trim_offsets use_regex"
_METASPACE = "replacement str_rep add_prefix_space prepend_scheme split"
# Part → the key of a sequence's steps, and the types that are known with their options.
_KNOWN: dict[str, tuple[str, dict[str, str]]] = {
    "normalizer": (
        "normalizers",
        {
            "NFC": "",
            "NFKC": "",
            "Prepend": "prepend",
            "Replace": "pattern content",
            "Strip": "strip_left strip_right",
            "Precompiled": "precompiled_charsmap",
            "BertNormalizer": "clean_text handle_chinese_chars strip_accents lowercase",
        },
    ),
    "pre_tokenizer": (
        "pretokenizers",
        {
            "Split": "pattern behavior invert",
            "Digits": "individual_digits",
            "Punctuation": "behavior",
            "ByteLevel": _BYTE_LEVEL,
            "Metaspace": _METASPACE,
            "WhitespaceSplit": "",
            "BertPreTokenizer": "",
        },
    ),
    "post_processor": (
        "processors",
        {
            "ByteLevel": _BYTE_LEVEL,
            "TemplateProcessing": "single pair special_tokens",
            "BertProcessing": "sep cls",
            "RobertaProcessing": "sep cls trim_offsets add_prefix_space",
        },
    ),
    "decoder": (
        "decoders",
        {
            "ByteLevel": _BYTE_LEVEL,
            "Metaspace": _METASPACE,
            "Replace": "pattern content",
            "ByteFallback": "",
            "Fuse": "",
            "Strip": "content start stop",
            "WordPiece": "prefix cleanup",
        },
    ),
}
_FLAGS = ("lstrip", "rstrip", "single_word")
Step = Mapping[str, Any]


class Ends(NamedTuple):
    """Ids of the tokens that the post-processor puts before and after a text, or None; whether a
    second text of a pair has one more before it."""

    bos: int | None
    eos: int | None
    separated: bool = False


class TokenizerJson:
    """Checked reading of a tokenizer.json.

    Errors: `UnsupportedError` naming the part, `ModelFileError` for one that is not well formed.
    """

    def __init__(self, path: Path, values: Step) -> None:
        self.path = path
        self._values = values
        self.check_options("the file", values, _TOP)
        model = values.get("model")
        self.model: Step = model if isinstance(model, Mapping) else {}

    @property
    def kind(self) -> str:
        """The type of the model."""
        return str(self.model.get("type", "BPE"))

    @property
    def bpe(self) -> bool:
        """Whether the model is BPE."""
        return self.kind == "BPE"

    def check_model(self) -> None:
        """Raises unless the model is BPE as GGUF files can describe it."""
        if not self.bpe or not isinstance(self.model.get("vocab"), dict):
            raise UnsupportedError(
                f"{self.path}: a tokeniser of the type {self.model.get('type')!r}; BPE, WordPiece "
                "and Unigram are supported"
            )
        if not isinstance(self.model.get("merges"), list):
            raise ModelFileError(f"{self.path}: the merges are missing")
        self.check_options("'model'", self.model, _MODEL)
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(name):
                raise self.refused("'model'", f"{name} {self.model[name]!r}")

    @property
    def pieces(self) -> bool:
        """Whether the vocabulary is SentencePiece's, with tokens for bytes without a letter."""
        return bool(self.model.get("byte_fallback"))

    def refused(self, part: str, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.path}: {part}: {what} is not supported, and tokens would differ without it"
        )

    def check_options(self, part: str, values: Step, known: str) -> None:
        unknown = sorted(str(key) for key in values.keys() - set(known.split()))
        if unknown:
            raise self.refused(part, f"the option {unknown[0]!r}")

    def steps(self, part: str) -> list[Step]:
        """The steps of a part, which is one or a sequence; each of a known type and options."""
        inner, types = _KNOWN[part]

        def flat(step: Any) -> list[Step]:
            if step is None:
                return []
            if not isinstance(step, Mapping):
                raise ModelFileError(f"{self.path}: {part!r} is not well formed")
            kind = step.get("type")
            if kind == "Sequence":
                self.check_options(f"{part!r} Sequence", step, f"type {inner}")
                parts = step.get(inner)
                if not isinstance(parts, list):
                    raise ModelFileError(f"{self.path}: {part!r} is not well formed")
                return [each for nested in parts for each in flat(nested)]
            if kind not in types:
                raise self.refused(repr(part), str(kind))
            self.check_options(f"{part!r} {kind}", step, f"type {types[kind]}")
            return [step]

        return flat(self._values.get(part))

    # -- byte-level BPE --------------------------------------------------------------------------

    def rule(self, pairs: Sequence[Sequence[str]], pre: str | None) -> str:
        """The name of the pre-tokeniser, recognised by its patterns unless `pre` names it. pairs:
        the merges. The normaliser, decoder and options of the model are checked to fit."""
        for step in self.steps("decoder"):
            if step["type"] != "ByteLevel":
                raise self.refused("'decoder'", f"{step['type']} with byte-level tokens")
        form = self.form()
        whole = bool(self.model.get("ignore_merges"))
        names = self._named_rules(pre)
        # Other readers know only the rule's own form.
        names = [name for name in names if pretokenizer(name).form == form] or names
        for name in names:
            if pretokenizer(name).whole_words_first == whole:
                return name
        self._check_merges(pairs, names[0], whole)
        return names[0]

    def form(self) -> str:
        """Unicode's normalisation form of texts, or ""."""
        forms = [str(step["type"]) for step in self.steps("normalizer")]
        for kind in forms:
            if kind not in FORMS or len(forms) > 1:
                raise self.refused("'normalizer'", f"{', '.join(forms)} with byte-level tokens")
        return forms[0] if forms else ""

    def _named_rules(self, pre: str | None) -> list[str]:
        # The prefix is another matter than the rule, so that naming a rule does not allow it.
        stored = self._values.get("pre_tokenizer")
        inner = stored.get("pretokenizers", [stored]) if isinstance(stored, Mapping) else []
        for step in inner if isinstance(inner, list) else []:
            bytes_too = isinstance(step, Mapping) and step.get("type") == "ByteLevel"
            if bytes_too and step.get("add_prefix_space", True):
                raise self.refused("'pre_tokenizer' ByteLevel", "add_prefix_space")
        if pre is not None:
            pretokenizer(pre)
            return [pre]
        steps = self.steps("pre_tokenizer")
        patterns = [self._pattern(step) for step in steps]
        ends = [index for index, step in enumerate(steps) if step["type"] == "ByteLevel"]
        if len(ends) != 1:
            raise self._unknown_rule(patterns)
        after = range(ends[0] + 1, len(steps))
        for index in after:  # where bytes are letters already
            if steps[index]["type"] == "Digits" and self._has_digits_apart():
                patterns[index] = ""
        if not {patterns[index] for index in after} <= {"", THREE_DIGITS}:
            raise self._unknown_rule(patterns)
        names = rules_of([pattern for pattern in patterns if pattern])
        if not names:
            raise self._unknown_rule(patterns)
        return names

    def _has_digits_apart(self) -> bool:
        """Whether no token has digits, or letters for bytes that count as such, beside others: to
        cut text around them then changes no token."""
        return all(
            len({letter.isnumeric() for letter in name}) < 2 for name in self._words() if name
        )

    def _unknown_rule(self, patterns: Sequence[str]) -> UnsupportedError:
        return UnsupportedError(
            f"{self.path}: 'pre_tokenizer': the rule for splitting text into words is not known: "
            f"{list(patterns)}. If it is one that a GGUF file can name, name it with --pre"
        )

    def _pattern(self, step: Step) -> str:
        """The pattern of a step; none for one that only spells bytes."""
        kind = step["type"]
        if kind == "ByteLevel":
            return GPT2 if step.get("use_regex", True) else ""
        if kind == "Digits" and step.get("individual_digits"):
            return DIGIT
        if kind == "Punctuation" and str(step.get("behavior")).lower() == "contiguous":
            return PUNCTUATION
        if kind == "Split" and isinstance(step.get("pattern"), Mapping):
            pattern, behavior = step["pattern"].get("Regex"), step.get("behavior")
            # To remove what lies between matches is no different for patterns that match all text.
            everything = str(pattern).endswith(r"|\s+") and behavior == "Removed"
            if isinstance(pattern, str):
                if behavior == "Isolated" or (everything and step.get("invert")):
                    return pattern
                raise self.refused("'pre_tokenizer' Split", f"the behavior {behavior!r}")
        return f"({kind})"

    def _check_merges(self, pairs: Sequence[Sequence[str]], rule: str, whole: bool) -> None:
        """Raises unless it makes no difference whether whole words come before merges: when every
        token is what its letters merge to."""
        ranks: dict[str, float] = {}
        for rank, pair in enumerate(pairs):
            ranks.setdefault(" ".join(pair), rank)
        added = {each.get("content") for each in self.added_tokens()}
        for name in self.model["vocab"]:
            if name not in added and len(merged(list(name), ranks, " ")) > 1:
                raise self.refused(
                    "'model'",
                    f"ignore_merges {str(whole).lower()} with the rule {rule!r} and the token "
                    f"{name!r}, which merges do not reach,",
                )

    # -- SentencePiece ---------------------------------------------------------------------------

    def prepend_scheme(self) -> str:
        """How a space is put before a text: "every" (before each part between special tokens),
        "always" (likewise, unless it begins with one), "first" (only at the text's start, unless
        it begins with one) or "never"."""
        scheme, replaced = "never", False
        for step in self.steps("normalizer"):
            kind = step["type"]
            if kind == "Prepend" and step.get("prepend") == BLANK and not replaced:
                scheme = "every"
            elif kind == "Replace" and self._spells_spaces(step):
                replaced = True
            else:
                raise self.refused("'normalizer'", f"{kind}, as it is set here,")
        for step in self.steps("pre_tokenizer"):
            kind = step["type"]
            if kind == "Metaspace" and scheme == "never":
                scheme, replaced = self.metaspace("pre_tokenizer", step), True
                if step.get("split", True) and any(BLANK in name[1:] for name in self._words()):
                    raise self.refused("'pre_tokenizer' Metaspace", "split")
            elif not (kind == "Split" and step.get("pattern") == {"String": " "} and replaced):
                # A split at spaces does nothing after they were replaced.
                raise self.refused("'pre_tokenizer'", f"{kind}, as it is set here,")
        if not replaced:
            raise self.refused("'normalizer'", f"spaces that are not replaced by {BLANK!r}")
        self._check_pieces_decoder(scheme != "never")
        return scheme

    def _words(self) -> list[str]:
        added = {each.get("content") for each in self.added_tokens()}
        return [name for name in self.model["vocab"] if name not in added]

    @staticmethod
    def _spells_spaces(step: Step) -> bool:
        return step.get("pattern") == {"String": " "} and step.get("content") == BLANK

    def metaspace(self, part: str, step: Step) -> str:
        unprefixed = step.get("add_prefix_space") is False
        scheme = step.get("prepend_scheme", "never" if unprefixed else "always")
        if step.get("replacement", BLANK) != BLANK:
            raise self.refused(f"'{part}' Metaspace", f"replacement {step['replacement']!r}")
        if scheme not in ("always", "first", "never") or (unprefixed and scheme != "never"):
            raise self.refused(f"'{part}' Metaspace", f"prepend_scheme {scheme!r}")
        return str(scheme)

    def _check_pieces_decoder(self, prepends: bool) -> None:
        steps = self.steps("decoder")
        if not steps:
            return
        strips = False
        for step in steps:
            kind = step["type"]
            if kind == "Metaspace":
                strips = self.metaspace("decoder", step) != "never"
            elif kind == "Strip":
                if (step.get("content"), step.get("start"), step.get("stop")) != (" ", 1, 0):
                    raise self.refused("'decoder'", "Strip, as it is set here,")
                strips = True
            elif kind == "ByteLevel" or (
                kind == "Replace"
                and (step.get("pattern"), step.get("content")) != ({"String": BLANK}, " ")
            ):
                raise self.refused("'decoder'", f"{kind}, as it is set here,")
        if strips != prepends:
            what = "stripping a space that" if strips else "keeping the space that"
            was = "was not" if strips else "was"
            raise self.refused("'decoder'", f"{what} {was} put before the text")

    def check_pieces_model(self, byte_tokens: int) -> None:
        """Raises for options that SentencePiece's algorithm lacks. byte_tokens: their number."""
        if self.model.get("ignore_merges"):
            raise self.refused("'model'", "ignore_merges with SentencePiece's tokens")
        if byte_tokens < 256 and not self.model.get("fuse_unk"):
            raise self.refused("'model'", "fuse_unk false without tokens for all bytes")

    # -- added tokens, and the tokens around a text ----------------------------------------------

    def added_tokens(self) -> list[Step]:
        """The entries of `added_tokens`."""
        entries = self._values.get("added_tokens") or []
        if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
            raise ModelFileError(f"{self.path}: 'added_tokens' is not well formed")
        return entries

    def check_added_tokens(self, mask: str | None = None) -> None:
        """Raises for an added token that is not just found in the text as it is written, but for
        the one of hidden words."""
        kinds = {step["type"] for step in self.steps("normalizer")}
        for entry in self.added_tokens():
            name = str(entry.get("content"))
            part = f"added token {name!r}"
            self.check_options(part, entry, " ".join(("id content special normalized", *_FLAGS)))
            if name != mask:
                check_flags(self.path, entry)
            changed = "Prepend" in kinds or (kinds & {*FORMS} and not name.isascii())
            if entry.get("normalized") and changed:
                raise self.refused(part, "normalized with this normaliser")
            spelt = entry.get("normalized") and "Replace" in kinds
            if BLANK in name and self.pieces and not spelt and name not in self.merged_blanks:
                raise self.refused(part, f"{BLANK!r} in a name that is not normalized")

    @functools.cached_property
    def merged_blanks(self) -> frozenset[str]:
        """The added tokens, such as Gemma's, that are runs of blanks, are looked for before spaces
        become blanks, and are what merges make of such runs. A text that does not have the letter
        itself becomes the same tokens without them."""
        if not self.pieces:
            return frozenset()
        names = {
            str(entry.get("content"))
            for entry in self.added_tokens()
            if not entry.get("normalized") and not entry.get("special")
        }
        runs = {name for name in names if {*name} == {BLANK} and name in self.model["vocab"]}
        pairs = [
            each.split(" ", 1) if isinstance(each, str) else each
            for each in (self.model["merges"] if runs else [])
        ]
        ranks: dict[str, float] = {}
        for rank, pair in enumerate(pairs):
            if {*"".join(pair)} == {BLANK}:
                ranks.setdefault(" ".join(pair), rank)
        return frozenset(name for name in runs if len(merged(list(name), ranks, " ")) == 1)

    def ends(self) -> Ends:
        """The tokens that the post-processor adds."""
        templates = [
            step for step in self.steps("post_processor") if step["type"] == "TemplateProcessing"
        ]
        own = [step for step in self.steps("post_processor") if "sep" in step]
        if own and not templates:
            return self._around(own[0])
        if not templates:
            return Ends(None, None)
        if len(templates) > 1:
            raise self.refused("'post_processor'", "a second TemplateProcessing")
        single = templates[0].get("single")
        single = single if isinstance(single, list) else []
        kinds = [next(iter(each), "") for each in single]
        if kinds.count("Sequence") != 1 or len(kinds) > 3:
            raise self.refused("'post_processor' TemplateProcessing", f"single {single!r}")
        at = kinds.index("Sequence")
        if at > 1 or len(kinds) - at > 2:
            raise self.refused("'post_processor' TemplateProcessing", "two tokens at one end")
        around = [self._end(templates[0], each) for each in single if "Sequence" not in each]
        return Ends(
            around[0] if at else None,
            around[-1] if len(kinds) - at > 1 else None,
            self._separated(templates[0].get("pair")),
        )

    @staticmethod
    def _separated(pair: Any) -> bool:
        """Whether two tokens stand between the texts of a pair."""
        kinds = [next(iter(each), "") for each in pair] if isinstance(pair, list) else []
        places = [place for place, kind in enumerate(kinds) if kind == "Sequence"]
        return len(places) == 2 and places[1] - places[0] == 3

    def _around(self, step: Step) -> Ends:
        """The tokens that BERT's and RoBERTa's own processors add."""
        try:
            begin, end = (step[name][1] for name in ("cls", "sep"))
        except (KeyError, IndexError, TypeError):
            begin = end = None
        if not isinstance(begin, int) or not isinstance(end, int):
            raise ModelFileError(f"{self.path}: 'post_processor' is not well formed")
        return Ends(begin, end, step["type"] == "RobertaProcessing")

    def _end(self, template: Step, each: Step) -> int:
        try:
            ids = template["special_tokens"][each["SpecialToken"]["id"]]["ids"]
            (token,) = ids
        except (KeyError, TypeError, ValueError):
            raise self.refused("'post_processor' TemplateProcessing", repr(each)) from None
        if not isinstance(token, int):
            raise ModelFileError(f"{self.path}: 'post_processor' is not well formed")
        return token


def check_flags(path: Path, entry: Step) -> None:
    """Raises for an added token that is found only as a whole word, or takes spaces beside it that
    a normaliser may have changed."""
    for flag in _FLAGS:
        if entry.get(flag) and (flag == "single_word" or entry.get("normalized")):
            how = "" if flag == "single_word" else " of a name that is normalized"
            raise UnsupportedError(
                f"{path}: added token {entry.get('content')!r}: {flag}{how} is not supported, and "
                "tokens would differ without it"
            )
