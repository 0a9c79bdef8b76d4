"""Models against an independent float64 forward pass, on every host and instruction set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefire as sf
import tiny_model
from conftest import missing
from reference import Reference, relative_error
from sparsefire import model as model_module
from sparsefire._core import Core, open_core
from sparsefire.errors import (
    ArgumentError,
    ContextFullError,
    ModelFileError,
    NotFiniteError,
    SparsefireError,
    UnsupportedError,
)
from sparsefire.generation import StopFilter
from sparsefire.model import Model
from tiny_model import END, Tiny

# -- cores and models --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


VARIANTS: dict[str, Tiny] = {
    "f32": Tiny(),
    "f16": Tiny(format="F16"),
    "q8_0": Tiny(format="Q8_0"),
    "untied, no groups": Tiny(tied=False, kv_heads=4),
    "one group": Tiny(kv_heads=1),
    "three heads a group": Tiny(d=96, heads=6, kv_heads=2, format="Q8_0"),
    "odd sizes": Tiny(d=40, hidden=37, heads=5, kv_heads=1, vocab=263),
    "head_dim of its own": Tiny(head_dim=24, rope_dims=16),
    "silu": Tiny(activation=None),
    "silu q8_0": Tiny(activation="silu", format="Q8_0"),
    "gelu": Tiny(activation="gelu_erf"),
    "relu2": Tiny(activation="relu2", layers=1),
    "biases": Tiny(biases=True, format="F16"),
    "rope factors": Tiny(rope_factors=True),
    "llama3 factors": Tiny(rope_factors=True, keys={"llama.rope.scaling.type": "llama3"}),
    "linear scaling": Tiny(
        keys={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    ),
    "mixed formats": Tiny(format="Q8_0", down_format="F16"),
    "mixed formats, odd": Tiny(d=40, hidden=64, heads=5, kv_heads=1, down_format="Q8_0"),
    "calibrated": Tiny(bundled=True, rank=16),
    "calibrated q8_0": Tiny(bundled=True, rank=32, format="Q8_0"),
    "calibrated, ungated": Tiny(bundled=True, gated=False, rank=16, format="F16"),
    "calibrated silu": Tiny(bundled=True, activation="silu", biases=True),
}
RELU_LIKE = ("relu", "relu2")


def modes(tiny: Tiny) -> list[str]:
    found = ["dense"]
    if tiny.activation in RELU_LIKE or tiny.bundled:
        found.append("exact")
    if tiny.rank:
        found.append("sparse")
    return found


def variant_path(folder: Path, name: str) -> Path:
    path = folder / f"{name}.gguf"
    return path if path.exists() else tiny_model.write(path, VARIANTS[name])


IDS = np.random.default_rng(1).integers(0, 263, 21).tolist()


@cache
def reference_logits(path: Path, sparse: bool) -> Any:
    """Logits, up to where a neuron is too close to being chosen or not."""
    reference = Reference(path)
    logits = reference.logits(IDS, sparse=sparse)
    error = 3e-4 if "q8_0" in path.name else 1e-5
    clear = [margin > error for margin in reference.margins]
    return logits[: clear.index(False) if sparse and False in clear else None]


@pytest.fixture
def tiny(folder: Path) -> Iterator[Model]:
    """A calibrated model on the default core."""
    with Model.load(variant_path(folder, "calibrated")) as model:
        yield model


def bits(logits: np.ndarray) -> bytes:
    return logits.tobytes()


# -- logits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_the_reference(name: str, core: Core, folder: Path) -> None:
    path = variant_path(folder, name)
    # Q8_0 weights meet inputs rounded to 16 bits, which shows in rows of only 64 weights.
    tolerance = 2e-4 if "Q8_0" in (VARIANTS[name].format, VARIANTS[name].down_format) else 1e-5
    with Model.load(path, core=core) as model:
        for mode in modes(VARIANTS[name]):
            wanted = reference_logits(path, mode == "sparse")
            logits = model.logits(IDS, mode=mode)
            assert logits.shape == (len(IDS), VARIANTS[name].vocab)
            assert logits.dtype == np.float32
            assert len(wanted) > 5
            assert relative_error(logits[: len(wanted)], wanted) < tolerance, mode


def test_the_reference_can_tell_models_apart(folder: Path) -> None:
    """Otherwise agreement would mean nothing."""
    plain = reference_logits(variant_path(folder, "f32"), False)
    for name in ("rope factors", "linear scaling"):  # the same weights, one key or tensor more
        assert relative_error(reference_logits(variant_path(folder, name), False), plain) > 1e-3
    calibrated = variant_path(folder, "calibrated")
    sparse, dense = (reference_logits(calibrated, flag) for flag in (True, False))
    assert relative_error(sparse, dense[: len(sparse)]) > 1e-3


def embedded_model() -> Path:
    try:
        return model_module.default_model()
    except ModelFileError as error:
        missing(str(error))


def test_embedded_model_equals_the_reference(core: Core) -> None:
    path = embedded_model()
    with Model.load(path, core=core) as model:
        ids = model.tokenize("The people of the United States, and of every nation, ")
        wanted = _embedded_reference(path, tuple(ids))
        for mode in ("dense", "exact"):
            assert relative_error(model.logits(ids, mode=mode), wanted) < 1e-4


@cache
def _embedded_reference(path: Path, ids: tuple[int, ...]) -> Any:
    return Reference(path).logits(list(ids))


@pytest.mark.parametrize("name", ["calibrated", "calibrated q8_0", "silu", "f16"])
def test_batches_do_not_change_a_bit(name: str, core: Core, folder: Path) -> None:
    """A prompt at once, token by token, and in uneven parts."""
    tiny = VARIANTS[name]
    path = folder / f"{name} long.gguf"
    if not path.exists():
        tiny_model.write(path, tiny, context=150)
    ids = np.random.default_rng(2).integers(0, tiny.vocab, 131).astype(np.int32)
    with Model.load(path, core=core) as model:
        for mode in modes(tiny):
            at_once = model.logits(ids, mode=mode)
            session = model.new_session(131)
            session.rewind(0, mode)
            one_by_one = np.array([session.step(int(token)).copy() for token in ids])
            assert bits(one_by_one) == bits(at_once), mode
            uneven = np.empty_like(at_once)
            session.rewind(0, mode)
            for start, end in ((0, 1), (1, 34), (34, 66), (66, 131)):
                session.evaluate(ids[start:end], uneven[start:end])
            assert bits(uneven) == bits(at_once), mode


@pytest.mark.parametrize("name", ["calibrated", "calibrated q8_0", "silu q8_0", "odd sizes"])
def test_threads_do_not_change_a_bit(name: str, folder: Path) -> None:
    results: dict[str, set[bytes]] = {}
    for threads in (1, 2, 3, 8):
        core = open_core("native", threads=threads)
        assert core.threads == threads
        with Model.load(variant_path(folder, name), core=core) as model:
            for mode in modes(VARIANTS[name]):
                results.setdefault(mode, set()).add(bits(model.logits(IDS, mode=mode)))
    assert {mode: len(found) for mode, found in results.items()} == dict.fromkeys(results, 1)


@pytest.mark.parametrize("name", ["calibrated", "calibrated q8_0", "q8_0", "silu"])
def test_greedy_tokens_are_the_same_everywhere(name: str, core: Core, folder: Path) -> None:
    path = variant_path(folder, name)
    with Model.load(path, core=core) as model, Model.load(path) as other:
        for mode in modes(VARIANTS[name]):
            for each in (model, other):
                "".join(each.generate([5, 6, 7], 40, mode=mode, temperature=0))
            assert model.stats.token_ids == other.stats.token_ids, mode
            assert model.stats.backend == core.host
            assert model.stats.isa == core.isa


PYODIDE_RUN = """
import sparsefire as sf
with sf.Model.load("/tmp/tiny.gguf") as model:
    result = {{}}
    for mode in {modes}:
        "".join(model.generate([5, 6, 7], 40, mode=mode, temperature=0))
        logits = model.logits({ids}, mode=mode)
        result[mode] = [model.stats.backend, logits.tolist()]
        "".join(model.generate([5, 6, 7], 40, mode=mode, temperature=0))
        result[mode].append(model.stats.token_ids)
