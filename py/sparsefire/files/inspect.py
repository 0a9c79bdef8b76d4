"""Describing a model file, and whether it can run: `sparsefire inspect`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .._options import DEFAULT_KV_FORMAT, KV_FORMATS, checked, one_of, positive, text
from ..arch import screen
from ..arch.config import ModelConfig, read_config
from ..arch.inputs import check_limits, read_limits
from ..arch.plan import ExpertLayer, Layer, Plan
from ..arch.read import format_by_neuron
from ..arch.tensors import DOWN_BY_NEURON, ffn_tensor, read_plan
from ..errors import ModelFileError, SparsefireError
from ..ffn.files import predictor_copies
from ..gguf.reader import GgufFile
from ..gguf.source import Source
from ..lm.opening import DEFAULT_CONTEXT
from ..text.pretokenizer import check_rule
from ..text.tokenizer import Tokenizer
from ..weights.activation import ActivationType
from .reading import MixtureReport, ReadingReport, mixtures, reading

_LIST_SHOWN = 6  # entries of a long list
_TEXT_SHOWN = 200  # characters of a long text
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class TensorReport:
    """A tensor: `shape` is (rows, columns), `bits` are per weight."""

    name: str
    shape: tuple[int, ...]
    format: str
    nbytes: int
    bits: float


@dataclass(frozen=True)
class ActivationReport:
    """The activation of the feed-forward layers and its source: "chosen" (the argument), a key's
    name, or "the architecture"."""

    name: str
    parameter: float
    resolved_by: str


@dataclass(frozen=True)
class TokenizerReport:
    """`problem` says why the tokeniser cannot be used, or is None."""

    kind: str
    tokens: int
    bos: int | None
    eos: int | None
    add_bos: bool
    chat_templates: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class LayerSparsity:
    """The calibration data of a layer; shares are over held-out tokens."""

    layer: int
    rank: int | None  # None: no predictor, the layer runs in exact mode
    hot: int
    predictor_bytes: int
    bundle_bytes: int
    active_share: float | None
    selected_share: float | None


@dataclass(frozen=True)
class ScreenReport:
    """The screen of the output matrix: its rank, the format of Q, its bytes, how many rows are
    computed exactly, and what calibration found: the divergence in nats, and the share of tokens
    with the same most likely one. `companion` is the file that holds it, None for the model's."""

    rank: int
    format: str
    rows: int
    nbytes: int
    kl: float | None
    agreement: float | None
    companion: str | None


@dataclass(frozen=True)
class InputsReport:
    """Limits below which inputs of products are left out: of how many sites, and the share that
    calibration left out. `companion` is the file that holds them, None for the model's."""

    sites: int
    left_out: float | None
    companion: str | None


@dataclass(frozen=True)
class MemoryReport:
    """Bytes needed to run. On the native host `weights` stay in the mapped file, and `made` are
    repacked at load; on WebAssembly hosts everything is copied. `key_value_cache` includes the
    recurrent states of models that have some."""

    weights: int
    made: int
    key_value_cache: int
    context: int

    @property
    def native(self) -> int:
        """In addition to the mapped file."""
        return self.made + self.key_value_cache

    @property
    def wasm(self) -> int:
        """In WebAssembly memory."""
        return self.weights + self.made + self.key_value_cache


@dataclass
class Inspection:
    """Everything about a file that is known without running it. `calibration` holds the keys
    `sparsefire.*`. `problem` says why it cannot run, or is None. `damage` says where its header is
    broken, or is None; the rest is then what could be read before that position."""

    file: str
    nbytes: int
    version: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[TensorReport] = field(default_factory=list)
    bytes_by_format: dict[str, int] = field(default_factory=dict)
    architecture: str | None = None
    name: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    activation: ActivationReport | None = None
    tokenizer: TokenizerReport | None = None
    sparsity: list[LayerSparsity] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    screen: ScreenReport | None = None
    inputs: InputsReport | None = None
    memory: MemoryReport | None = None
    mixtures: list[MixtureReport] = field(default_factory=list)
    reading: ReadingReport | None = None
    mode: str | None = None
    problem: str | None = None
    damage: str | None = None

    @property
    def runs(self) -> bool:
        """True if `Model.load` would accept the file."""
        return self.problem is None and self.damage is None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        report = {**asdict(self), "runs": self.runs}
        if self.memory is not None:
            report["memory"] |= {"native": self.memory.native, "wasm": self.memory.wasm}
        if self.reading is not None:
            report["reading"]["total"] = self.reading.total
        return report


class _PartlyRead(GgufFile):
    """A file that keeps what was read before its header turned out to be broken."""

    def __init__(self, source: Source) -> None:
        self.damage: str | None = None
        try:
            super().__init__(source)
        except ModelFileError as error:
            if not hasattr(self, "tensors"):  # it could not be opened at all
                raise
            self.damage = str(error)


