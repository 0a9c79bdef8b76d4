"""From a Hugging Face checkpoint (safetensors) to a GGUF file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..._arrays import FloatArray
from ..._files import check_output
from ..._options import checked, flag, function, instance, path, text
from ..._progress import Progress
from ...core.core import Core
from ...core.hosts import get_core
from ...errors import ModelFileError, NotFiniteError, UnsupportedError
from ...gguf.types import TypedValue, ValueType, packed_bytes
from ...gguf.writer import TensorData, Writable, gguf_package, write_gguf
from ...text.tokenizer import Tokenizer
from ...weights.formats import FORMATS, file_format
from ...weights.quantized import ByteArray, quantize_rows
from .config import Config
from .safetensors import Checkpoint, StoredTensor, read_json_object
from .tokenizer import tokenizer_metadata

_PIECE_WEIGHTS = 4 << 20  # quantised at a time
_IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # made from the config


@dataclass(frozen=True)
class ConvertReport:
    """The result of `convert_checkpoint`."""

    output: str
    architecture: str
    activation: str
    tokenizer: str
    format: str  # of most matrices
    tensors: int
    weights: int
    nbytes: int


@checked(
    directory=path,
    output=path,
    format=text,
    name=text,
    pre=text,
    force=flag,
    progress=function,
    core=instance(Core),
)
def convert_checkpoint(
    directory: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: str = "keep",
    name: str | None = None,
    pre: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    core: Core | None = None,
) -> ConvertReport:
    """Writes the GGUF file of a checkpoint in Hugging Face's layout: a directory with config.json,
    safetensors files and the tokeniser's files.

    Supported model types: llama, mistral, qwen2 and qwen3, also with other activations (relu,
    relu2, fatrelu …), which are recorded in the file.

    format: weight format; "keep" keeps F32, F16 and BF16. Vectors become F32.
    name: model name; by default the directory's name, or the repository's in a Hugging Face cache.
    pre: GGUF's name of the pre-tokeniser of a byte-level BPE vocabulary, if it is not recognised.
    force: replace an existing `output`, which is never a file of the checkpoint.

    Errors: `ModelFileError` (a file is missing or does not fit), `UnsupportedError` (another kind
    of model, tokeniser or tensor), `ArgumentError`, `NotFiniteError`, `BackendError` (the gguf
    package is not installed), OSError.
    """
    folder, target = Path(directory), Path(output)
    inputs = _inputs(folder)
    check_output(target, inputs, force=force)
    if format != "keep":
        format = file_format(format).name
    values = read_json_object(folder / "config.json")
    if not values:
        raise ModelFileError(f"{folder}: no config.json; give the directory of a checkpoint")
    config = Config(values, folder / "config.json")
    metadata = config.metadata(name or _model_name(folder))
    metadata |= tokenizer_metadata(folder, config.vocab, pre)
    tokenizer = Tokenizer.from_metadata(metadata, str(folder))
    job = _Conversion(config, Checkpoint(folder), folder, format, core or get_core())
    tensors = job.tensors(progress or (lambda what, share: None))
    kinds = [each.format for each in tensors.values() if len(each.shape) > 1]
    most = max(set(kinds), key=kinds.count)
    if most in FORMATS:
        metadata["general.file_type"] = TypedValue(FORMATS[most].file_type, ValueType("u32"))
    writable: dict[str, Writable] = {**tensors}
    write_gguf(target, metadata, writable, inputs, force=force)
    return ConvertReport(
        str(target),
        config.family.architecture,
        metadata[f"{config.family.architecture}.hidden_activation"],
        tokenizer.kind,
        most,
        len(tensors),
        sum(math.prod(each.shape) for each in tensors.values()),
        target.stat().st_size,
    )


def _inputs(folder: Path) -> list[Path]:
    """The files of a checkpoint: all of its directory, but GGUF files that were made there."""
    if not folder.is_dir():
        return []
    return [each for each in folder.iterdir() if each.suffix != ".gguf"]


def _model_name(folder: Path) -> str:
    """The directory's name; in Hugging Face's cache, models--OWNER--NAME/snapshots/COMMIT, NAME."""
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.split("--", 2)[-1]
    return folder.name


class _Conversion:
    """The tensors of one checkpoint."""

    def __init__(
        self, config: Config, checkpoint: Checkpoint, folder: Path, format: str, core: Core
    ) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._folder = folder
        self._format = format
        self._core = core
        gguf = gguf_package()
        names = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        architecture = names[config.family.architecture]
        self._names = gguf.get_tensor_name_map(architecture, config.layers)

    def tensors(self, announce: Progress) -> dict[str, TensorData]:
        """All tensors by their names in the new file, created when they are written."""
        found: dict[str, StoredTensor] = {}
        for name, stored in self._checkpoint.tensors.items():
            if name.endswith(_IGNORED):
                continue
            new = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
            if new is None or new in found:
                raise UnsupportedError(
                    f"{self._folder}: tensor {name!r} is not one of "
                    f"{self._config.family.architecture!r}, and results without it would be wrong"
                )
            found[new] = stored
        if self._config.tied:
            found.pop("output.weight", None)
        self._check_shapes(found)
        total = sum(math.prod(each.shape) for each in found.values()) or 1
        tensors: dict[str, TensorData] = {}
        factors = self._config.rope_factors()
        if factors is not None:
            packed = factors.view(np.uint8)
            tensors["rope_freqs.weight"] = TensorData("f32", factors.shape, packed)
        done = 0
        for new in sorted(found, key=_place):
            stored = found[new]
            kind = self._kind(stored)
            packed_bytes(kind, stored.shape)
            make = self._maker(new, stored, kind, announce, done / total)
            tensors[new] = TensorData(kind, stored.shape, make)
            done += math.prod(stored.shape)
        return tensors

    def _check_shapes(self, found: dict[str, StoredTensor]) -> None:
        config = self._config
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        d, hidden = config.d, config.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (config.vocab, d),
            "output_norm.weight": (d,),
        }
        for layer in range(config.layers):
            parts: tuple[tuple[str, tuple[int, ...]], ...] = (
                ("attn_norm", (d,)),
                ("ffn_norm", (d,)),
                ("attn_q", (q, d)),
                ("attn_k", (kv, d)),
                ("attn_v", (kv, d)),
                ("attn_output", (d, q)),
                ("ffn_gate", (hidden, d)),
                ("ffn_up", (hidden, d)),
                ("ffn_down", (d, hidden)),
            )
            shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts}
        if not config.tied:
            if "output.weight" not in found:
                raise ModelFileError(
                    f"{self._folder}: the head 'lm_head.weight' is missing, and config.json does "
                    "not say that it is tied to the embedding (tie_word_embeddings)"
                )
            shapes["output.weight"] = (config.vocab, d)
        for name, shape in shapes.items():
            if name not in found:
                raise ModelFileError(f"{self._folder}: the tensor for {name!r} is missing")
            if found[name].shape != shape:
                raise ModelFileError(
                    f"{self._folder}: tensor {found[name].name!r} has shape {found[name].shape}, "
                    f"but config.json asks for {shape}"
                )

    def _kind(self, stored: StoredTensor) -> str:
        """The format that a tensor gets."""
        if len(stored.shape) < 2:
            return "f32"
        if self._format == "keep":
            return stored.format if stored.format in FORMATS else "f16"
        fits = stored.shape[-1] % FORMATS[self._format].block == 0
        return self._format if fits else "f16"

    def _maker(
        self, new: str, stored: StoredTensor, kind: str, announce: Progress, share: float
    ) -> Callable[[], ByteArray]:
        def make() -> ByteArray:
            announce(stored.name, share)
            heads = self._moved_heads(new)
            if kind == stored.format and stored.dtype != "F64" and not heads:
                return stored.data
            values = stored.floats()
            if heads:
                values = _neighbours(values, heads)
            return self._packed(stored, values, kind)

        return make

    def _moved_heads(self, new: str) -> int:
        """Number of heads of a tensor whose rows are permuted, or 0."""
        if not self._config.family.pairs or not new.startswith("blk."):
            return 0
        name = new.split(".")[2]
        return {"attn_q": self._config.heads, "attn_k": self._config.kv_heads}.get(name, 0)

    def _packed(self, stored: StoredTensor, values: FloatArray, kind: str) -> ByteArray:
        what = f"{self._folder}: tensor {stored.name!r}"
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{what} holds NaN, infinity, or weights too large for F32")
        if kind == "f32":
            return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
        rows = values.reshape(-1, stored.shape[-1])
        step = max(1, _PIECE_WEIGHTS // stored.shape[-1])
        return np.concatenate(
            [
                quantize_rows(rows[start : start + step], kind, self._core, what)
                for start in range(0, len(rows), step)
            ]
        )


def _neighbours(values: FloatArray, heads: int) -> FloatArray:
    """Rows of q or k, (heads · head_dim, …), permuted so that the two rows of a rotary pair, which
    are half a head apart in the checkpoint, become adjacent."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _place(name: str) -> tuple[int, str]:
    """Sort key: the model's own tensors first, then layer by layer."""
    parts = name.split(".")
    return (int(parts[1]), name) if parts[0] == "blk" else (-1, name)
