"""`sparsefire inspect`: show what is in a model file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .._shown import json_line, shown
from ..arch.config import CUTOFF_KEYS
from .common import add_kv_options, add_pre_option, print_json

if TYPE_CHECKING:
    from ..files.inspect import InputsReport, Inspection, ScreenReport
    from ..files.reading import ReadingReport

# Calibration keys that the lines of sparsity and head summarise.
_SUMMED_UP = (
    *("version", "hot_counts", "calibration.active_share", "calibration.selected_share"),
    *("head.rows", "head.tokens", "head.kl", "head.agreement"),
    *("inputs.tensors", "inputs.limits", "inputs.tokens", "inputs.left_out"),
)


def add_inspect_parser(commands: Any) -> None:
    """Adds `inspect` to the subcommands."""
    parser = commands.add_parser(
        "inspect",
        help="show what is in a model file, and whether it can run",
        description="Shows a GGUF file's sizes, weight formats, activation and its source, "
        "tokeniser, calibration, memory use, and whether it can run. Files that cannot run are "
        "shown too, and damaged ones as far as they can be read. The exit status is 1 for a "
        "damaged file.",
    )
    parser.set_defaults(run=_inspect)
    add = parser.add_argument
    add("file", metavar="FILE", help="GGUF model; '-' for the embedded one")
    add("--tensors", action="store_true", help="list every tensor")
    add("--metadata", action="store_true", help="list every key")
    add("--context", type=int, metavar="N", help="context length for the memory estimate")
    add("--activation", metavar="NAME", help="activation function, overriding the file")
    add_pre_option(parser)
    add_kv_options(parser)
    add("--json", action="store_true", help="print everything as one JSON object instead")


def _inspect(arguments: argparse.Namespace) -> int:
    from ..files.inspect import inspect_file
    from ..lm.opening import default_model

    source = default_model() if arguments.file == "-" else arguments.file
    found = inspect_file(
        source,
        activation=arguments.activation,
        context=arguments.context,
        pre=arguments.pre,
        k_format=arguments.k_format,
        v_format=arguments.v_format,
    )
    if arguments.json:
        print_json(found.as_dict())
    else:
        for line in _lines(found, arguments.tensors, arguments.metadata):
            print(shown(line))
    return 1 if found.damage else 0


def _lines(found: Inspection, tensors: bool, metadata: bool) -> Iterable[str]:
    yield f"{found.file}: {_bytes(found.nbytes)}, GGUF version {found.version}"
    for label, text in _facts(found):
        yield f"  {label:<13}{text}"
    yield f"  {'runs':<13}{_verdict(found)}"
    if metadata:
        yield ""
        width = max(map(len, found.metadata), default=0)
        yield from (f"{key:<{width}}  {_one_line(each)}" for key, each in found.metadata.items())
    if tensors:
        yield ""
        width = max((len(each.name) for each in found.tensors), default=0)
        for each in found.tensors:
            shape = " × ".join(map(str, each.shape))
            size = f"{each.nbytes:>14,} bytes"
            yield f"{each.name:<{width}}  {each.format:<8}  {shape:>16}  {size}"


def _facts(found: Inspection) -> Iterable[tuple[str, str]]:
    if found.name:
        yield "name", found.name
    if found.architecture:
        yield "architecture", found.architecture
    if found.sizes:
        yield "sizes", _sizes(found.sizes)
    for each in found.mixtures:
        each_token = f"{each.used} of {each.experts} a token"
        yield "experts", f"{each_token}, of {each.width} neurons each, in {each.layers} layers"
    yield "tensors", f"{len(found.tensors)}, {found.parameters:,} weights"
    total = sum(found.bytes_by_format.values()) or 1
    ordered = sorted(found.bytes_by_format.items(), key=lambda each: -each[1])
    formats = ", ".join(f"{kind.upper()} {100 * size / total:.1f} %" for kind, size in ordered)
    yield "formats", formats or "none"
    if found.activation:
        yield "activation", _activation(found)
    if found.tokenizer:
        yield "tokeniser", _tokenizer(found)
    if found.sizes:
        yield "sparsity", _sparsity(found)
    if found.screen:
        yield "head", _screen(found.screen)
    if found.inputs:
        yield "inputs", _inputs(found.inputs)
    for key, value in found.calibration.items():
        if key not in _SUMMED_UP:
            yield "", f"{key}: {_one_line(value)}"
    if found.reading:
        yield "reads", _reading(found.reading)
    if found.memory:
        memory = found.memory
        yield (
            "memory",
            (
                f"natively {_bytes(memory.native)} in addition to the mapped file "
                f"({_bytes(memory.made)} repacked at load, {_bytes(memory.key_value_cache)} for "
                f"{memory.context} tokens); in WebAssembly {_bytes(memory.wasm)}"
            ),
        )


def _inputs(inputs: InputsReport) -> str:
    """Which inputs of products are left out."""
    where = f", in {inputs.companion}" if inputs.companion else ""
    share = ""
    if inputs.left_out is not None:
        share = f"; when calibrated {100 * inputs.left_out:.1f} % left out"
    return f"limits of {inputs.sites} sites{where}{share}; natively, in sparse mode"


def _screen(screen: ScreenReport) -> str:
    """How logits are computed."""
    where = f", in {screen.companion}" if screen.companion else ""
    quality = ""
    if screen.kl is not None and screen.agreement is not None:
        quality = (
            f"; when calibrated {screen.kl:.4f} nats, the same most likely token for "
            f"{screen.agreement:.2%}"
        )
    return (
        f"screened: rank {screen.rank} in {screen.format}, {_bytes(screen.nbytes)}{where}; "
        f"{screen.rows:,} rows of the output matrix exact{quality}"
    )


def _sizes(sizes: dict[str, Any]) -> str:
    heads = f"{sizes['heads']} heads ({sizes['kv_heads']} key/value heads) of {sizes['head_dim']}"
    parts = [
        f"{sizes['layers']} layers, d {sizes['d']}, {sizes['hidden']} neurons per layer",
        *([heads] if sizes["heads"] else []),  # of attention
        f"vocabulary {sizes['vocab']}, context {sizes['context_length']}",
    ]
    return ", ".join(parts)


def _reading(reading: ReadingReport) -> str:
    """What a token reads."""
    parts = [
        (reading.experts, f"of experts (of {_bytes(reading.all_experts)})"),
        (reading.neurons, "of neurons"),
        (reading.head, "of the head"),
        (reading.rest, "of all else"),
    ]
    shown = ", ".join(f"{_bytes(size)} {what}" for size, what in parts if size)
    return f"at most {_bytes(reading.total)} a token: {shown}"


def _activation(found: Inspection) -> str:
    activation = found.activation
    assert activation is not None
    threshold = f" above {activation.parameter:g}" if activation.parameter else ""
    by = {
        "chosen": "set by --activation",
        "the architecture": "default of the architecture; the file names none",
    }.get(activation.resolved_by, f"key '{activation.resolved_by}'")
    return f"{activation.name}{threshold} ({by})"


def _tokenizer(found: Inspection) -> str:
    tokenizer = found.tokenizer
    assert tokenizer is not None
    if tokenizer.problem is not None:
        return f"{tokenizer.kind}, {tokenizer.tokens} tokens: {tokenizer.problem}"
    begins = f"BOS token {tokenizer.bos}" if tokenizer.add_bos else "no BOS token"
    templates = ", ".join(tokenizer.chat_templates)
    chat = f"chat template ({templates})" if templates else "no chat template"
    return f"{tokenizer.kind}, {tokenizer.tokens} tokens, {begins}, {chat}"


def _sparsity(found: Inspection) -> str:
    layers, cutoffs = found.sparsity, _cutoffs(found)
    if cutoffs:
        return f"calibrated: {cutoffs}; runs in {found.mode} mode"
    if not layers:
        return f"not calibrated; runs in {found.mode} mode"
    ranks = [each.rank for each in layers if each.rank is not None]
    text = f"calibrated: predictors in {len(ranks)} of {found.sizes['layers']} layers"
    if ranks:
        span = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"
        text += f", rank {span}, {_bytes(sum(each.predictor_bytes for each in layers))}"
    for name in ("active", "selected"):
        shares = [getattr(each, f"{name}_share") for each in layers]
        known = [share for share in shares if share is not None]
        if known:
            text += f"; {100 * sum(known) / len(known):.1f} % of the neurons {name}"
    return f"{text}; runs in {found.mode} mode"


def _cutoffs(found: Inspection) -> str:
    """Which layers have cutoffs, and how many sites limits of inputs."""
    parts = []
    for on in CUTOFF_KEYS:
        values = found.calibration.get(f"cutoff.{on}", [])
        used = sum(each > 0 for each in values)
        if used:
            parts.append(f"cutoffs on the {on} in {used} of {found.sizes['layers']} layers")
    limits = sum(each > 0 for each in found.calibration.get("inputs.limits", []))
    if limits:
        parts.append(f"limits of inputs at {limits} sites")
    return ", ".join(parts)


def _verdict(found: Inspection) -> str:
    if found.damage is not None:
        return f"no, the file is damaged: {found.damage}"
    return "yes" if found.problem is None else f"no: {found.problem}"


def _one_line(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json_line(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