@checked(
    activation=ActivationType.of,
    context=positive,
    pre=text,
    k_format=one_of(*KV_FORMATS),
    v_format=one_of(*KV_FORMATS),
)
def inspect_file(
    source: Source,
    *,
    activation: str | ActivationType | None = None,
    context: int | None = None,
    pre: str | None = None,
    k_format: str = DEFAULT_KV_FORMAT,
    v_format: str = DEFAULT_KV_FORMAT,
) -> Inspection:
    """Describes a model file, also one that cannot run or is damaged.

    activation, pre: as for `Model.load`. context: context length for the memory estimate, by
    default that of `Model.load`. k_format, v_format: as for `Model.load`, for the memory estimate.

    Errors: `ModelFileError` (missing, or no GGUF file at all), `UnsupportedError` (a version that
    cannot be read), `ArgumentError` (unknown activation or pre-tokeniser).
    """
    if pre is not None:
        check_rule(pre)
    with contextlib.closing(_PartlyRead(source)) as file:
        if file.damage is not None and not hasattr(file, "version"):
            raise ModelFileError(file.damage)
        report = Inspection(file.name, file.nbytes, getattr(file, "version", None))
        report.damage = file.damage
        _describe(file, report, pre)
        if file.damage is None:
            _resolve(file, report, activation, context, (k_format, v_format))
    return report


def _describe(file: GgufFile, report: Inspection, pre: str | None) -> None:
    """Fills in the contents of the header."""
    report.metadata = {key: _shown(value) for key, value in file.metadata.items()}
    for info in file.tensors.values():
        weights = math.prod(info.shape)
        bits = 8 * info.nbytes / weights
        kind = info.format.lower()
        report.tensors.append(TensorReport(info.name, info.shape, kind, info.nbytes, bits))
        report.bytes_by_format[kind] = report.bytes_by_format.get(kind, 0) + info.nbytes
        report.parameters += weights
    report.architecture = _text(file.metadata, "general.architecture")
    report.name = _text(file.metadata, "general.name")
    report.tokenizer = _tokenizer(file, pre)
    report.sparsity = _sparsity(file)
    for key, value in file.metadata.items():
        if key.startswith("sparsefire."):
            whole = value.tolist() if isinstance(value, np.ndarray) else value
            report.calibration[key.removeprefix("sparsefire.")] = whole


def _resolve(
    file: GgufFile,
    report: Inspection,
    activation: str | ActivationType | None,
    context: int | None,
    kv_formats: tuple[str, str],
) -> None:
    """Fills in how the file would run, or why it cannot."""
    try:
        own, own_limits = len(file.files), screen.has_limits(file)
        screen.attach_companion(file, file.mapped)
        config = read_config(file, activation)
        report.sizes = _sizes(config)
        report.activation = _activation(file, config, activation is not None)
        report.mode = config.default_mode
        plan = read_plan(file, config)
        beside = str(file.files[own]) if len(file.files) > own else None
        report.screen = _screen(file, plan, own, beside)
        report.inputs = _inputs(file, plan, None if own_limits else beside)
        report.memory = _memory(file, config, plan, context, kv_formats)
        report.mixtures = mixtures(plan)
        report.reading = reading(file, plan)
    except SparsefireError as error:
        report.problem = str(error).removeprefix(f"{file.name}: ")
    if report.problem is None and report.tokenizer is not None:
        report.problem = report.tokenizer.problem


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _shown(value: Any) -> Any:
    """A metadata value for JSON, truncated if it is long."""
    if isinstance(value, (list, np.ndarray)):
        entries = [
            each.item() if isinstance(each, np.generic) else each for each in value[:_LIST_SHOWN]
        ]
        shown = [_shown(each) for each in entries]
        return shown if len(value) <= _LIST_SHOWN else {"length": len(value), "first": shown}
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return value if len(value) <= _TEXT_SHOWN else f"{value[:_TEXT_SHOWN]}…"
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _sizes(config: ModelConfig) -> dict[str, Any]:
    names = ("layers", "d", "hidden", "heads", "kv_heads", "head_dim", "vocab", "context_length")
    return {name: getattr(config, name) for name in names}


def _activation(file: GgufFile, config: ModelConfig, chosen: bool) -> ActivationReport:
    """How the activation was found, in the order in which `read_config` looks."""
    by = "the architecture"
    for name in ("hidden_act", "hidden_activation"):
        key = f"{config.architecture}.{name}"
        if file.metadata.get(key):
            by = key
    return ActivationReport(
        config.activation_name, config.activation_parameter, "chosen" if chosen else by
    )


