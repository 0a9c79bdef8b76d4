"""Encoders, of which every token sees those before and after it: against their forward pass in
float64, and as embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.lib.encoder_models import encoder_models
from bench.lib.tensor_lists import write_model
from encoder_reference import EncoderReference, silu
from sparsefire.batch import Embedder
from sparsefire.core.enums import Limit
from sparsefire.core.hosts import open_core
from sparsefire.errors import ArgumentError, UnsupportedError
from sparsefire.lm.generation import Cancel
from sparsefire.lm.model import Model
from sparsefire.serve.fields import Limits
from sparsefire.serve.requests import Requests

pytestmark = pytest.mark.usefixtures("float_keys")

ENCODERS = dict(encoder_models())
TOKENS = [(37 * i + 11) % 128 for i in range(Limit.BATCH + 6)]
SHORT = [5, 99, 17]


def write(folder: Path, name: str) -> Path:
    return write_model(folder / f"{name}.gguf", ENCODERS[name])


@pytest.mark.parametrize("name", ENCODERS)
def test_states(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name)
    reference = EncoderReference(path)
    with Model.load(path) as model:
        for tokens in (TOKENS, SHORT):
            found, expected = model.hidden_states(tokens), reference.states(tokens)
            # With AMX numbers have 16 bits, and scores of T5 are not scaled.
            bound = 2e-9 if model.core.isa == "amx" else 1e-10
            assert ((found - expected) ** 2).sum() / (expected**2).sum() < bound


def test_embeddings_are_pooled_as_the_file_says(tmp_path: Path) -> None:
    for code, pooling in enumerate(("mean", "cls", "last"), start=1):
        model = ENCODERS["bert"]
        model.keys["pooling_type"] = code
        with Model.load(write(tmp_path, "bert")) as loaded:
            states = loaded.hidden_states(SHORT)
            wanted = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
            assert loaded.config.pooling == pooling
            found = loaded.embed(SHORT, normalize=False)
            assert np.allclose(found, wanted, atol=1e-6)
            assert np.array_equal(loaded.embed([SHORT, TOKENS], normalize=False)[0], found)
            assert np.allclose(loaded.embed(SHORT, pooling="last"), unit(states[-1]), atol=1e-6)
    for code in (0, (1 << 32) - 1):  # nothing is said
        model.keys["pooling_type"] = code
        with Model.load(write(tmp_path, "bert")) as loaded:
            assert loaded.config.pooling == ""
            assert np.allclose(loaded.embed(SHORT), unit(loaded.hidden_states(SHORT).mean(0)))
    model.keys["pooling_type"] = 1


def test_further_matrices_of_a_text(tmp_path: Path) -> None:
    model = next(each for name, each in encoder_models() if name == "gemma-embedding")
    model.add("dense_", 0, **{"2": (192, 128), "3": (64, 192)})
    path = write_model(tmp_path / "m.gguf", model)
    tensors = EncoderReference(path).tensors
    with Model.load(path) as loaded:
        vector = loaded.hidden_states(SHORT).mean(0)
        wanted = tensors["dense_3.weight"] @ (tensors["dense_2.weight"] @ vector)
        assert np.allclose(loaded.embed(SHORT), unit(wanted), atol=1e-6)
        assert loaded.embed([SHORT, SHORT]).shape == (2, 64)
        assert loaded.embed([]).shape == (0, 64)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_a_decoder_whose_file_says_so_sees_both_sides(tmp_path: Path) -> None:
    model = ENCODERS["eurobert"]
    model.architecture, model.tensors["output.weight"] = "qwen2", ((128, 128), 0)
    path = write(tmp_path, "eurobert")
    del model.tensors["output.weight"]
    model.architecture = "eurobert"
    reference = EncoderReference(path)
    reference.kind, reference.active = "eurobert", silu
    with Model.load(path) as loaded:
        expected = reference.states(SHORT)
        assert np.allclose(loaded.hidden_states(SHORT), expected, atol=1e-4)
        logits = expected @ reference.tensors["output.weight"].T
        assert np.allclose(loaded.logits(SHORT), logits, atol=1e-4)
        with pytest.raises(UnsupportedError, match="does not predict the next one"):
            loaded.generate(SHORT)


def test_what_encoders_do_not_do(tmp_path: Path) -> None:
    path = write(tmp_path, "bert")
    with Model.load(path) as model:
        for call in (
            lambda: model.generate(SHORT),
            lambda: model.logits(SHORT),
            lambda: model.perplexity(SHORT),
            lambda: list(model.token_scores(SHORT)),
            lambda: model.evaluate([(model.session, SHORT)]),
        ):
            with pytest.raises(UnsupportedError, match="is an encoder"):
                call()
        session = model.new_session(8)
        session.rewind(0, "dense")
        session.evaluate(np.array(SHORT, np.int32))
        with pytest.raises(UnsupportedError):
            session.evaluate(np.array(SHORT, np.int32))
        with pytest.raises(ArgumentError, match="pooling"):
            model.embed(SHORT, pooling="first")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="neuron_budget"):
        Model.load(path, neuron_budget=1 << 20)


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"\u2581{each}" for each in "abc"), "b", "c"]


def test_texts_become_vectors_in_python_jobs_and_over_http(tmp_path: Path) -> None:
    random = ENCODERS["bert"]
    path = write_model(tmp_path / "m.gguf", random, PIECES)
    texts = {"a b": [2, 4, 5, 3], "ab c": [2, 4, 7, 6, 3]}
    with Model.load(path) as model:
        vectors = model.embed(list(texts))
        for vector, ids in zip(vectors, texts.values(), strict=True):
            assert np.array_equal(vector, model.embed(ids))
        answer = model.create_embedding(list(texts))
        assert [each["embedding"] for each in answer["data"]] == vectors.tolist()
        requests = Requests(model, ["tiny"], Limits())
        body = json.dumps({"input": list(texts), "pooling": "mean"}).encode()
        (served,) = requests.embeddings(body).run(Cancel())
        assert [each["embedding"] for each in served["data"]] == vectors.tolist()
        with pytest.raises(UnsupportedError, match="is an encoder"):
            next(requests.completion(b'{"prompt": "a"}').run(Cancel()))
    mapped = Embedder(str(path))({"text": list(texts)})
    assert np.array_equal(np.stack(list(mapped["embedding"])), vectors)
    assert list(mapped["prompt_tokens"]) == [4, 5]


def test_threads_and_batches_change_no_bit(tmp_path: Path) -> None:
    path = write(tmp_path, "modern-bert")
    found = []
    for threads in (1, 3):
        core = open_core("native", threads=threads)
        with Model.load(path, core=core) as model:
            found.append(model.hidden_states(TOKENS))
    assert np.array_equal(*found)
