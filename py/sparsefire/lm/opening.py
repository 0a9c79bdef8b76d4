"""Opening a model: the file, what it configures, its tokeniser, and its weights in the core."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .._options import DEFAULT_KV_FORMAT, positive
from ..arch.config import ModelConfig, read_config
from ..arch.inputs import read_limits
from ..arch.screen import attach_companion
from ..arch.tensors import read_plan
from ..core.core import Core
from ..core.hosts import get_core
from ..errors import ArgumentError, ModelFileError, UnsupportedError
from ..ffn.cache import NeuronCache
from ..gguf.reader import GgufFile
from ..gguf.source import Source
from ..text.tokenizer import Tokenizer
from ..weights.activation import ActivationType
from .loader import CoreModel
from .neurons import ModelNeurons

DEFAULT_CONTEXT = 4096  # tokens; an upper limit of the default, since the cache takes memory

_EMBEDDED = Path(__file__).parent.parent / "models"


class OpenedModel(NamedTuple):
    """What a `Model` is made of. `tokenizer` is set if it is not the one that the file names."""

    file: GgufFile
    config: ModelConfig
    core_model: CoreModel
    context: int
    tokenizer: Tokenizer | None


def open_model(
    source: Source | Sequence[Source] | None,
    activation: str | ActivationType | None,
    context: int | None,
    neuron_budget: int | NeuronCache | None,
    pre: str | None,
    mapped: bool,
    core: Core | None,
    head: str | None = None,
    companion: str | os.PathLike[str] | None = None,
    kv_formats: tuple[str, str] = (DEFAULT_KV_FORMAT, DEFAULT_KV_FORMAT),
    inputs: str | None = None,
) -> OpenedModel:
    """See `Model.load`."""
    source = default_model() if source is None else source
    core = core or get_core()
    file, neurons = GgufFile.open(source, mapped=mapped), None
    try:
        head = head or "screened"
        some = inputs != "dense" and neuron_budget is None and core.host == "native"
        beside = None if companion is None else Path(companion)
        attach_companion(file, mapped, beside, screen=head == "screened", inputs=some)
        config = read_config(file, activation, some)
        plan = read_plan(file, config, head)
        tokenizer = None
        if pre is not None:
            tokenizer = Tokenizer.from_metadata(file.metadata, file.name, pre=pre)
        context = _checked_context(context, config)
        if neuron_budget is not None:
            if config.both_sides:
                raise UnsupportedError(
                    f"{file.name}: neuron_budget is for models that see what comes before alone"
                )
            _check_readable_again(file)
            neurons = ModelNeurons(core, file, config, plan, neuron_budget)
        core_model = CoreModel(core, file, config, plan, neurons, kv_formats)
        if config.leaves_out_inputs:
            core_model.set_input_limits(read_limits(file))
    except BaseException:
        if neurons is not None:
            neurons.close()
        file.close()
        raise
    return OpenedModel(file, config, core_model, context, tokenizer)


def _check_readable_again(file: GgufFile) -> None:
    """`ArgumentError` if single neurons cannot be read from what the model was opened from."""
    if any(isinstance(each, (bytes, bytearray, memoryview)) for each in file.files):
        raise ArgumentError("neuron_budget: the model is already in memory; give a path or a file")


def neuron_budget_of(value: object, name: str) -> int | NeuronCache:
    """A number of bytes, or the settings of the caches."""
    return value if isinstance(value, NeuronCache) else positive(value, name)


def default_model() -> Path:
    """The file named by SPARSEFIRE_MODEL, or else the model in the package."""
    chosen = os.environ.get("SPARSEFIRE_MODEL")
    if chosen:
        return Path(chosen)
    embedded = sorted(_EMBEDDED.glob("*.gguf"))
    if not embedded:
        raise ModelFileError(
            f"no model comes with this installation ({_EMBEDDED} holds no .gguf file); give the "
            "path of one, or reinstall the package"
        )
    return embedded[0]


def _checked_context(context: int | None, config: ModelConfig) -> int:
    if context is None:
        return min(config.context_length, DEFAULT_CONTEXT)
    if not 1 <= context <= config.context_length:
        raise ArgumentError(
            f"context: {context} is outside 1 … {config.context_length}, the context length of "
            "the model"
        )
    return context
