"""The screened head against numpy, on every host and instruction set; where its screen is stored;
and its calibration, whose numbers are computed again from the logits of both heads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import sparsefire as sf
import tiny_model
from sparsefire.arch import screen
from sparsefire.calibrate import head as calibration
from sparsefire.calibrate.companion import write_companion
from sparsefire.calibrate.head import HeadCalibration, HeadMeasure, calibrate_head
from sparsefire.cli import main
from sparsefire.core.core import Core
from sparsefire.core.hosts import get_core
from sparsefire.errors import ArgumentError, ModelFileError, UnsupportedError
from sparsefire.ffn.bounded import CoreBounded
from sparsefire.files.inspect import inspect_file
from sparsefire.fit import head, products
from sparsefire.fit.head import OutputMatrix, fit_screens, qualities
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.opening import default_model

RANK, ROWS, VOCAB, D = 32, 40, 270, 64
TOKENS = [97, 5, 200, 11, 97, 43]

Doubles = npt.NDArray[np.float64]


def factors(random: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Of scores with ties: two rows of Q, and the elements of the bias, are the same."""
    p, q = random.standard_normal((RANK, D)) / 8, random.standard_normal((VOCAB, RANK))
    bias = random.standard_normal(VOCAB)
    q[30:130], bias[30:130] = q[30], bias[30]
    values = zip(screen.TENSORS, (p, q, bias), strict=True)
    return {name: value.astype(np.float32) for name, value in values}


def write(path: Path, format: str = "F32", **more: object) -> Path:
    """A model with a screen in its file."""
    tensors = factors(np.random.default_rng(5))
    keys = {screen.ROWS_KEY: ROWS, "sparsefire.version": 1}
    keys |= more.pop("keys", {})  # type: ignore[arg-type]
    tensors |= more.pop("tensors", {})  # type: ignore[arg-type]
    options = {"format": format, "tied": False, "activation": "silu", **more}
    return tiny_model.write(path, keys=keys, tensors=tensors, **options)  # type: ignore[arg-type]


def as_stored(path: Path, name: str) -> Doubles:
    """A tensor of a file, read by the `gguf` package."""
    tensor = next(each for each in gguf.GGUFReader(path).tensors if each.name == name)
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def expected(path: Path, states: npt.NDArray[np.float32]) -> Doubles:
    """The logits of hidden states (n, d), by the definition of the screen."""
    p, q, bias = (as_stored(path, name) for name in screen.TENSORS)
    x = states.astype(np.float64)
    logits, exact = x @ p.T @ q.T + bias, x @ as_stored(path, "output.weight").T
    for row, found in zip(logits, exact, strict=True):
        best = np.argsort(-row, kind="stable")[:ROWS]
        row[best] = found[best]
    return logits


