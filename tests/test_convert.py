"""`sparsefire convert`: checkpoints written here, converted, loaded, and compared with a forward
pass in Hugging Face's own layout."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import hf_checkpoint
from hf_checkpoint import END, Hf
from sparsefire.cli import main
from sparsefire.errors import ArgumentError, ModelFileError, NotFiniteError, UnsupportedError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.files.convert.safetensors import Checkpoint
from sparsefire.files.convert.tokenizer import tokenizer_metadata
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model
from sparsefire.text.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("float_keys")

TOKENS = [5, 300, 17, 17, 2, 99, 250, 8, 1, 0, 41]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CHECKPOINTS = {
    "llama": Hf(),
    "tied": Hf(tied=True),
    "heads of their own size": Hf(head_dim=24),
    "biases": Hf(biases=True),
    "relu": Hf(activation="relu"),
    "relu2": Hf(activation="relu2"),
    "fatrelu": Hf(activation="fatrelu", threshold=0.05),
    "gelu": Hf(activation="gelu_pytorch_tanh"),
    "linear rope": Hf(rope={"rope_type": "linear", "factor": 4.0}),
    "llama3 rope": Hf(rope=LLAMA3_ROPE),
    "mistral": Hf(model_type="mistral", kv_heads=4, config={"sliding_window": None}),
    "window": Hf(model_type="mistral", window=4),
    "rotation in its new place": Hf(
        config={"rope_theta": None, "rope_parameters": {"rope_theta": 500.0}}
    ),
    "shards": Hf(shards=3),
    "f16": Hf(dtype="F16"),
    "bf16": Hf(dtype="BF16"),
    "f64": Hf(dtype="F64"),
    "qwen2": Hf(model_type="qwen2", biases=True, config={"use_sliding_window": False}),
    "qwen3": Hf(model_type="qwen3", head_norms=True, tied=True),
}


def rounded(hf: Hf) -> Hf:
    """The checkpoint with the weights as the file holds them."""
    kept = dict(hf_checkpoint.weights(hf))
    for name, values in kept.items():
        if hf.dtype == "F16":
            kept[name] = values.astype(np.float16).astype(np.float32)
        elif hf.dtype == "BF16":
            kept[name] = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return replace(hf, tensors=kept)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits(name: str, tmp_path: Path) -> None:
    hf = rounded(CHECKPOINTS[name])
    folder = hf_checkpoint.write(tmp_path / "checkpoint", hf)
    report = convert_checkpoint(folder, tmp_path / "out.gguf")
    wanted = hf_checkpoint.logits(hf, TOKENS)
    with Model.load(tmp_path / "out.gguf") as model:
        error = np.abs(model.logits(TOKENS) - wanted).max()
        bound = 1e-5
        if model.core.isa == "amx":  # prompts are rounded to 8 bits with weights that are not F32
            bound = 1e-2 if name in ("f16", "bf16") else 1e-4
        assert error < bound * np.abs(wanted).max()
        assert model.config.activation == report.activation
        assert model.config.name == "checkpoint"
        assert model.apply_chat_template([{"role": "user", "content": "Hi"}]) == "Hi"


def test_the_comparison_would_notice(tmp_path: Path) -> None:
    """Logits do depend on the layout of q and k, on the activation and on the rotation."""
    hf = CHECKPOINTS["llama"]
    wanted = hf_checkpoint.logits(hf, TOKENS)
    for other in (
        replace(hf, activation="relu"),
        replace(hf, rope={"rope_type": "linear", "factor": 1.5}),
        replace(hf, seed=1),
    ):
        assert np.abs(hf_checkpoint.logits(other, TOKENS) - wanted).max() > 0.05


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_keys_and_tensors(name: str, tmp_path: Path) -> None:
    hf = CHECKPOINTS[name]
    folder = hf_checkpoint.write(tmp_path / "checkpoint", hf)
    report = convert_checkpoint(folder, tmp_path / "out.gguf", name="Some model")
    with GgufFile.open(tmp_path / "out.gguf") as file:
        keys, arch = file.metadata, report.architecture
        assert keys["general.architecture"] == arch
        assert keys["general.name"] == "Some model"
        for key, value in (
            ("block_count", hf.layers),
            ("embedding_length", hf.d),
            ("feed_forward_length", hf.hidden),
            ("attention.head_count", hf.heads),
            ("attention.head_count_kv", hf.kv_heads),
            ("attention.key_length", hf.head_dim),
            ("rope.dimension_count", hf.head_dim),
            ("rope.freq_base", 500.0),
            ("context_length", 64),
            ("vocab_size", hf.vocab),
        ):
            assert keys[f"{arch}.{key}"] == value
        assert ("output.weight" in file.tensors) == (not hf.tied)
        assert ("rope_freqs.weight" in file.tensors) == (name == "llama3 rope")
        assert ("blk.1.attn_q.bias" in file.tensors) == hf.biases
        assert ("blk.1.attn_q_norm.weight" in file.tensors) == hf.head_norms
        assert file.tensors["blk.0.attn_norm.weight"].format == "f32"
        assert len(keys["tokenizer.ggml.tokens"]) == hf.vocab
        assert report.tensors == len(file.tensors)
        threshold = keys.get(f"{arch}.hidden_activation_threshold")
        assert threshold == (None if hf.threshold is None else pytest.approx(hf.threshold))


def test_keys_of_the_rotation(tmp_path: Path) -> None:
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 20.0,
    }
    folder = hf_checkpoint.write(tmp_path / "a", rope=rope)
    convert_checkpoint(folder, tmp_path / "out.gguf")
    with GgufFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["llama.rope.scaling.type"] == "yarn"
        assert file.metadata["llama.rope.scaling.factor"] == 4.0
        assert file.metadata["llama.rope.scaling.original_context_length"] == 16
        assert file.metadata["llama.rope.scaling.yarn_beta_fast"] == 20.0


def test_weights_that_need_not_move_keep_their_bits(tmp_path: Path) -> None:
    hf = CHECKPOINTS["llama"]
    convert_checkpoint(hf_checkpoint.write(tmp_path / "a", hf), tmp_path / "out.gguf")
    theirs = hf_checkpoint.weights(hf)
    tensors = {each.name: each.data for each in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for ours, name in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ):
        assert np.array_equal(tensors[ours], theirs[name])
    q = theirs["model.layers.0.self_attn.q_proj.weight"]
    for head in range(4):
        for pair in range(8):
            assert np.array_equal(
                tensors["blk.0.attn_q.weight"][16 * head + 2 * pair], q[16 * head + pair]
            )
            assert np.array_equal(
                tensors["blk.0.attn_q.weight"][16 * head + 2 * pair + 1], q[16 * head + pair + 8]
            )


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("hub/models--org--My-Model-1B/snapshots/4194c3ff", "My-Model-1B"),
        ("hub/models--gpt2/snapshots/4194c3ff", "gpt2"),
        ("snapshots/latest", "latest"),
        ("models--org--Model", "models--org--Model"),
    ],
)
def test_names_of_cached_checkpoints(folder: str, name: str, tmp_path: Path) -> None:
    """Hugging Face's cache has links to blobs in a folder that a commit names."""
    blobs = hf_checkpoint.write(tmp_path / "blobs")
    (tmp_path / folder).mkdir(parents=True)
    for each in blobs.iterdir():
        (tmp_path / folder / each.name).symlink_to(each)
    convert_checkpoint(tmp_path / folder, tmp_path / "out.gguf")
    with GgufFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["general.name"] == name


