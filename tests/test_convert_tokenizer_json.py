"""Every part of tokenizer.json is kept or refused: converted tokenisers give the ids of the
`tokenizers` package, or the error names the part."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from hf_checkpoint import END, byte_level_tokenizer
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.files.convert.tokenizer import tokenizer_metadata
from sparsefire.text.tokenizer import Tokenizer

TEXTS = (
    "",
    " ",
    "Hello the World",
    "  two  spaces ",
    "a<|im_end|>b <|im_end|> the<|im_end|>\n the",
    "<|im_end|> the people",
    "a \u3000\n<|im_end|>\t \xa0<|im_end|>\x1c b  <|im_end|>  ",
    "▁the ▁people",
    "café cafe\u0301 \ufb01ne \u2163 12345 \n\n\t語👍",
)
Json = dict[str, Any]


def converted(folder: Path, values: Json, settings: Json | None = None, **options: Any) -> Any:
    """Ours and theirs, of the same tokenizer.json."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(values), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {}))
    theirs = tokenizers.Tokenizer.from_file(str(path))
    keys = tokenizer_metadata(folder, theirs.get_vocab_size(), **options)
    return Tokenizer.from_metadata(keys), theirs


def same_ids(ours: Tokenizer, theirs: Any) -> None:
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids, text


def byte_level() -> Json:
    made = byte_level_tokenizer(300)
    made.add_special_tokens(["<|im_end|>"])
    found: Json = json.loads(made.to_str())
    return found


def added(values: Json, **flags: bool) -> None:
    next(e for e in values["added_tokens"] if e["content"] == "<|im_end|>").update(flags)


def template(*single: str) -> Json:
    """A post-processor; "A" is the text."""
    parts = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if each == "A"
        else {"SpecialToken": {"id": each, "type_id": 0}}
        for each in single
    ]
    ids = {END: 0, "<|im_end|>": 300}
    tokens = {
        name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in {*single} - {"A"}
    }
    return {"type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": tokens}


def replace(old: str, new: str) -> Json:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def sequence(inner: str, *steps: Json) -> Json:
    return {"type": "Sequence", inner: list(steps)}


NORMALIZERS: list[tuple[Json | None, bool]] = [
    (None, True),
    (sequence("normalizers"), True),
    ({"type": "NFC"}, True),  # the gpt-2 rule has none
    ({"type": "NFKC"}, True),
    ({"type": "NFD"}, False),
    ({"type": "Lowercase"}, False),
    ({"type": "Strip", "strip_left": True, "strip_right": True}, False),
    (sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}), False),
    (replace("  ", " "), False),
]
FLAGS: list[tuple[Json, bool]] = [
    ({}, True),
    ({"special": False}, True),
    ({"normalized": True}, True),
    ({"lstrip": True}, True),
    ({"rstrip": True}, True),
    ({"lstrip": True, "rstrip": True, "special": False}, True),
    ({"rstrip": True, "normalized": True}, False),
    ({"single_word": True}, False),
]
ENDS: list[tuple[Json | None, bool]] = [
    (None, True),
    ({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}, True),
    (template("A"), True),
    (template(END, "A"), True),
    (template("A", "<|im_end|>"), True),
    (sequence("processors", template(END, "A", "<|im_end|>")), True),
    (template(END, END, "A"), False),
    (
        {
            "type": "RobertaProcessing",
            "sep": [END, 0],
            "cls": [END, 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        True,
    ),
]


def test_byte_level_parts(tmp_path: Path) -> None:
    for (norm, norm_ok), (flags, flags_ok), (ends, ends_ok), prefix in itertools.product(
        NORMALIZERS, FLAGS, ENDS, (False, True)
    ):
        values = byte_level()
        values["normalizer"], values["post_processor"] = norm, ends
        values["pre_tokenizer"]["add_prefix_space"] = prefix
        added(values, **flags)
        if norm_ok and flags_ok and ends_ok and not prefix:
            same_ids(*converted(tmp_path, values))
        else:
            with pytest.raises(UnsupportedError, match=r"is not supported"):
                converted(tmp_path, values)


def changed(part: str, **changes: Any) -> Callable[[Json], None]:
    return lambda values: values[part].update(changes)


def put(part: str, value: Any) -> Callable[[Json], None]:
    return lambda values: values.__setitem__(part, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("normalizer", {"type": "Lowercase"}), "'normalizer': Lowercase"),
        (put("normalizer", {"type": "NFD"}), "'normalizer': NFD"),
        (put("normalizer", {"type": "Prepend", "prepend": "x"}), "'normalizer': Prepend"),
        (changed("pre_tokenizer", add_prefix_space=True), "ByteLevel: add_prefix_space"),
        (changed("pre_tokenizer", new=1), "'pre_tokenizer' ByteLevel: the option 'new'"),
        (put("pre_tokenizer", {"type": "Whitespace"}), "'pre_tokenizer': Whitespace"),
        (put("pre_tokenizer", None), "'pre_tokenizer': the rule .* is not known"),
        (put("decoder", {"type": "WordPiece", "prefix": "#", "cleanup": True}), "WordPiece"),
        (put("decoder", {"type": "Fuse"}), "'decoder': Fuse with byte-level"),
        (changed("model", dropout=0.1), "'model': dropout"),
        (changed("model", end_of_word_suffix="</w>"), "'model': end_of_word_suffix"),
        (changed("model", more=1), "'model': the option 'more'"),
        (put("extra", {}), "the file: the option 'extra'"),
        (
            lambda values: added(values, rstrip=True, normalized=True),
            "'<|im_end|>': rstrip of a name that is normalized".replace("|", r"\|"),
        ),
    ],
)
def test_the_part_is_named(edit: Callable[[Json], None], message: str, tmp_path: Path) -> None:
    values = byte_level()
    edit(values)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UnsupportedError, match=rf"tokenizer\.json: .*{message}"):
        tokenizer_metadata(tmp_path, 400)