@pytest.mark.parametrize("format", ["F32", "Q8_0", "Q4_1"])
def test_screened_logits_are_those_of_the_definition(
    core: Core, format: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", format)
    with sf.Model.load(path) as model, sf.Model.load(path, head="dense") as dense:
        assert (model.head, dense.head) == ("screened", "dense")
        states = model.hidden_states(TOKENS)
        found = model.logits(TOKENS)
        assert (model.stats.head_rows, model.stats.head) == (ROWS, "screened")
        all_rows = dense.logits(TOKENS)
        assert (dense.stats.head_rows, dense.stats.head) == (VOCAB, "dense")
    wanted = expected(path, states)
    assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()
    same = (found == all_rows).sum(axis=1)
    assert same.min() >= ROWS
    assert same.max() < ROWS + 20


def test_named_tokens_are_exact_and_sessions_do_not_see_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", "Q8_0")
    with sf.Model.load(path) as model, sf.Model.load(path, head="dense") as dense:
        plain, exact = model.logits(TOKENS), dense.logits(TOKENS)
        named = np.flatnonzero(plain[-1] != exact[-1])[[0, 50, -1]].tolist()
        sessions = [model.new_session(16) for _ in range(3)]
        sessions[1].set_head(exact=named)
        sessions[2].set_head(screened=False)
        rows = model.evaluate([(each, TOKENS) for each in sessions])
        wanted = plain[-1].copy()
        wanted[named] = exact[-1][named]
        assert (rows == [plain[-1], wanted, exact[-1]]).all()
        counts = [each.head_rows.tolist() for each in sessions]
        assert counts == [[1, ROWS], [1, ROWS + 3], [1, VOCAB]]
        with pytest.raises(ArgumentError):
            sessions[0].set_head(exact=[VOCAB])
        # A bias on a token makes its logit exact; scores of given tokens all are.
        token = named[0]
        options = {"temperature": 0, "logit_bias": {token: 1e6}, "logprobs": 1}
        (piece,) = model.start(TOKENS, 1, **options)
        found = piece.scores[0][1]
        assert found.token == token
        # A turn of five tokens is evaluated as in decoding, `logits` as a prompt, which AMX rounds
        # to 8 bits.
        wanted = _log_p(wanted_with(plain[-1], exact[-1], token))[token]
        assert np.isclose(found.logprob, wanted, atol=2e-2 if model.core.isa == "amx" else 1e-3)
        scores = [each.logprob for each in model.token_scores(TOKENS)]
        assert np.allclose(scores, _log_p(exact)[np.arange(5), TOKENS[1:]], atol=1e-5)


def wanted_with(
    plain: npt.NDArray[np.float32], exact: npt.NDArray[np.float32], token: int
) -> npt.NDArray[np.float32]:
    changed = plain.copy()
    changed[token] = exact[token]
    return changed


def _log_p(logits: npt.NDArray[np.floating]) -> Doubles:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


@pytest.mark.parametrize(
    ("keys", "tensors", "problem"),
    [
        ({screen.ROWS_KEY: 0}, {}, "sparsefire.head.rows"),
        ({screen.ROWS_KEY: VOCAB + 1}, {}, "sparsefire.head.rows"),
        ({screen.ROWS_KEY: None}, {}, "sparsefire.head.rows"),
        ({}, {screen.Q: np.zeros((VOCAB - 1, RANK), np.float32)}, "output_screen_q.weight"),
        ({}, {screen.P: np.zeros((RANK, D + 2), np.float32)}, "output_screen_p.weight"),
        ({}, {screen.BIAS: None}, "output_screen.bias"),
    ],
)
def test_broken_screens_are_refused(
    keys: dict[str, object], tensors: dict[str, object], problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", keys=keys, tensors=tensors)
    with pytest.raises(ModelFileError, match=problem):
        sf.Model.load(path)


# ---- A copy that proves --------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["F32", "F16", "Q8_0"])
def test_the_proven_head_gives_the_greedy_text(core: Core, format: str, tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "model.gguf", format=format, tied=False)
    with sf.Model.load(path, head="proven") as model, sf.Model.load(path, head="dense") as dense:
        assert (model.head, dense.head) == ("proven", "dense")
        for prompt in ([5, 6, 7], TOKENS * 2):
            texts = [list(each.generate(prompt, 12, temperature=0)) for each in (model, dense)]
            assert texts[0] == texts[1]
            assert model.stats.token_ids == dense.stats.token_ids
            assert model.stats.head == "proven"
            assert 1 <= model.stats.head_rows < VOCAB
        # More than the largest logit: all rows.
        for more in ({"temperature": 1.0, "seed": 1}, {"temperature": 0, "repeat_penalty": 1.3}):
            pairs = [each.start(TOKENS, 6, logprobs=3, **more) for each in (model, dense)]
            assert list(pairs[0]) == list(pairs[1])
            assert (model.stats.head, model.stats.head_rows) == ("dense", VOCAB)
        assert (model.logits(TOKENS) == dense.logits(TOKENS)).all()


@pytest.mark.parametrize("format", ["F16", "Q8_0"])
def test_bounds_hold(core: Core, format: str, tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "model.gguf", format=format, tied=False)
    weights = as_stored(path, "output.weight")
    random = np.random.default_rng(8)
    with sf.Model.load(path, head="proven") as model:
        copy = model.session.model.screen
        assert isinstance(copy, CoreBounded)
        for spread in (1, 30):
            x = (random.standard_normal((20, D)) ** spread).astype(np.float32)
            norms = np.sqrt(np.square(x.astype(np.float64).reshape(20, -1, 32)).sum(axis=2))
            most = norms @ copy.bounds.dequantize().astype(np.float64).T
            errors = np.abs(copy.scores(x) - x.astype(np.float64) @ weights.T)
            assert (errors <= most).all()
            assert most.max() < 0.5 * np.abs(np.linalg.norm(x, axis=1)).max() * np.sqrt(D)


def test_a_matrix_of_few_bits_has_no_copy(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "model.gguf", format="Q4_1", tied=False)
    with sf.Model.load(path, head="proven") as model:
        assert model.head == "dense"


# ---- Calibration ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibrated:
    """The model of the package with a companion beside it, fitted on text that it wrote."""

    path: Path
    report: HeadCalibration


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    path = tmp_path_factory.mktemp("head") / "model.gguf"
    path.write_bytes(default_model().read_bytes())
    options = {"tokens": 1_500, "kl": 0.1, "agreement": 0.95, "even_if_slower": True}
    return Calibrated(path, calibrate_head(path, **options))  # type: ignore[arg-type]


def test_the_report_is_what_the_logits_say(calibrated: Calibrated) -> None:
    report = calibrated.report
    assert report.generated
    assert report.chosen is not None
    assert report.measured is not None
    assert report.output == str(calibrated.path.with_name("model.sparsefire.gguf"))
    measured = report.measured
    assert measured.kl < 0.3
    assert measured.agreement > 0.9
    with sf.Model.load(calibrated.path) as model:
        assert model.head == "screened"
        # Another text than that of the calibration: what was found there holds.
        ids = model.tokenize("".join(model.generate("", 300, seed=1, temperature=1.0)))
        found = _log_p(model.logits(ids))
        rows, shares = model.stats.head_rows, model.stats.head_bytes
    assert rows == report.chosen.rows
    shown = inspect_file(calibrated.path).screen
    assert shown is not None
    assert (shown.rank, shown.rows, shown.format) == (
        report.chosen.rank,
        report.chosen.rows,
        report.chosen.format,
    )
    assert {each.format for each in report.tried} == {"q8_0", "q4_0"}
    with sf.Model.load(calibrated.path, head="dense") as model:
        exact = _log_p(model.logits(ids))
        assert shares / model.stats.head_bytes == pytest.approx(measured.read_share)
    kl = (np.exp(exact) * (exact - found)).sum(axis=1)
    assert kl.min() > -1e-6
    assert kl.mean() < 3 * measured.kl + 0.01
    assert (found.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.9


def test_more_rank_and_rows_are_nearer(calibrated: Calibrated) -> None:
    found = {
        (each.rank, each.rows): each for each in calibrated.report.tried if each.format == "q4_0"
    }
    ranks, rows = (sorted({key[k] for key in found}) for k in range(2))
    for rank in ranks:
        divergences = [found[rank, each].kl for each in rows]
        assert divergences == sorted(divergences, reverse=True)
    assert found[ranks[-1], rows[-1]].kl < found[ranks[0], rows[-1]].kl


def test_a_screen_that_is_farther_on_held_out_text_gives_way_to_a_nearer_one(
    calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out tokens are made to diverge by a factor of what the screen was chosen by."""
    factor = 1.0
    seen: list[float] = []

    def measured(_source: object, _a: object, _pre: object, parts: Any, *_: object) -> HeadMeasure:
        seen.append(parts["metadata"][f"{screen.KEYS}kl"])
        return HeadMeasure(factor * seen[-1], 1.0, 2.0, 2.0, 0.1, 200.0, 100.0)

    monkeypatch.setattr(calibration, "_measured", measured)
    limit = float(np.median([each.kl for each in calibrated.report.tried]))

    def find() -> HeadCalibration:
        seen.clear()
        options = {"tokens": 1_500, "kl": limit, "agreement": 0.0, "force": True}
        return calibrate_head(calibrated.path, companion=tmp_path / "it", **options)  # type: ignore[arg-type]

    first = find()
    assert first.chosen is not None
    assert seen == pytest.approx([first.chosen.kl])
    factor = 1.2  # which may be by chance
    find()
    assert len(seen) == 1
    factor = 2.0
    found = find()
    assert found.chosen is not None
    assert seen == pytest.approx([first.chosen.kl, found.chosen.kl])
    assert seen[1] <= limit / factor
    factor = 1e9  # nothing is near enough, which the report tells
    found = find()
    assert len(seen) == 1
    assert found.measured is not None
    assert found.measured.kl > limit


def test_a_companion_belongs_to_its_model(calibrated: Calibrated, tmp_path: Path) -> None:
    other = tiny_model.write(tmp_path / "model.gguf")
    companion = calibrated.path.with_name("model.sparsefire.gguf")
    (tmp_path / companion.name).write_bytes(companion.read_bytes())
    with pytest.raises(ModelFileError, match="the companion of another model"):
        sf.Model.load(other)
    with sf.Model.load(other, head="dense") as model:
        assert model.head == "dense"
    with sf.Model.load(calibrated.path.read_bytes()) as model:
        assert model.head == "dense"
    given = calibrated.path.read_bytes()
    with sf.Model.load(given, companion=companion) as model:
        assert model.head == "screened"


def test_a_companion_is_no_model(
    calibrated: Calibrated, capsys: pytest.CaptureFixture[str]
) -> None:
    companion = calibrated.path.with_name("model.sparsefire.gguf")
    with pytest.raises(ModelFileError, match=r"a companion, .* load the model beside it"):
        sf.Model.load(companion)
    assert main(["inspect", str(companion)]) == 0
    assert "runs         no: a companion, " in capsys.readouterr().out


@pytest.mark.parametrize("cut", ["short", "empty", "version"])
def test_a_damaged_companion_can_be_removed(
    calibrated: Calibrated, tmp_path: Path, cut: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(calibrated.path.read_bytes())
    companion = tmp_path / "model.sparsefire.gguf"
    data = calibrated.path.with_name(companion.name).read_bytes()
    changed = {"short": data[:-100], "empty": b"", "version": data[:4] + b"\x09" + data[5:]}
    companion.write_bytes(changed[cut])
    wanted = r"model\.sparsefire\.gguf: .*the companion of .*model\.gguf, which runs without"
    with pytest.raises((ModelFileError, UnsupportedError), match=wanted):
        sf.Model.load(path)
    with sf.Model.load(path, head="dense", inputs="dense") as model:
        assert model.head == "dense"


def test_a_companion_with_limits_gets_a_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside its limits and unasked, if it is this model's; a damaged one is replaced if asked."""
    monkeypatch.setattr(
        calibration, "_measured", lambda *_: HeadMeasure(0.0, 1.0, 2.0, 2.0, 0.1, 200.0, 100.0)
    )
    path = tmp_path / "model.gguf"
    path.write_bytes(default_model().read_bytes())
    companion = tmp_path / "model.sparsefire.gguf"
    limits = {screen.NAMES_KEY: ["blk.0.attn_q.weight"], screen.LIMITS_KEY: np.zeros(1, np.float32)}
    options = {"tokens": 1_500, "rank": 32, "rows": 64, "format": "q4_0", "kl": 9.0}
    options["agreement"] = 0.5
    with GgufFile.open(path) as file:
        of = screen.fingerprint(file)
    write_companion(companion, "llama", "of another", limits, {}, force=True)
    with pytest.raises(ArgumentError, match="the file exists"):
        calibrate_head(path, **options)  # type: ignore[arg-type]
    write_companion(companion, "llama", of, limits, {}, force=True)
    assert calibrate_head(path, **options).output == str(companion)  # type: ignore[arg-type]
    with GgufFile.open(companion) as file:
        assert screen.has_screen(file)
        assert screen.has_limits(file)
    with pytest.raises(ArgumentError, match="the file exists"):
        calibrate_head(path, **options)  # type: ignore[arg-type]
    companion.write_bytes(companion.read_bytes()[:-100])
    with pytest.raises(ArgumentError, match="the file exists"):
        calibrate_head(path, **options)  # type: ignore[arg-type]
    assert calibrate_head(path, **options, force=True).output == str(companion)  # type: ignore[arg-type]
    with sf.Model.load(path, inputs="dense") as model:
        assert model.head == "screened"


def test_a_model_that_is_no_path_needs_a_named_companion(tmp_path: Path) -> None:
    data = default_model().read_bytes()
    with pytest.raises(ArgumentError, match="no path needs the path of its companion"):
        calibrate_head(data)
    with pytest.raises(ArgumentError, match="output or companion, not both"):
        calibrate_head(data, tmp_path / "a.gguf", companion=tmp_path / "b.gguf")
    for kl in (0.0, float("nan")):
        with pytest.raises(ArgumentError, match="kl must be above 0"):
            calibrate_head(data, companion=tmp_path / "b.gguf", kl=kl)


def test_products_of_a_fit_without_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the core, in blocks of a few rows."""
    random = np.random.default_rng(3)
    x, rows = (random.standard_normal((n, 37)).astype(np.float32) for n in (23, 50))
    monkeypatch.setattr(products, "BLAS", False)
    monkeypatch.setattr(products, "_BLOCK_FLOATS", 300)
    found, wanted = products.times(x, rows), x.astype(np.float64) @ rows.T
    assert np.abs(found - wanted).max() < 1e-4
    longer = random.standard_normal((23, 9)).astype(np.float32)
    across = products.across(x, longer)
    assert np.abs(across - x.T.astype(np.float64) @ longer).max() < 1e-4


@pytest.mark.parametrize("dependent", [False, True])
def test_an_orthonormal_basis_without_blas(
    monkeypatch: pytest.MonkeyPatch, dependent: bool
) -> None:
    columns = np.random.default_rng(4).standard_normal((500, 12)).astype(np.float32)
    columns *= np.geomspace(1e-6, 1e3, 12, dtype=np.float32)
    if dependent:
        columns[:, 5] = columns[:, 4] + 1e-7 * columns[:, 5]
    monkeypatch.setattr(products, "BLAS", False)
    basis = products.orthonormal(columns).astype(np.float64)
    assert np.abs(basis.T @ basis - np.eye(12)).max() < 1e-5
    units = columns / np.linalg.norm(columns, axis=0)
    assert np.abs(basis @ (basis.T @ units) - units).max() < 1e-5


@pytest.mark.parametrize("blas", [False, True])
def test_qualities_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch, blas: bool) -> None:
    """The divergence of logits of which the best by score are exact."""
    monkeypatch.setattr(products, "BLAS", blas)
    monkeypatch.setattr(head, "_LOGITS_AT_ONCE", 9_000)
    random = np.random.default_rng(5)
    weights, x = (random.standard_normal((n, 64)).astype(np.float32) for n in (300, 100))
    bias = random.standard_normal(300).astype(np.float32)
    matrix = OutputMatrix(weights, bias, scale=0.5, cap=20)
    formats = {32: ["q8_0", "q4_0"], 48: ["f16"], 64: ["q8_0", "q4_0"]}
    screens, core = fit_screens(x, matrix, list(formats)), get_core()

    def logits(products: Doubles) -> Doubles:
        return np.asarray(20 * np.tanh(0.5 * products / 20))

    exact = logits(x.astype(np.float64) @ weights.T + bias)
    found = qualities(x, matrix, screens, formats, (4, 50), core)
    tried = [(r, kind, n) for r, kinds in formats.items() for kind in kinds for n in (4, 50)]
    assert [(each.rank, each.format, each.rows) for each in found] == tried
    for each in found:
        stored = screens.stored(each.rank, each.format, core)
        between = x.astype(np.float64) @ stored.p.dequantize().T
        scores = logits(between @ stored.q.dequantize().T + stored.bias)
        best = np.argsort(-scores, axis=1)[:, : each.rows]
        np.put_along_axis(scores, best, np.take_along_axis(exact, best, 1), 1)
        kl = (np.exp(_log_p(exact)) * (_log_p(exact) - _log_p(scores))).sum(axis=1)
        assert each.kl == pytest.approx(kl.mean(), rel=1e-3, abs=1e-6)
        # Agreement by chance, of a score that is not exact, does not count.
        same = scores.argmax(axis=1) == exact.argmax(axis=1)
        assert each.agreement == (same & (scores.max(axis=1) == exact.max(axis=1))).mean()


def test_four_bits_of_a_screen_are_nearly_as_near_as_eight() -> None:
    """Where all logits have much in common, which would take the range of its columns' blocks."""
    random = np.random.default_rng(6)
    spread = np.geomspace(1, 0.05, 64)
    weights = (random.standard_normal((500, 64)) * spread + [6, *np.zeros(63)]).astype(np.float32)
    x = random.standard_normal((400, 64)).astype(np.float32) + np.float32(0.5)
    screens, core = fit_screens(x, OutputMatrix(weights, None), [32]), get_core()
    exact, found = x.astype(np.float64) @ weights.T, screens.factors[32]
    between = x.astype(np.float64) @ found.p.T

    def error(format: str, turned: bool) -> float:
        stored = screens.stored(32, format, core)
        assert (stored.p.format, stored.q.format) == ("q8_0", format)
        scores = x.astype(np.float64) @ stored.p.dequantize().T @ stored.q.dequantize().T
        if not turned:
            as_is = gguf.quants.quantize(found.q, gguf.GGMLQuantizationType[format.upper()])
            kind = gguf.GGMLQuantizationType[format.upper()]
            scores = between @ gguf.quants.dequantize(as_is, kind).T
        rest = exact - scores
        return float((rest - rest.mean(axis=0)).std())

    assert error("q4_0", True) < 1.4 * error("q8_0", True)
    assert error("q4_0", False) > 1.5 * error("q4_0", True)
    rest = exact - between @ found.q.T
    # The bias has what rounding takes from the mean, and half of the variance that is missed.
    stored = screens.stored(32, "q4_0", core)
    scores = x.astype(np.float64) @ stored.p.dequantize().T @ stored.q.dequantize().T + stored.bias
    missed = (exact - scores).mean(axis=0) + (exact - scores).var(axis=0) / 2
    assert np.abs(missed).max() < 0.02 * rest.std()


def test_the_screen_in_a_new_model_file(
    calibrated: Calibrated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, text = tmp_path / "new.gguf", tmp_path / "text.txt"
    with sf.Model.load(calibrated.path) as model:
        written = [*model.generate("", 1_200, seed=2, temperature=1.0, context_shift=True)]
    text.write_text("".join(written), encoding="utf-8")
    command = ["calibrate", "-m", str(calibrated.path), "-o", str(output), "--method", "head"]
    command += ["--text", str(text), "--rank", "64", "--rows", "100", "--tokens", "1000"]
    assert main([*command, "--kl", "9", "--agreement", "0", "--even-if-slower", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["chosen"]["rank"], report["chosen"]["rows"]) == (64, 100)
    assert report["output"] == str(output)
    assert not report["generated"]
    with sf.Model.load(output) as model:
        assert model.head == "screened"
    perplexity = ["perplexity", "-m", str(output), "--text", str(text), "--json"]
    assert main([*perplexity, "--head", "dense"]) == 0
    dense = json.loads(capsys.readouterr().out)
    assert main(perplexity) == 0
    screened = json.loads(capsys.readouterr().out)
    assert (dense["head_rows"], screened["head_rows"]) == (2048, 100)
    assert screened["perplexity"] == pytest.approx(dense["perplexity"], rel=0.5)