result
"""


@pytest.mark.pyodide
@pytest.mark.parametrize("name", ["calibrated", "calibrated q8_0", "silu"])
def test_pyodide_equals_native(name: str, pyodide: Any, folder: Path) -> None:
    path = variant_path(folder, name)
    pyodide.write("/tmp/tiny.gguf", path.read_bytes())
    results = pyodide.run(PYODIDE_RUN.format(modes=modes(VARIANTS[name]), ids=IDS))
    with Model.load(path) as model:
        for mode in modes(VARIANTS[name]):
            backend, logits, token_ids = results[mode]
            assert backend == "pyodide"
            assert token_ids == greedy(model, [5, 6, 7], 40, mode=mode)
            wanted = reference_logits(path, mode == "sparse")
            assert relative_error(np.array(logits)[: len(wanted)], wanted) < 2e-4


def test_exact_equals_dense(folder: Path) -> None:
    with Model.load(variant_path(folder, "calibrated")) as model:
        dense, exact = (model.logits(IDS, mode=mode) for mode in ("dense", "exact"))
    assert relative_error(exact, dense.astype(np.float64)) < 1e-6


@pytest.mark.parametrize("kind", ["path", "bytes", "stream"])
def test_every_source_gives_the_same_model(kind: str, folder: Path) -> None:
    path = variant_path(folder, "calibrated")
    source: Any = {
        "path": path,
        "bytes": path.read_bytes(),
        "stream": io.BytesIO(path.read_bytes()),
    }
    with Model.load(path) as model, Model.load(source[kind]) as other:
        assert bits(model.logits(IDS)) == bits(other.logits(IDS))


def test_logits_of_few_tokens(tiny: Model) -> None:
    assert tiny.logits([]).shape == (0, 270)
    assert bits(tiny.logits(IDS[:1])) == bits(tiny.logits(IDS)[:1])
    assert bits(tiny.logits(np.array(IDS, np.uint16))) == bits(tiny.logits(IDS))


def test_activation_is_the_users_then_the_files_then_the_architectures(folder: Path) -> None:
    plain, named = variant_path(folder, "silu"), variant_path(folder, "f32")
    for path, given_name, used in (
        (plain, None, "silu"),
        (named, None, "relu"),
        (named, "gelu_pytorch_tanh", "gelu_tanh"),
        (plain, "relu", "relu"),
    ):
        with Model.load(path, activation=given_name) as model:
            assert model.config.activation == used
            wanted = Reference(path, activation=used).logits(IDS)
            assert relative_error(model.logits(IDS), wanted) < 1e-5


def test_fatrelu(tmp_path: Path) -> None:
    keys = {"llama.hidden_activation_threshold": 0.0}
    path = tiny_model.write(tmp_path / "a.gguf", activation="fatrelu", keys=keys)
    with Model.load(path) as model:
        wanted = Reference(path, activation="relu").logits(IDS)
        assert relative_error(model.logits(IDS), wanted) < 1e-5
    path = tiny_model.write(tmp_path / "b.gguf", activation="fatrelu")
    with pytest.raises(ModelFileError, match="hidden_activation_threshold' is missing"):
        Model.load(path)


def test_ffn_inputs(tiny: Model) -> None:
    """What is recorded, sent through the first layer, must select as many neurons as the run."""
    ids = np.random.default_rng(3).integers(0, 270, 48)
    for count in (1, 48):
        inputs = tiny.ffn_inputs(ids[:count], mode="sparse")
        assert inputs.shape == (count, 2, 64)
        tiny.logits(ids[:count], mode="sparse")
        for layer, ffn in enumerate(tiny.ffns):
            ffn.forward(np.ascontiguousarray(inputs[:, layer]), mode="sparse")
            share = ffn.counts.active.sum() / (count * 96)
            assert share == pytest.approx(tiny.stats.active_share.layers[layer])
    with pytest.raises(ContextFullError, match=r"1 … 48 tokens, got 0"):
        tiny.ffn_inputs([])
    # Recording has ended: a longer run would not fit in the buffer.
    assert len(tiny.logits(ids)) == 48


# -- generation --------------------------------------------------------------------------------


def greedy(model: Model, prompt: Any, n: int, **options: Any) -> list[int]:
    "".join(model.generate(prompt, n, temperature=0, **options))
    return list(model.stats.token_ids)


def test_generation_follows_the_logits(tiny: Model) -> None:
    ids = list(IDS[:5])
    made = greedy(tiny, ids, 20)
    assert len(made) == 20
    assert tiny.stats.finish_reason == "length"
    logits = tiny.logits(ids + made)
    assert made == logits[4:-1].argmax(axis=1).tolist()


def test_text_is_that_of_the_tokens(tiny: Model) -> None:
    pieces = list(tiny.generate("a b", 30, temperature=2.0, top_k=0, top_p=1.0, min_p=0, seed=4))
    assert "" not in pieces
    assert "".join(pieces) == tiny.detokenize(tiny.stats.token_ids)
    assert tiny.stats.prompt_token_ids == tiny.tokenize("a b")


def test_seeds(tiny: Model) -> None:
    def run(seed: int) -> list[int]:
        "".join(tiny.generate("ab", 20, temperature=3.0, top_k=0, min_p=0, seed=seed))
        return list(tiny.stats.token_ids)

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def test_what_was_read_before_is_used_again(tiny: Model) -> None:
    ids = list(IDS[:12])
    first = greedy(tiny, ids, 10)
    assert tiny.stats.evaluated_tokens == 12 + 9
    assert greedy(tiny, ids, 10) == first
    assert tiny.stats.evaluated_tokens == 1 + 9
    # The start of the text is kept, the rest is not.
    other = greedy(tiny, [*ids[:6], 3], 10)
    assert tiny.stats.evaluated_tokens == 1 + 9
    with Model.load(tiny.file.name) as fresh:
        assert greedy(fresh, [*ids[:6], 3], 10) == other
        # Another mode makes other keys and values.
        dense = greedy(fresh, ids, 10, mode="dense")
        assert fresh.stats.evaluated_tokens == 12 + 9
    assert greedy(tiny, ids, 10, mode="dense") == dense


def test_runs_may_alternate(tiny: Model) -> None:
    prompts = ([1, 2, 3], [9, 8, 7, 6])
    alone = [list(tiny.generate(prompt, 12, temperature=0)) for prompt in prompts]
    runs = [tiny.generate(prompt, 12, temperature=0) for prompt in prompts]
    mixed: list[list[str]] = [[], []]
    for _ in range(30):
        for pieces, run in zip(mixed, runs, strict=True):
            pieces += [piece for piece in (next(run, None),) if piece is not None]
        tiny.logits([4, 4])
    assert ["".join(pieces) for pieces in mixed] == ["".join(pieces) for pieces in alone]


def test_generation_ends_where_the_model_ends_the_text(folder: Path, tmp_path: Path) -> None:
    path = variant_path(folder, "f32")
    with Model.load(path) as model:
        made = greedy(model, [1, 2, 3], 10)
    ending = made[4]
    first = made.index(ending)
    path = tiny_model.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.eot_token_id": ending})
    with Model.load(path) as model:
        assert greedy(model, [1, 2, 3], 10) == made[:first]
        assert model.stats.finish_reason == "end"


def test_generation_ends_at_the_end_of_the_context(tiny: Model) -> None:
    made = greedy(tiny, list(IDS), 1000)
    assert tiny.stats.finish_reason == "context"
    # The last token needs no place of its own.
    assert len(IDS) + len(made) == tiny.context + 1
    full = [1] * tiny.context
    assert len(greedy(tiny, full, 5)) == 1
    with pytest.raises(ContextFullError, match="49 tokens but the context holds 48"):
        tiny.generate([1] * 49)


def test_smaller_context(folder: Path) -> None:
    path = variant_path(folder, "calibrated")
    with Model.load(path, context=8) as model:
        assert model.context == 8
        with pytest.raises(ContextFullError, match=r"larger context \(at most 48\)"):
            model.generate([1] * 9)
        with pytest.raises(ContextFullError, match="9 tokens do not fit"):
            model.logits([1] * 9)
    for context in (0, -1, 49):
        with pytest.raises(ArgumentError, match=r"outside 1 … 48"):
            Model.load(path, context=context)


def test_empty_prompts(tiny: Model, tmp_path: Path) -> None:
    assert greedy(tiny, "", 5) == greedy(tiny, [END], 5)
    path = tiny_model.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.bos_token_id": None})
    with Model.load(path) as model, pytest.raises(ArgumentError, match="prompt is empty"):
        model.generate("")


def test_no_tokens_wanted(tiny: Model) -> None:
    assert list(tiny.generate("ab", 0)) == []
    assert tiny.stats.finish_reason == "length"
    assert tiny.stats.evaluated_tokens == 0


def test_stop_texts(tiny: Model) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "seed": 8, "top_k": 0, "min_p": 0}
    whole = "".join(tiny.generate("ab", 40, **options))
    stop = whole[10:13]
    assert "".join(tiny.generate("ab", 40, stop=stop, **options)) == whole[: whole.index(stop)]
    assert tiny.stats.finish_reason == "stop"
    assert "".join(tiny.generate("ab", 40, stop=["not there", "\0\0"], **options)) == whole


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=4)),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_filter(pieces: list[str], stops: list[str]) -> None:
    filtered, shown = StopFilter(stops), ""
    for piece in pieces:
        shown += filtered.feed(piece)
        if filtered.stopped:
            break
    shown += filtered.finish()
    text = "".join(pieces)
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert shown == text
        return
    # The stop that is complete first ends the text, even when a longer one began before it.
    assert filtered.stopped
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert any(text.startswith(stop, len(shown)) for stop in stops)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "quick"}, "mode 'quick'"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"prompt": [270]}, "token id 270 is outside"),
        ({"prompt": [-1]}, "token id -1 is outside"),
        ({"prompt": [[1]]}, "list of integers"),
        ({"prompt": [0.5]}, "list of integers"),
    ],
)
def test_arguments_are_checked_at_once(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tiny.generate(**{"prompt": "a", **options})


def test_interrupted_between_core_and_python(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come when the core has taken a token in and Python has not noted it."""
    ids = list(IDS[:6])
    wanted = greedy(tiny, ids, 8)
    session = tiny._session
    check = session.core.check

    def interrupted(name: str, *args: Any, **options: Any) -> int:
        result = check(name, *args, **options)
        if name == "sf_session_eval":
            raise KeyboardInterrupt
        return result

    run = tiny.generate([*ids, 1], 8, temperature=0)
    next(run)
    monkeypatch.setattr(session.core, "check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        "".join(run)
    monkeypatch.undo()
    assert greedy(tiny, ids, 8) == wanted


# -- statistics --------------------------------------------------------------------------------


def test_statistics(tiny: Model) -> None:
    hidden, layers = tiny.config.hidden, tiny.config.layers
    for mode in ("dense", "exact", "sparse"):
        made = greedy(tiny, [1, 2, 3], 6, mode=mode)
        stats = tiny.stats
        assert (stats.prompt_tokens, stats.n_tokens, stats.mode) == (3, 6, mode)
        assert stats.evaluated_tokens == 8
        assert stats.tokens_per_s > 0
        for share in (stats.active_share, stats.selected_share):
            assert len(share.layers) == layers
            assert share.mean == pytest.approx(np.mean(share.layers))
        inputs = tiny.ffn_inputs([1, 2, 3, *made[:-1]], mode=mode)
        for layer, ffn in enumerate(tiny.ffns):
            ffn.forward(np.ascontiguousarray(inputs[:, layer]), mode=mode)
            wanted = (
                ffn.counts.active.sum() / (8 * hidden),
                ffn.counts.selected.sum() / (8 * hidden),
            )
            assert stats.active_share.layers[layer] == pytest.approx(wanted[0])
            assert stats.selected_share.layers[layer] == pytest.approx(wanted[1])
        if mode == "dense":
            assert stats.active_share.mean == stats.selected_share.mean == 1
        if mode == "exact":
            assert stats.selected_share.mean == 1 > stats.active_share.mean > 0
        if mode == "sparse":
            assert 1 > stats.selected_share.mean > stats.active_share.mean > 0
        assert mode in repr(stats)
        assert stats.as_dict()["n_tokens"] == 6


def test_statistics_of_a_broken_off_run(tiny: Model) -> None:
    run = tiny.generate([1, 2, 3], 30, temperature=0)
    next(run)
    run.close()
    assert tiny.stats.finish_reason == ""
    assert tiny.stats.evaluated_tokens >= 3
    assert tiny.stats.active_share.mean > 0


def test_default_modes(folder: Path) -> None:
    for name, mode in (("calibrated", "sparse"), ("f32", "exact"), ("silu", "dense")):
        with Model.load(variant_path(folder, name)) as model:
            model.logits([1])
            assert model.stats.mode == model.config.default_mode == mode


def test_modes_that_a_model_does_not_have(folder: Path) -> None:
    for name, mode, message in (
        ("f32", "sparse", "sparse mode needs a calibrated model"),
        ("silu", "exact", "silu has hardly any"),
    ):
        with Model.load(variant_path(folder, name)) as model:
            with pytest.raises(UnsupportedError, match=message):
                model.logits([1], mode=mode)
            with pytest.raises(UnsupportedError, match=message):
                model.generate("a", mode=mode)


# -- perplexity --------------------------------------------------------------------------------


def perplexity_by_hand(model: Model, ids: list[int], context: int, mode: str) -> tuple[float, int]:
    losses = []
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        logits = model.logits(window, mode=mode).astype(np.float64)
        for row, token in zip(logits, window[1:], strict=False):
            losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[token])
    return float(np.exp(np.mean(losses))), len(losses)