def test_parts_that_are_not_well_formed(tmp_path: Path) -> None:
    for edit in (
        put("normalizer", 5),
        put("normalizer", {"type": "Sequence"}),
        put("added_tokens", 3),
        put("added_tokens", [3]),
    ):
        values = byte_level()
        edit(values)
        (tmp_path / "tokenizer.json").write_text(json.dumps(values))
        with pytest.raises(ModelFileError, match="not well formed"):
            tokenizer_metadata(tmp_path, 400)


def test_whole_words_that_merges_do_not_reach(tmp_path: Path) -> None:
    """`ignore_merges` counts only where it makes a difference."""
    values = byte_level()
    values["model"]["ignore_merges"] = True
    same_ids(*converted(tmp_path, values))
    name = next(n for n in ("World", "zzqq") if n not in values["model"]["vocab"])
    values["model"]["vocab"][name] = 301
    with pytest.raises(UnsupportedError, match=f"ignore_merges true .*{name!r}"):
        converted(tmp_path, values)


def test_the_token_that_begins_texts(tmp_path: Path) -> None:
    """Of the post-processor; the settings may say no, but not name another one."""
    values = byte_level()
    values["post_processor"] = template(END, "A")
    ours, theirs = converted(tmp_path, values)
    assert ours.bos == 0
    same_ids(ours, theirs)
    with pytest.raises(UnsupportedError, match="'post_processor' adds the token 0, but bos_token"):
        converted(tmp_path, values, {"bos_token": "<|im_end|>"})
    ours, _ = converted(tmp_path, values, {"bos_token": "<|im_end|>", "add_bos_token": False})
    assert not ours.add_bos


def test_splits_that_remove_nothing(tmp_path: Path) -> None:
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    values = byte_level()
    plain = {**values["pre_tokenizer"], "use_regex": False}
    for behavior, invert, known in (
        ("Isolated", False, True),
        ("Isolated", True, True),
        ("Removed", True, True),
        ("Removed", False, False),
        ("MergedWithNext", False, False),
    ):
        step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior}
        step["invert"] = invert
        values["pre_tokenizer"] = sequence("pretokenizers", step, plain)
        if known:
            same_ids(*converted(tmp_path, values))
        else:
            with pytest.raises(UnsupportedError, match=f"the behavior '{behavior}'"):
                converted(tmp_path, values)


# -- SentencePiece's tokens ----------------------------------------------------------------------