def test_formats(tmp_path: Path) -> None:
    hf = CHECKPOINTS["llama"]
    folder = hf_checkpoint.write(tmp_path / "a", hf)
    wanted = hf_checkpoint.logits(hf, TOKENS)
    report = convert_checkpoint(folder, tmp_path / "out.gguf", format="q8_0")
    assert report.format == "q8_0"
    with Model.load(tmp_path / "out.gguf") as model:
        assert model.file.tensors["blk.0.ffn_up.weight"].format == "q8_0"
        assert np.abs(model.logits(TOKENS) - wanted).max() < 0.1 * np.abs(wanted).max()
    narrow = hf_checkpoint.write(tmp_path / "b", d=80, heads=5, kv_heads=1)
    convert_checkpoint(narrow, tmp_path / "out.gguf", format="q8_0", force=True)
    with Model.load(tmp_path / "out.gguf") as model:
        assert model.file.tensors["blk.0.ffn_up.weight"].format == "f16"
        assert model.file.tensors["blk.0.ffn_down.weight"].format == "q8_0"


# -- tokenisers --------------------------------------------------------------------------------

TEXTS = [
    "",
    "The people of the United States, 1789!",
    "  two  blanks\n\n\tand tabs ",
    "über 語 👍 e\u0301",
    "I'm a1b22c333",
]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
RULES: dict[str, tuple[Any, Any, bool]] = {
    "gpt-2": (GPT2, None, False),
    "smollm": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]),
        None,
        False,
    ),
    "llama-bpe": (pre_tokenizers.Sequence([split(GPT4), PLAIN]), None, True),
    "dbrx": (pre_tokenizers.Sequence([split(GPT4), PLAIN]), None, False),
    "qwen2": (
        pre_tokenizers.Sequence([split(GPT4.replace("{1,3}", "")), PLAIN]),
        normalizers.NFC(),
        False,
    ),
    "deepseek-r1-qwen": (
        pre_tokenizers.Sequence([split(GPT4.replace("{1,3}", "")), PLAIN]),
        None,
        False,
    ),
}


