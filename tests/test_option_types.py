"""Options of every public function: a value of a wrong type is an `ArgumentError` that names the
option, before anything else happens, and None stands for the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import sparsefire as sf
from model_variants import variant_path
from sparsefire import _options
from sparsefire.calibrate.cutoffs import calibrate_cutoffs
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.files.inspect import inspect_file
from sparsefire.files.quantize import quantize_model

WRONG: dict[str, list[Any]] = {
    "count": ["a", 1.5, [1], True, b"1"],
    "number": ["a", [1.0], True, 1j],
    "flag": ["yes", 2, []],
    "text": [3, b"a", ["a"]],
    "texts": [3, b"a", [3], {"a"}],
    "numbers": [3, "a", ["a"], 0.5],
    "function": [3, "a"],
    "object": [3, "a", []],
    "format": [3.5, b"a", ["a"], True],
    "budget": ["a", 1.5, []],
    "path": [3, ["a"]],
    "mapping": [3, "a", [1]],
}

D, HIDDEN = 32, 40
W1, W2 = np.ones((HIDDEN, D)), np.ones((D, HIDDEN))
X = np.ones(D)
BYTES = np.zeros((1, D), np.int8)
MESSAGES = [{"role": "user", "content": "a"}]
MISSING = "no-such-directory/model.gguf"
SAMPLER = {
    "temperature": "number",
    "top_k": "count",
    "top_p": "number",
    "min_p": "number",
    "repeat_penalty": "number",
    "frequency_penalty": "number",
    "presence_penalty": "number",
    "logit_bias": "mapping",
    "seed": "count",
}
GENERATE = {
    **SAMPLER,
    "mode": "text",
    "stop": "texts",
    "cancel": "object",
    "context_shift": "flag",
    "keep": "count",
    "speculation": "flag",
}
ANSWER = {**GENERATE, "n": "count", "stream": "flag", "stream_options": "mapping", "model": "text"}
LAYER = sf.SparseFfn(W1, W2)
LOW_RANK = sf.LowRankPredictor(D, HIDDEN, 2)
WEIGHTS = sf.QuantizedWeights.from_f32(W1)


class Row(NamedTuple):
    """A function that takes options by name, their kinds, and what happens without any."""

    call: Callable[..., Any]
    kinds: dict[str, str]
    otherwise: type[Exception] | None = None


def with_model(method: str, *arguments: Any, **defaults: Any) -> Callable[..., Any]:
    def call(**options: Any) -> Any:
        options = {**defaults, **options}
        with sf.Model.load(variant_path("calibrated", 128)) as model:
            result = getattr(model, method)(*arguments, **options)
            return list(result) if isinstance(result, Iterator) else result

    return call


ROWS: dict[str, Row] = {
    "use_backend": Row(sf.use_backend, {"name": "text", "isa": "text", "threads": "count"}),
    "SparsityConfig.with_top_k": Row(
        partial(sf.SparsityConfig.with_top_k, 3), {"minimum": "count", "maximum": "count"}
    ),
    "SparsityConfig": Row(
        sf.SparsityConfig,
        {"top_k": "count", "threshold": "number", "target_sparsity": "number"},
        sf.ArgumentError,
    ),
    "LowRankPredictor": Row(
        partial(sf.LowRankPredictor, D, HIDDEN, 2),
        {
            "sparsity": "object",
            "seed": "count",
            "format": "format",
            "relu_between": "flag",
            "core": "object",
        },
    ),
    "LowRankPredictor.calibrate": Row(
        partial(LOW_RANK.calibrate, LAYER, [X]),
        {"recall": "number", "seed": "count"},
        sf.CalibrationError,
    ),
    "SignPredictor": Row(
        partial(sf.SignPredictor, W1),
        {"alpha": "number", "sparsity": "object", "hot": "count", "core": "object"},
    ),
    "SparseFfn": Row(
        partial(sf.SparseFfn, W1, W2),
        {
            "activation": "object",
            "format": "format",
            "parameter": "number",
            "predictor": "object",
            "core": "object",
        },
    ),
    "SparseFfn.set_sub_norm": Row(
        partial(sf.SparseFfn(W1, W2).set_sub_norm, np.ones(HIDDEN)), {"epsilon": "number"}
    ),
    "SparseFfn.set_cutoff": Row(partial(LAYER.set_cutoff, 0.0), {"on": "text"}),
    "SparseFfn.calibrate_cutoff": Row(
        partial(LAYER.calibrate_cutoff, [X]),
        {"max_error": "number", "on": "text", "seed": "count"},
        sf.CalibrationError,
    ),
    "SparseFfn.forward": Row(partial(LAYER.forward, X), {"mode": "text", "predictor": "object"}),
    "SparseFfn.load": Row(
        partial(sf.SparseFfn.load, MISSING),
        {"layer": "count", "activation": "object", "core": "object"},
        sf.ModelFileError,
    ),
    "CachedFfn.open": Row(
        partial(sf.CachedFfn.open, MISSING, sf.NeuronCache(hot_fraction=0.5)),
        {"layer": "count", "activation": "object", "predictor": "object", "core": "object"},
        sf.ModelFileError,
    ),
    "NeuronCache": Row(
        partial(sf.NeuronCache, hot_fraction=0.5),
        {"budget_bytes": "count", "policy": "object", "window": "count", "pinned": "number"},
    ),
    "QuantizedWeights.quantize": Row(
        partial(sf.QuantizedWeights.quantize, W1), {"format": "format", "core": "object"}
    ),
    "QuantizedWeights.int8": Row(
        partial(sf.QuantizedWeights.int8, BYTES, 1.0),
        {"zero_point": "count", "format": "format", "core": "object"},
    ),
    "QuantizedWeights.transpose": Row(
        sf.QuantizedWeights.from_f32(W1).transpose, {"format": "format"}
    ),
    "ActivationType.apply": Row(
        partial(sf.ActivationType("relu").apply, X), {"parameter": "number", "core": "object"}
    ),
    "Model.load": Row(
        partial(sf.Model.load, MISSING),
        {
            "activation": "object",
            "context": "count",
            "neuron_budget": "budget",
            "pre": "text",
            "mapped": "flag",
            "core": "object",
        },
        sf.ModelFileError,
    ),
    "Model.generate": Row(with_model("generate", "ab"), {"max_tokens": "count", **GENERATE}),
    "Model.create_completion": Row(
        with_model("create_completion", "ab"),
        {"max_tokens": "count", "echo": "flag", "logprobs": "count", **ANSWER},
    ),
    "Model.create_chat_completion": Row(
        with_model("create_chat_completion", MESSAGES, 2, chat_template="chatml"),
        {
            "logprobs": "flag",
            "top_logprobs": "count",
            "chat_template": "text",
            "chat_template_kwargs": "mapping",
            **ANSWER,
        },
        sf.UnsupportedError,  # the file has no template
    ),
    "Model.embed": Row(
        with_model("embed", "ab"), {"normalize": "flag", "pooling": "text", "mode": "text"}
    ),
    "Model.create_embedding": Row(with_model("create_embedding", "ab"), {"model": "text"}),
    "Model.rerank": Row(with_model("rerank", "a", ["b"]), {"mode": "text"}, sf.UnsupportedError),
    "Model.create_rerank": Row(
        with_model("create_rerank", "a", ["b"]),
        {"model": "text", "top_n": "count", "return_documents": "flag", "mode": "text"},
        sf.UnsupportedError,  # the model is no reranker
    ),
    "Model.perplexity": Row(
        with_model("perplexity", "abcdef"),
        {"context": "count", "mode": "text", "progress": "function"},
    ),
    "Model.tokenize": Row(with_model("tokenize", "ab"), {"add_bos": "flag", "special": "flag"}),
    "Model.logits": Row(with_model("logits", [3, 4]), {"mode": "text"}),
    "SamplerConfig": Row(sf.SamplerConfig, SAMPLER),
    "Cancel": Row(sf.Cancel, {"seconds": "number"}),
    "calibrate_model": Row(
        partial(sf.calibrate_model, MISSING, "/tmp/sparsefire-none.gguf", "a text"),
        {
            "rank": "count",
            "recall": "number",
            "tokens": "count",
            "format": "text",
            "predictor_format": "text",
            "activation": "object",
            "pre": "text",
            "seed": "count",
            "force": "flag",
            "progress": "function",
        },
        sf.ModelFileError,
    ),
    "calibrate_cutoffs": Row(
        partial(calibrate_cutoffs, MISSING, None, "a text"),
        {
            "sparsities": "numbers",
            "on": "texts",
            "perplexity_cost": "number",
            "even_if_slower": "flag",
            "tokens": "count",
            "activation": "object",
            "pre": "text",
            "seed": "count",
            "force": "flag",
            "progress": "function",
        },
        sf.ModelFileError,
    ),
    "quantize_model": Row(
        partial(quantize_model, MISSING, "/tmp/sparsefire-none.gguf", "q8_0"),
        {
            "output_format": "text",
            "embedding_format": "text",
            "force": "flag",
            "progress": "function",
            "core": "object",
        },
        sf.ModelFileError,
    ),
    "convert_checkpoint": Row(
        partial(convert_checkpoint, "no-such-directory", "/tmp/sparsefire-none.gguf"),
        {
            "format": "text",
            "name": "text",
            "pre": "text",
            "force": "flag",
            "progress": "function",
            "core": "object",
        },
        sf.ModelFileError,
    ),
    "inspect_file": Row(
        partial(inspect_file, MISSING),
        {"activation": "object", "context": "count", "pre": "text"},
        sf.ModelFileError,
    ),
}


@pytest.fixture(autouse=True)
def _same_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsefire.core import hosts

    monkeypatch.setattr(hosts, "_current", hosts.get_core())


@pytest.mark.parametrize("name", ROWS)
def test_wrong_types(name: str) -> None:
    row = ROWS[name]
    for option, kind in row.kinds.items():
        for value in WRONG[kind]:
            with pytest.raises(sf.ArgumentError, match=option.replace("model", "model|name")):
                row.call(**{option: value})


@pytest.mark.parametrize("name", ROWS)
def test_none_is_the_default(name: str) -> None:
    call, kinds, otherwise = ROWS[name]
    with nullcontext() if otherwise is None else pytest.raises(otherwise):
        call(**dict.fromkeys(kinds))


def test_required_arguments() -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: sf.LowRankPredictor("a", HIDDEN, 2), "input_dim"),  # type: ignore[arg-type]
        (lambda: sf.LowRankPredictor(D, None, 2), "hidden_dim"),  # type: ignore[arg-type]
        (lambda: sf.SparsityConfig.with_threshold([1]), "threshold"),  # type: ignore[arg-type]
        (lambda: LAYER.set_cutoff("a"), "cutoff"),  # type: ignore[arg-type]
        (lambda: LAYER.set_both_active(1), "both"),  # type: ignore[arg-type]
        (lambda: LAYER.set_gate_deviations("a"), "deviations"),  # type: ignore[arg-type]
        (lambda: LAYER.set_predictor(3), "predictor"),  # type: ignore[arg-type]
        (lambda: LAYER.set_second_down(3), "down"),  # type: ignore[arg-type]
        (lambda: LAYER.save_bundles(3), "path"),  # type: ignore[arg-type]
        (lambda: LOW_RANK.save(3), "path"),  # type: ignore[arg-type]
        (lambda: sf.LowRankPredictor.load(3), "path"),  # type: ignore[arg-type]
        (lambda: sf.CachedFfn.open(MISSING, 3), "cache"),  # type: ignore[arg-type]
        (lambda: WEIGHTS.dequantize_row("a"), "row"),  # type: ignore[arg-type]
        (lambda: sf.QuantizedWeights.int8(BYTES, None), "scale"),  # type: ignore[arg-type]
        (lambda: sf.ChatTemplate(3), "sources"),  # type: ignore[arg-type]
        (lambda: quantize_model(3, "a", "q8_0"), "source"),  # type: ignore[arg-type]
        (lambda: quantize_model("a", "b", 3), "format"),  # type: ignore[arg-type]
        (lambda: convert_checkpoint(3, "a"), "directory"),  # type: ignore[arg-type]
        (lambda: sf.Model.load(3), "a path, bytes or a binary file"),  # type: ignore[arg-type]
    ]
    for call, message in wrong:
        with pytest.raises(sf.ArgumentError, match=message):
            call()


def test_prompts_and_texts() -> None:
    with sf.Model.load(variant_path("calibrated")) as model:
        for wrong in (3, b"ab", None, [[1], [2, 3]], [1.5], {"a": 1}, [True, "a"]):
            for method in (model.generate, model.create_completion, model.embed, model.logits):
                if wrong == [[1], [2, 3]] and method in (model.create_completion, model.embed):
                    continue  # a list of prompts
                with pytest.raises(sf.ArgumentError, match=r"prompt|text|token_ids"):
                    method(wrong)  # type: ignore[arg-type, operator]
        for text in (3, b"ab", None, ["a"]):
            with pytest.raises(sf.ArgumentError, match="text"):
                model.tokenize(text)  # type: ignore[arg-type]
        for bias in ({"a": 1.0}, {3: "a"}, {3: None}):
            with pytest.raises(sf.ArgumentError, match="logit_bias"):
                model.generate("a", logit_bias=bias)  # type: ignore[arg-type]


def test_numbers_of_every_kind() -> None:
    for value in (1, 1.0, np.float32(1), np.int16(1), np.array(1.0), Fraction(1)):
        assert _options.number(value, "x") == 1.0
    for whole in (1, np.int64(1), np.array(1)):
        assert _options.count(whole, "x") == 1
    assert _options.flag(np.True_, "x") is True
    assert _options.path("a", "x") == Path("a")


def test_a_long_value_is_not_printed() -> None:
    with pytest.raises(sf.ArgumentError) as failure:
        sf.NeuronCache(hot_fraction="a" * 1000)  # type: ignore[arg-type]
    assert str(failure.value) == "hot_fraction must be a number, got a str"


def test_decorated_functions_keep_their_signature() -> None:
    import inspect

    assert next(iter(inspect.signature(sf.SparsityConfig.with_top_k).parameters)) == "k"
    assert "mapped" in inspect.signature(sf.Model.load).parameters
    assert "temperature" in inspect.signature(sf.Model.create_completion).parameters
