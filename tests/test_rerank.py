"""Rerankers: their scores against a forward pass in float64, and where users meet them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from bench.lib.encoder_models import add_classifier, encoder_models
from bench.lib.tensor_lists import RandomModel, add_attention, add_ffn, write_model
from encoder_reference import EncoderReference
from sparsefire.batch import Reranker
from sparsefire.cli import main
from sparsefire.core.enums import Limit
from sparsefire.errors import ArgumentError, ContextFullError, ModelFileError, UnsupportedError
from sparsefire.lm.generation import Cancel
from sparsefire.lm.model import Model
from sparsefire.lm.ranking import Pair
from sparsefire.serve.errors import ApiError
from sparsefire.serve.fields import Limits
from sparsefire.serve.requests import Requests

ENCODERS = dict(encoder_models())
TOKENS = [(37 * i + 11) % 128 for i in range(Limit.BATCH + 6)]
TYPES = [0] * 30 + [1] * (len(TOKENS) - 30)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"\u2581{each}" for each in "abc"), "b", "c"]
QUERY, DOCUMENTS = "a b", ["c", "ab c a", "b b"]
PAIRS = [  # [CLS] query [SEP] document [SEP]
    ([2, 4, 5, 3, 6, 3], [0] * 4 + [1] * 2),
    ([2, 4, 5, 3, 4, 7, 6, 4, 3], [0] * 4 + [1] * 5),
    ([2, 4, 5, 3, 5, 5, 3], [0] * 4 + [1] * 3),
]


def reranker(name: str, *, dense: int = 128, norm: bool = False, outputs: int = 1) -> RandomModel:
    model = copy.deepcopy(ENCODERS[name])
    add_classifier(model, dense=dense, norm=norm, outputs=outputs)
    return model


@pytest.mark.usefixtures("float_keys")
@pytest.mark.parametrize(
    "model",
    [
        reranker("bert"),
        reranker("bert", dense=0),
        reranker("modern-bert", norm=True),
        reranker("jina-bert-v2", dense=1, outputs=0),
        reranker("neo-bert"),
    ],
    ids=["bert", "bert-direct", "modern-bert", "jina-bert-v2", "neo-bert"],
)
def test_scores(model: RandomModel, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", model, PIECES)
    reference = EncoderReference(path)
    with Model.load(path) as loaded:
        judge = loaded.judge
        bound = 1e-4 if loaded.core.isa == "amx" else 1e-5  # whose prompts have numbers of 16 bits
        for tokens in (TOKENS, TOKENS[:3]):
            assert judge.score(Pair(tokens, None)) == pytest.approx(reference.score(tokens), bound)
        if model.architecture == "bert":
            expected = reference.score(TOKENS, TYPES)
            assert judge.score(Pair(TOKENS, TYPES)) == pytest.approx(expected, bound)
            assert expected != pytest.approx(reference.score(TOKENS), 1e-3)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "m.gguf"
    return write_model(path, reranker("bert"), PIECES)


def test_texts_are_judged_in_python_jobs_over_http_and_on_the_terminal(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = EncoderReference(bert)
    expected = [reference.score(ids, types) for ids, types in PAIRS]
    order = sorted(range(3), key=lambda index: -expected[index])
    with Model.load(bert) as model:
        scores = model.rerank(QUERY, DOCUMENTS)
        assert scores.dtype == np.float32
        assert scores == pytest.approx(expected, 2e-3)  # with keys and values in halves
        assert model.rerank(QUERY, []).shape == (0,)
        answer = model.create_rerank(QUERY, DOCUMENTS, top_n=2, return_documents=True)
        assert answer["usage"] == {"prompt_tokens": 22, "total_tokens": 22}
        assert answer["results"] == [
            {
                "index": index,
                "relevance_score": float(scores[index]),
                "document": {"text": DOCUMENTS[index]},
            }
            for index in order[:2]
        ]
        requests = Requests(model, ["tiny"], Limits(prompt_tokens=9))
        body = {"query": QUERY, "documents": DOCUMENTS}
        (served,) = requests.rerank(json.dumps(body).encode()).run(Cancel())
        assert served["model"] == "tiny"
        assert [each["index"] for each in served["results"]] == order
        assert "document" not in served["results"][0]
        with pytest.raises(ApiError, match="documents"):
            requests.rerank(json.dumps({**body, "documents": []}).encode())
        long = json.dumps({**body, "documents": ["a " * 9]}).encode()
        with pytest.raises(ContextFullError, match="at most 9"):
            next(requests.rerank(long).run(Cancel()))
    rows = [{"query": QUERY, "document": each} for each in [*DOCUMENTS, 3]]
    mapped = Reranker(str(bert))(rows)
    assert [row["score"] for row in mapped[:3]] == scores.tolist()
    assert "document" in mapped[3]["error"]
    lines = tmp_path / "documents.txt"
    lines.write_text("\n".join(DOCUMENTS[1:]))
    given = ["rerank", "-m", str(bert), QUERY, DOCUMENTS[0], "--documents", str(lines)]
    assert main(given) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in printed] == [DOCUMENTS[index] for index in order]
    assert [float(line[0]) for line in printed] == pytest.approx([expected[i] for i in order], 2e-3)
    assert main([*given[:4], "--json"]) == 2
    assert "--documents" in capsys.readouterr().err


@pytest.mark.usefixtures("float_keys")
def test_a_causal_reranker_gives_the_probability_of_yes(tmp_path: Path) -> None:
    """Its classifier is the rows of "yes" and "no" of an output matrix."""
    keys = {"feed_forward_length": 64, "attention.head_count": 4, "attention.key_length": 32}
    keys |= {"attention.layer_norm_rms_epsilon": 1e-5, "pooling_type": 4}
    model = RandomModel("qwen3", {**keys, "attention.value_length": 32})
    model.add_ends(output=False)
    for layer in range(3):
        block = f"blk.{layer}."
        add_attention(model, block, 4, 4, 32)
        add_ffn(model, block, 64)
        model.add_norm(block, "attn_norm", "ffn_norm")
        model.add_norm(block, "attn_q_norm", "attn_k_norm", size=32)
    model.add("cls.", 0, output=(2, 128))
    path = write_model(tmp_path / "m.gguf", model, PIECES)
    with Model.load(path) as loaded:
        answers = EncoderReference(path).tensors["cls.output.weight"]
        prompt = "a {document} b {query}"
        loaded.file.metadata["tokenizer.chat_template.rerank"] = prompt
        (found,) = loaded.rerank("c", ["{query} a"])
        ids = loaded.tokenizer.encode("a {query} a b c", add_bos=False, add_eos=False)
        yes, no = np.exp(answers @ loaded.hidden_states(ids)[-1].astype(np.float64))
        assert found == pytest.approx(yes / (yes + no), 1e-5)


def test_what_is_no_reranker(bert: Path, tmp_path: Path) -> None:
    with Model.load(bert) as model:
        for types in ([0], [0, 2], [-1, 0]):
            with pytest.raises(ArgumentError, match="types"):
                model.hidden_states([1, 2], types=types)
        session = model.new_session(8)
        session.rewind(0, "dense")
        for token in (2 * 128, -1):
            with pytest.raises(ArgumentError):
                session.evaluate(np.array([token], np.int32))
        with pytest.raises(ArgumentError, match="documents"):
            model.rerank(QUERY, "a text")
        with pytest.raises(UnsupportedError, match="pooling"):
            model.embed("a")
    plain, many, none = (copy.deepcopy(ENCODERS["bert"]) for _ in range(3))
    add_classifier(many, norm=False, outputs=3)
    none.keys["pooling_type"] = 4
    narrow = reranker("bert")
    narrow.tensors["cls.output.weight"] = (1, 64), 0
    for given, error, words in (
        (plain, UnsupportedError, "does not judge"),
        (many, UnsupportedError, "3 classes"),
        (none, ModelFileError, "neither"),
        (narrow, ModelFileError, "rows of 128"),
    ):
        path = write_model(tmp_path / "m.gguf", given, PIECES)
        with Model.load(path) as model, pytest.raises(error, match=words):
            model.rerank(QUERY, DOCUMENTS)