def trained(rule: str) -> Any:
    splitter, normalizer, whole = RULES[rule]
    theirs = tokenizers.Tokenizer(models.BPE(ignore_merges=whole))
    theirs.pre_tokenizer = splitter
    theirs.decoder = decoders.ByteLevel()
    if normalizer is not None:
        theirs.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(TEXTS * 3, trainer)
    theirs.add_tokens(["<tool>"])
    theirs.add_special_tokens(["<|im_end|>"])
    return theirs


@pytest.mark.parametrize("rule", RULES)
def test_byte_level_tokenisers(rule: str, tmp_path: Path) -> None:
    theirs = trained(rule)
    theirs.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": END, "eos_token": "<|im_end|>"})
    )
    size = theirs.get_vocab_size()
    keys = tokenizer_metadata(tmp_path, size + 5)
    assert keys["tokenizer.ggml.pre"] == rule
    ours = Tokenizer.from_metadata(keys)
    for text in [*TEXTS, f"a<tool>b{END}c<|im_end|>"]:
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.size == size + 5
    assert (ours.bos, ours.eos) == (0, theirs.token_to_id("<|im_end|>"))
    assert ours.vocabulary.types[theirs.token_to_id("<tool>")] == 4
    assert ours.vocabulary.types[size] == 5


@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cn"))))
def test_any_text(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    theirs = trained("llama-bpe")
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs.save(str(folder / "tokenizer.json"))
    ours = Tokenizer.from_metadata(tokenizer_metadata(folder, theirs.get_vocab_size()))
    assert ours.encode(text) == theirs.encode(text).ids


def sentencepiece_file(**options: Any) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[1:] * 4),
        model_writer=written,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return written.getvalue()


def test_sentencepiece_files(tmp_path: Path) -> None:
    raw = sentencepiece_file()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=raw)
    (tmp_path / "tokenizer.model").write_bytes(raw)
    size = theirs.get_piece_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<tool>": size}))
    decoder = {str(size + 1): {"content": "<|im_end|>", "special": True}}
    settings = {
        "added_tokens_decoder": decoder,
        "add_bos_token": True,
        "add_eos_token": False,
        "eos_token": "<|im_end|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = Tokenizer.from_metadata(tokenizer_metadata(tmp_path, size + 4))
    for text in TEXTS:
        assert ours.encode(text) == [theirs.bos_id(), *theirs.encode(text)]
    assert ours.encode("<tool><|im_end|>", add_bos=False) == [size, size + 1]
    assert ours.eos == size + 1
    assert ours.size == size + 4


def test_sentencepiece_as_json(tmp_path: Path) -> None:
    """As the fast tokenisers of Llama 2, Mistral and Gemma are kept: merges instead of scores."""
    raw = sentencepiece_file()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=raw)
    pieces = [theirs.id_to_piece(token) for token in range(theirs.get_piece_size())]
    ids = {piece: token for token, piece in enumerate(pieces)}
    merges = []
    for piece in sorted(ids, key=lambda each: -theirs.get_score(ids[each])):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids and not theirs.is_byte(ids[piece]) and ids[piece] > 2:
                merges.append((left, right))
    fast = tokenizers.Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.add_special_tokens(["<unk>", "<s>", "</s>"])
    fast.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_metadata(tokenizer_metadata(tmp_path, len(pieces)))
    assert ours.kind == "SentencePiece BPE"
    for text in TEXTS:
        assert ours.encode(text, add_bos=False) == theirs.encode(text)
        assert ours.encode(text, add_bos=False) == fast.encode(text).ids
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_metadata(tokenizer_metadata(tmp_path, len(pieces)))
    assert ours.encode("The people", add_bos=False) == fast.encode("The people").ids
    # Beside tokenizer.model it says where spaces go, and is refused for what is not known.
    (tmp_path / "tokenizer.model").write_bytes(raw)
    fast.normalizer = None
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fast.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_metadata(tokenizer_metadata(tmp_path, len(pieces)))
    for text in [*TEXTS, "the</s>people</s> of"]:
        assert ours.encode(text, add_bos=False) == fast.encode(text).ids
    fast.normalizer = normalizers.NFKC()
    fast.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedError, match="'normalizer': NFKC"):
        tokenizer_metadata(tmp_path, len(pieces))