@pytest.mark.parametrize("mode", ["dense", "exact", "sparse"])
@pytest.mark.parametrize(("count", "context"), [(100, 48), (97, 48), (60, 7), (2, 2), (48, 48)])
def test_perplexity(tiny: Model, mode: str, count: int, context: int) -> None:
    ids = np.random.default_rng(4).integers(0, 270, count).tolist()
    result = tiny.perplexity(ids, context, mode=mode)
    wanted, scored = perplexity_by_hand(tiny, ids, context, mode)
    assert result.n_scored == scored
    assert result.perplexity == pytest.approx(wanted, rel=1e-6)
    assert result.loss == pytest.approx(np.log(wanted), rel=1e-6)
    assert result.active_share.mean > 0
    assert result.tokens_per_s > 0


def test_perplexity_against_the_reference(folder: Path) -> None:
    path = variant_path(folder, "f32")
    wanted = reference_logits(path, False)
    losses = np.log(np.exp(wanted).sum(axis=1))[:-1] - wanted[np.arange(20), IDS[1:]]
    with Model.load(path) as model:
        assert model.perplexity(IDS).loss == pytest.approx(losses.mean(), rel=1e-6)


def test_perplexity_of_text_reports_progress(tiny: Model) -> None:
    text = "ab cd <|end|> abcd " * 10
    ids = tiny.tokenize(text, special=False)
    assert END not in ids
    calls: list[tuple[int, int, float]] = []
    result = tiny.perplexity(text, 20, progress=lambda *call: calls.append(call))
    assert result == tiny.perplexity(ids, 20) or result.loss == tiny.perplexity(ids, 20).loss
    assert [done for done, _, _ in calls] == [*range(20, len(ids), 20), len(ids)]
    assert {total for _, total, _ in calls} == {len(ids)}
    assert calls[-1][2] == pytest.approx(result.perplexity)