def _tokenizer(file: GgufFile, pre: str | None) -> TokenizerReport | None:
    metadata = file.metadata
    kind = _text(metadata, "tokenizer.ggml.model")
    if kind is None:
        return None
    names = metadata.get("tokenizer.chat_templates", [])
    templates = ["default"] if "tokenizer.chat_template" in metadata else []
    templates += [str(each) for each in names] if isinstance(names, list) else []
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, list) else 0
    try:
        made = Tokenizer.from_metadata(metadata, file.name, pre=pre)
    except SparsefireError as error:
        problem = str(error).removeprefix(f"{file.name}: ")
        return TokenizerReport(kind, count, None, None, False, tuple(templates), problem)
    return TokenizerReport(
        made.kind, count, made.bos, made.eos, made.add_bos, tuple(templates), None
    )


def _sparsity(file: GgufFile) -> list[LayerSparsity]:
    """Bundles and predictors, by layer."""
    parts: dict[int, dict[str, int]] = {}
    for name, info in file.tensors.items():
        found = _LAYER.fullmatch(name)
        if found is None or not found[2].startswith(("ffn_predictor", "ffn_bundle")):
            continue
        layer = parts.setdefault(int(found[1]), {"rank": 0, "predictor": 0, "bundle": 0})
        layer["bundle" if found[2].startswith("ffn_bundle") else "predictor"] += info.nbytes
        if found[2] in ("ffn_predictor_p.weight", "ffn_predictor_exps_p.weight"):
            layer["rank"] = info.shape[-2]
    lists = {
        name: _listed(file.metadata.get(f"sparsefire.{name}"))
        for name in ("hot_counts", "calibration.active_share", "calibration.selected_share")
    }

    def entry(name: str, layer: int) -> Any:
        values = lists[name]
        return values[layer] if layer < len(values) else None

    return [
        LayerSparsity(
            layer,
            part["rank"] or None,
            entry("hot_counts", layer) or 0,
            part["predictor"],
            part["bundle"],
            entry("calibration.active_share", layer),
            entry("calibration.selected_share", layer),
        )
        for layer, part in sorted(parts.items())
    ]


def _inputs(file: GgufFile, plan: Plan, companion: str | None) -> InputsReport | None:
    """The limits of inputs."""
    if not screen.has_limits(file):
        return None
    limits = read_limits(file)
    check_limits(file, plan, limits)
    share = file.metadata.get(f"{screen.INPUT_KEYS}left_out")
    left_out = share if isinstance(share, float) else None
    return InputsReport(sum(each > 0 for each in limits.values()), left_out, companion)


def _screen(file: GgufFile, plan: Plan, own: int, beside: str | None) -> ScreenReport | None:
    """The screen, which is in one of the model's `own` files, or in that ``beside`` them."""
    if plan.screen is None:
        return None
    found = {name: file.metadata.get(f"{screen.KEYS}{name}") for name in ("kl", "agreement")}
    return ScreenReport(
        plan.screen.rank,
        file.tensor(screen.Q).format,
        plan.screen.rows,
        sum(file.tensors[name].nbytes for name in screen.TENSORS),
        **{name: value if isinstance(value, float) else None for name, value in found.items()},
        companion=beside if file.tensors[screen.Q].part >= own else None,
    )


def _listed(value: Any) -> list[Any]:
    return value.tolist() if isinstance(value, np.ndarray) else []


def _down(layer: Layer) -> str:
    """The tensor of a layer's down matrix."""
    if isinstance(layer, ExpertLayer):
        return f"{layer.down}.weight"
    return ffn_tensor(layer, "ffn_down")


def _memory(
    file: GgufFile,
    config: ModelConfig,
    plan: Plan,
    context: int | None,
    kv_formats: tuple[str, str],
) -> MemoryReport:
    """Down matrices of the ReLU family are transposed at load, unless the file stores them that
    way, and predictors are repacked."""
    made, replaced = predictor_copies(file), 0
    for layer in plan.layers:
        experts = isinstance(layer, ExpertLayer)
        info = file.tensors.get(_down(layer))
        if info is None or not layer.skips:
            continue
        if experts or f"blk.{layer.block}.{DOWN_BY_NEURON}" not in file.tensors:
            kind = format_by_neuron(file, info.name)
            made += layer.hidden * kind.row_bytes(info.shape[-2])
            replaced += info.nbytes
    tokens = context or min(config.context_length, DEFAULT_CONTEXT)
    return MemoryReport(
        weights=sum(info.nbytes for info in file.tensors.values()) - replaced,
        made=made,
        key_value_cache=plan.session_bytes(tokens, kv_formats),
        context=tokens,
    )