def test_special_ids_and_chat_templates(tmp_path: Path) -> None:
    theirs = trained("gpt-2")
    theirs.save(str(tmp_path / "tokenizer.json"))
    size = theirs.get_vocab_size()
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": [0, 7]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7, 9]}))
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    keys = tokenizer_metadata(tmp_path, size)
    assert Tokenizer.from_metadata(keys).end_ids == {0, 7, 9, theirs.token_to_id("<|im_end|>")}
    assert keys["tokenizer.chat_template"] == "a"
    assert keys["tokenizer.chat_template.tool_use"] == "b"
    assert keys["tokenizer.chat_templates"] == ["tool_use"]
    (tmp_path / "chat_template.jinja").write_text("c")
    assert tokenizer_metadata(tmp_path, size)["tokenizer.chat_template"] == "c"


def test_a_rule_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For files that name no pre-tokeniser, or one that is unknown."""
    path = tmp_path / "out.gguf"
    convert_checkpoint(hf_checkpoint.write(tmp_path / "checkpoint"), path)
    text = tmp_path / "text"
    text.write_text("the people")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"\5\0\0\0\0\0\0\0gpt-2", b"\5\0\0\0\0\0\0\0gpt-x"))
    assert main(["generate", "the", "-m", str(path), "-n", "1"]) == 1
    assert "'gpt-x', which is unknown" in capsys.readouterr().err
    assert main(["generate", "the", "-m", str(path), "-n", "1", "--pre", "gpt-2"]) == 0
    assert main(["generate", "the", "-m", str(path), "-n", "1", "--pre", "gpt-9"]) == 2
    assert "pre: unknown pre-tokeniser 'gpt-9'" in capsys.readouterr().err
    for command in (["inspect", str(path)], ["perplexity", "-m", str(path), "--text", str(text)]):
        assert main([*command, "--pre", "gpt-9"]) == 2
        assert "pre: unknown pre-tokeniser 'gpt-9'" in capsys.readouterr().err
        assert main([*command, "--pre", "gpt-2"]) == 0
        assert "gpt-x" not in capsys.readouterr().out
    assert main(["inspect", str(path)]) == 0
    assert "the pre-tokeniser rule 'gpt-x', which is unknown" in capsys.readouterr().out
    with Model.load(path, pre="gpt-2") as model, Model.load(raw) as as_stored:
        assert model.tokenize("I'm here 12") == as_stored.tokenize("I'm here 12")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "t5"}, UnsupportedError, "type 't5' are not converted; .*llama"),
        (
            {"config": {"architectures": ["LlamaSparseReluForCausalLM"]}},
            UnsupportedError,
            r"architectures' names \['LlamaSparse.*than LlamaForCausalLM",
        ),
        (
            {"config": {"auto_map": {"AutoModelForCausalLM": "sparse.SparseLlamaForCausalLM"}}},
            UnsupportedError,
            r"auto_map' names \['SparseLlamaForCausalLM'\]",
        ),
        ({"config": {"hidden_act": None}}, ModelFileError, "'hidden_act' is missing"),
        ({"config": {"hidden_activation": "relu"}}, ModelFileError, "is not 'silu', as"),
        ({"config": {"mlp_activation": "relu"}}, UnsupportedError, "'mlp_activation' may change"),
        ({"config": {"sparse_relu": True}}, UnsupportedError, "'sparse_relu' may change"),
        ({"tensors": {"lm_head.weight": None}}, ModelFileError, "lm_head.weight' is missing, and"),
        (
            {"tensors": {"lm_head.weight": np.ones((3, 64), np.float32)}},
            ModelFileError,
            "'lm_head.weight' has shape",
        ),
        ({"activation": "sine"}, UnsupportedError, "unknown activation 'sine'"),
        ({"activation": "fatrelu"}, ModelFileError, "hidden_act_param' is missing"),
        ({"config": {"hidden_size": None}}, ModelFileError, "'hidden_size' is None"),
        ({"config": {"hidden_size": 60}}, ModelFileError, "embed_tokens.*shape .*, but config"),
        ({"config": {"num_key_value_heads": 3}}, ModelFileError, "does not divide"),
        ({"config": {"rms_norm_eps": "x"}}, ModelFileError, "expected a number"),
        ({"config": {"vocab_size": 100}}, ModelFileError, "300 tokens, but the embedding 100"),
        ({"rope": {"rope_type": "su"}}, UnsupportedError, "rotary scaling of the type 'su'"),
        ({"config": {"partial_rotary_factor": 0.5}}, UnsupportedError, "partial_rotary_factor"),
        ({"tensors": {"model.extra.weight": np.ones(3, np.float32)}}, UnsupportedError, "extra"),
        (
            {"tensors": {"model.layers.1.mlp.up_proj.weight": None}},
            ModelFileError,
            "'blk.1.ffn_up.weight' is missing",
        ),
        (
            {"tensors": {"model.norm.weight": np.full(64, np.nan, np.float32)}, "dtype": "F16"},
            NotFiniteError,
            "'model.norm.weight' holds NaN",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = hf_checkpoint.write(tmp_path / "checkpoint", **changes)
    with pytest.raises(error, match=message):
        convert_checkpoint(folder, tmp_path / "out.gguf")
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_tokenisers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        tokenizer_metadata(tmp_path, 400)
    path = tmp_path / "tokenizer.json"
    theirs = trained("gpt-2")
    theirs.pre_tokenizer = split(r"\d+")
    theirs.save(str(path))
    with pytest.raises(UnsupportedError, match=r"is not known: \['.*--pre"):
        tokenizer_metadata(tmp_path, 500)
    assert tokenizer_metadata(tmp_path, 500, pre="gpt-2")["tokenizer.ggml.pre"] == "gpt-2"
    whole = json.loads(path.read_text())
    for change, message in (
        ({"type": "WordLevel"}, "'WordLevel'; BPE, WordPiece and Unigram"),
        ({"merges": None}, "merges are missing"),
        ({"merges": ["a"]}, "not well formed"),
        ({"vocab": {"a": -4}}, "not well formed"),
        ({"vocab": {"a": 10**12}}, "not well formed"),
    ):
        path.write_text(json.dumps({**whole, "model": {**whole["model"], **change}}))
        with pytest.raises((UnsupportedError, ModelFileError), match=message):
            tokenizer_metadata(tmp_path, 500)
    path.write_text("{")
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: not JSON"):
        tokenizer_metadata(tmp_path, 500)


def test_index_entries_without_tensors(tmp_path: Path) -> None:
    folder = hf_checkpoint.write(tmp_path, shards=2)
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.extra.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(values))
    with pytest.raises(ModelFileError, match=r"00002-of-00002.*'model\.extra\.weight' is missing"):
        Checkpoint(folder)


def test_damaged_safetensors(tmp_path: Path) -> None:
    folder = hf_checkpoint.write(tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in (0, 7, 8, 100, 5000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match=r"model\.safetensors: "):
            Checkpoint(folder)
    header = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + header])
    name = "model.norm.weight"
    for change, error in (
        ({"dtype": "I8"}, UnsupportedError),
        ({"shape": [-64]}, ModelFileError),
        ({"shape": [1 << 62, 1 << 62]}, ModelFileError),
        ({"shape": "64"}, ModelFileError),
        ({"data_offsets": [0, 10**15]}, ModelFileError),
        ({"data_offsets": [256, 0]}, ModelFileError),
        ({"data_offsets": [0]}, ModelFileError),
    ):
        text = json.dumps({**entries, name: {**entries[name], **change}}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + header :])
        with pytest.raises(error, match=r"model\.norm\.weight"):
            Checkpoint(folder)
    path.unlink()
    with pytest.raises(UnsupportedError, match="only safetensors checkpoints"):
        Checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}')
    with pytest.raises(ModelFileError, match="not the name of a file beside it"):
        Checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    with pytest.raises(ModelFileError, match=r"b\.safetensors: No such file"):
        Checkpoint(folder)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hf_checkpoint.write(tmp_path / "checkpoint", activation="relu")
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), str(out), "--format", "q8_0"]) == 0
    text = capsys.readouterr()
    assert "mostly Q8_0; llama, relu, byte-level BPE" in text.out
    assert text.err == ""
    assert main(["convert", str(folder), str(out)]) == 2
    assert "the file exists" in capsys.readouterr().err
    assert main(["convert", str(folder), str(out), "--force", "--json", "--name", "X"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "f32"
    with Model.load(out) as model:
        assert model.config.name == "X"
        assert model.config.default_mode == "exact"
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "x.gguf")]) == 1
    assert "no config.json" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="--force"):
        convert_checkpoint(folder, out)