def test_perplexity_needs_something_to_score(tiny: Model) -> None:
    for text in ("", [7], "a"):
        with pytest.raises(ArgumentError, match="2 tokens or more"):
            tiny.perplexity(text)
    for context in (0, 1, 49):
        with pytest.raises(ArgumentError, match=r"outside 2 … 48"):
            tiny.perplexity([1, 2, 3], context)


# -- closing, and where models come from -------------------------------------------------------


def test_closed(folder: Path) -> None:
    model = Model.load(variant_path(folder, "f32"))
    assert "llama" in repr(model)
    model.close()
    model.close()
    for use in (model.logits, model.generate, model.perplexity):
        with pytest.raises(ArgumentError, match="closed"):
            use([1, 2])


def test_default_source(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = variant_path(folder, "f32")
    monkeypatch.setenv("SPARSEFIRE_MODEL", str(path))
    with sf.Model.load() as model:
        assert model.file.name == str(path)
    monkeypatch.delenv("SPARSEFIRE_MODEL")
    monkeypatch.setattr(model_module, "_EMBEDDED", tmp_path)
    with pytest.raises(ModelFileError, match="no model comes with this installation"):
        sf.Model.load()


# -- files that are not right ------------------------------------------------------------------

VECTOR = np.ones(64, np.float32)
NAN_VECTOR = np.where(np.arange(64) == 5, np.nan, VECTOR).astype(np.float32)


def nan_matrix(rows: int, columns: int, value: float = np.nan) -> np.ndarray:
    matrix = np.ones((rows, columns), np.float32)
    matrix[rows // 2, columns // 3] = value
    return matrix


BAD_KEYS: list[tuple[dict[str, Any], type[SparsefireError], str]] = [
    ({"general.architecture": "gpt2"}, UnsupportedError, "architecture 'gpt2'.*supported: llama"),
    ({"llama.block_count": None}, ModelFileError, "block_count' is missing"),
    ({"llama.block_count": 0}, ModelFileError, "block_count' is 0"),
    ({"llama.block_count": 2**31}, ModelFileError, "block_count' is 2147483648"),
    ({"llama.block_count": "two"}, ModelFileError, "block_count' is 'two'"),
    ({"llama.block_count": 3}, ModelFileError, "tensor 'blk.2.attn_q.weight' is missing"),
    ({"llama.block_count": 1}, UnsupportedError, "tensor 'blk.1..*' is not part"),
    ({"llama.embedding_length": None}, ModelFileError, "embedding_length' is missing"),
    ({"llama.embedding_length": 32}, ModelFileError, "shape .270, 64., expected .270, 32."),
    ({"llama.embedding_length": 2**30}, ModelFileError, "embedding_length' is 1073741824"),
    ({"llama.attention.head_count": 0}, ModelFileError, "head_count' is 0"),
    ({"llama.attention.head_count": 3}, ModelFileError, "head_count_kv' is 2.*the 3 heads"),
    ({"llama.attention.head_count_kv": 5}, ModelFileError, "head_count_kv' is 5"),
    ({"llama.attention.head_count_kv": [2, 1]}, UnsupportedError, "differs between layers"),
    ({"llama.attention.key_length": 8}, ModelFileError, "'blk.0.attn_q.weight' has shape"),
    ({"llama.attention.value_length": 8}, ModelFileError, "value_length' is not"),
    ({"llama.feed_forward_length": 95}, ModelFileError, "'blk.0.ffn_gate.weight' has shape"),
    ({"llama.rope.dimension_count": 7}, ModelFileError, "even"),
    ({"llama.rope.dimension_count": 99}, ModelFileError, "dimension_count' is 99"),
    ({"llama.rope.freq_base": 0.0}, ModelFileError, "freq_base' is 0.0"),
    ({"llama.rope.freq_base": float("nan")}, ModelFileError, "freq_base' is nan"),
    ({"llama.rope.freq_base": float("inf")}, ModelFileError, "freq_base' is inf"),
    ({"llama.rope.scaling.type": "yarn"}, UnsupportedError, "scaling of type 'yarn'"),
    ({"llama.rope.scaling.type": "llama3"}, UnsupportedError, "rope_freqs.weight"),
    (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.0},
        ModelFileError,
        "scaling.factor",
    ),
    ({"llama.attention.layer_norm_rms_epsilon": None}, ModelFileError, "rms_epsilon' is missing"),
    ({"llama.attention.layer_norm_rms_epsilon": 2.0}, ModelFileError, "rms_epsilon' is 2.0"),
    ({"llama.context_length": None}, ModelFileError, "context_length' is missing"),
    ({"llama.context_length": 2**30}, ModelFileError, "context_length' is"),
    ({"llama.hidden_activation": "sine"}, UnsupportedError, "unknown activation 'sine'"),
    ({"llama.hidden_activation": 3}, ModelFileError, "hidden_activation' is 3"),
    ({"llama.expert_count": 8}, UnsupportedError, "expert_count' is 8"),
    ({"sparsefire.version": 2}, UnsupportedError, "version 2"),
    ({"sparsefire.version": 1}, ModelFileError, "hot_counts"),
    ({"sparsefire.version": 1, "sparsefire.hot_counts": [1]}, ModelFileError, "2 counts"),
    ({"sparsefire.version": 1, "sparsefire.hot_counts": [1, 97]}, ModelFileError, "to 96"),
    ({"sparsefire.version": 1, "sparsefire.hot_counts": [-1, 9]}, ModelFileError, "from 0"),
    (
        {
            "tokenizer.ggml.tokens": [f"t{i}" for i in range(271)],
            "tokenizer.ggml.token_type": None,
        },
        ModelFileError,
        "names 271 tokens.*270 rows",
    ),
]


@pytest.mark.parametrize(("keys", "error", "message"), BAD_KEYS)
def test_bad_keys(
    keys: dict[str, Any], error: type[SparsefireError], message: str, tmp_path: Path
) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", keys=keys)
    with pytest.raises(error, match=message) as caught:
        Model.load(path)
    assert str(caught.value).startswith(str(path))


BAD_TENSORS: list[tuple[dict[str, Any], type[SparsefireError], str]] = [
    ({"token_embd.weight": None}, ModelFileError, "'token_embd.weight' is missing"),
    ({"token_embd.weight": VECTOR}, ModelFileError, r"'token_embd.weight' has shape \(64,\)"),
    ({"output_norm.weight": None}, ModelFileError, "'output_norm.weight' is missing"),
    ({"output_norm.weight": VECTOR[:63]}, ModelFileError, r"shape \(63,\), expected \(64,\)"),
    ({"output.weight": np.ones((9, 64))}, ModelFileError, "'output.weight' has shape"),
    ({"blk.1.attn_k.weight": None}, ModelFileError, "'blk.1.attn_k.weight' is missing"),
    ({"blk.1.attn_k.weight": np.ones((64, 64))}, ModelFileError, r"expected \(32, 64\)"),
    ({"blk.0.ffn_gate.weight": None}, ModelFileError, "'blk.0.ffn_gate.weight' is missing"),
    ({"blk.0.ffn_down.weight": np.ones((96, 64))}, ModelFileError, r"expected \(64, 96\)"),
    ({"blk.0.attn_q.bias": VECTOR}, UnsupportedError, "'blk.0.attn_q.bias' is not part"),
    ({"blk.0.ffn_gate_inp.weight": np.ones((4, 64))}, UnsupportedError, "ffn_gate_inp"),
    ({"blk.0.ffn_up.bias": VECTOR}, ModelFileError, r"'blk.0.ffn_up.bias' has shape"),
    ({"rope_freqs.weight": VECTOR}, ModelFileError, r"expected \(8,\)"),
    ({"rope_freqs.weight": np.zeros(8)}, NotFiniteError, "'rope_freqs.weight'"),
    ({"blk.0.ffn_bundle.weight": np.ones((96, 100))}, ModelFileError, r"expected \(96, 192\)"),
    ({"blk.0.ffn_predictor_p.weight": np.ones((8, 64))}, ModelFileError, "predictor_q.*missing"),
    ({"blk.0.ffn_predictor_q.weight": np.ones((96, 8))}, ModelFileError, "predictor_p.*missing"),
    ({"blk.1.attn_norm.weight": NAN_VECTOR}, NotFiniteError, "'blk.1.attn_norm.weight' holds NaN"),
    ({"blk.1.ffn_down.weight": nan_matrix(64, 96)}, NotFiniteError, "'blk.1.ffn_down.weight'"),
]


@pytest.mark.parametrize(("tensors", "error", "message"), BAD_TENSORS)
def test_bad_tensors(
    tensors: dict[str, Any], error: type[SparsefireError], message: str, tmp_path: Path
) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", tensors=tensors)
    with pytest.raises(error, match=message):
        Model.load(path)


@pytest.mark.parametrize("bad", ["Q5_0", "Q5_1"])
def test_unsupported_formats_are_named(bad: str, tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", down_format=bad)
    message = f"'blk.0.ffn_down.weight' is {bad}.*supported: F32, F16, Q8_0.*llama-quantize"
    with pytest.raises(UnsupportedError, match=message):
        Model.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.1.attn_v.weight", (32, 64)),
        ("blk.0.ffn_gate.weight", (96, 64)),
        ("blk.1.ffn_up.weight", (96, 64)),
        ("output.weight", (270, 64)),
    ],
)
def test_not_finite_weights_are_named(
    name: str, shape: tuple[int, int], value: float, core: Core, tmp_path: Path
) -> None:
    tensors = {name: nan_matrix(*shape, value)}
    path = tiny_model.write(tmp_path / "bad.gguf", tensors=tensors)
    with Model.load(path, core=core) as model:
        for mode in ("dense", "exact"):
            with pytest.raises(NotFiniteError, match=f"'{name}' holds NaN or infinity"):
                model.logits(IDS, mode=mode)
            with pytest.raises(NotFiniteError, match=name):
                "".join(model.generate([1, 2, 3], mode=mode))