def pieces(crossing: bool = True) -> Json:
    """BPE with byte fallback. crossing: some tokens have a space inside."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=not crossing)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    text = "the people of the world, hello the World the people  two  spaces a b"
    made.train_from_iterator([text] * 4, trainer)
    made.add_special_tokens(["<|im_end|>"])
    values: Json = json.loads(made.to_str())
    bytes_too = [each for each in values["added_tokens"] if not each["content"].startswith("<0x")]
    return {**values, "added_tokens": bytes_too, "pre_tokenizer": None}


SPELL, PREPEND = replace(" ", "▁"), {"type": "Prepend", "prepend": "▁"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def metaspace(scheme: str, **more: Any) -> Json:
    fixed = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    return {**fixed, **more}


def decoder(strips: bool) -> Json:
    steps = [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    return sequence("decoders", *steps, *([STRIP] if strips else []))


SCHEMES: dict[str, tuple[Json | None, Json | None, bool]] = {
    "every": (sequence("normalizers", PREPEND, SPELL), None, True),
    "none": (SPELL, None, False),
    "always": (None, metaspace("always"), True),
    "first": (None, metaspace("first"), True),
    "never": (None, metaspace("never"), False),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_prepended_spaces(name: str, crossing: bool, special: bool, tmp_path: Path) -> None:
    norm, pre, strips = SCHEMES[name]
    values = {**pieces(crossing), "normalizer": norm, "pre_tokenizer": pre}
    values["decoder"] = decoder(strips)
    added(values, special=special)
    ours, theirs = converted(tmp_path, values)
    same_ids(ours, theirs)
    for text in ("the people", " the people", "語 the"):
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text).ids)
    values["decoder"] = decoder(not strips)
    with pytest.raises(UnsupportedError, match=r"'decoder': .* put before the text"):
        converted(tmp_path, values)


def test_schemes_differ(tmp_path: Path) -> None:
    """The texts above tell every scheme from every other that puts spaces."""
    found = set()
    for norm, pre, strips in list(SCHEMES.values())[1:]:
        values = {**pieces(), "normalizer": norm, "pre_tokenizer": pre}
        values["decoder"] = decoder(strips)
        ours, _ = converted(tmp_path, values)
        found.add(tuple(tuple(ours.encode(text)) for text in TEXTS))
    assert len(found) == 3  # two of them put none


def test_metaspace_that_splits(tmp_path: Path) -> None:
    """Words are cut at spaces, which is no different only if no token crosses one."""
    for crossing in (False, True):
        values = {**pieces(crossing), "pre_tokenizer": metaspace("first", split=True)}
        if not crossing:
            same_ids(*converted(tmp_path, values))
        else:
            with pytest.raises(UnsupportedError, match="Metaspace: split"):
                converted(tmp_path, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": sequence("normalizers", SPELL, PREPEND)}, "'normalizer': Prepend"),
        ({"normalizer": replace("  ", "▁")}, "'normalizer': Replace"),
        ({"normalizer": sequence("normalizers", {"type": "NFKC"}, SPELL)}, "'normalizer': NFKC"),
        ({"normalizer": None}, "spaces that are not replaced"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "Digits"),
        ({"pre_tokenizer": metaspace("always", replacement="_")}, "replacement '_'"),
        ({"decoder": {"type": "ByteLevel"}}, "'decoder': ByteLevel"),
    ],
)
def test_refused_with_pieces(changes: Json, message: str, tmp_path: Path) -> None:
    values = {**pieces(), "normalizer": SPELL, "decoder": decoder(False), **changes}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(UnsupportedError, match=message):
        tokenizer_metadata(tmp_path, 500)


def test_normalized_names(tmp_path: Path) -> None:
    """A name that is normalised with a space before it is found in other places."""
    values = {**pieces(), "normalizer": sequence("normalizers", PREPEND, SPELL), "decoder": None}
    added(values, normalized=True)
    with pytest.raises(UnsupportedError, match="normalized with this normaliser"):
        converted(tmp_path, values)


def test_options_of_the_model(tmp_path: Path) -> None:
    for option, value in (("ignore_merges", True),):
        values = {**pieces(), "normalizer": SPELL, "decoder": decoder(False)}
        values["model"][option] = value
        with pytest.raises(UnsupportedError, match=f"'model': {option}"):
            converted(tmp_path, values)


def test_decoders_of_byte_level_tokenisers(tmp_path: Path) -> None:
    values = byte_level()
    ours, theirs = converted(tmp_path, values)
    for text in TEXTS:
        ids = theirs.encode(text).ids
        assert ours.decode(ids) == theirs.decode(ids)