def test_model_whose_tokeniser_is_unknown(tmp_path: Path) -> None:
    """Token ids still work; text says why it does not."""
    path = tiny_model.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.pre": "odd"})
    with Model.load(path) as model:
        assert model.logits([1, 2]).shape == (2, 270)
        with pytest.raises(UnsupportedError, match="'odd'"):
            model.generate("text")


def test_every_truncation_of_a_model(folder: Path) -> None:
    data = variant_path(folder, "f32").read_bytes()
    for length in np.linspace(0, len(data) - 40, 60).astype(int):
        with pytest.raises(ModelFileError, match=r"cut off|empty"):
            Model.load(data[:length])


@settings(max_examples=60, deadline=None)
@given(flips=st.lists(st.integers(0, 8 * 4000 - 1), min_size=1, max_size=3))
def test_flipped_bits_in_the_header(flips: list[int], tmp_path_factory: Any) -> None:
    data = bytearray(_small_model())
    for flip in flips:
        data[flip // 8] ^= 1 << flip % 8
    try:
        model = Model.load(bytes(data))
        model.logits([1, 2, 3])
        "".join(model.generate("ab", 3))
    except SparsefireError as error:
        assert len(str(error)) > 10  # noqa: PT017


@cache
def _small_model() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return tiny_model.write(Path(name) / "a.gguf", layers=1, bundled=True, rank=8).read_bytes()
