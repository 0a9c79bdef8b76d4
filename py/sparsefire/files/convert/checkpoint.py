"""From a Hugging Face checkpoint (safetensors) to a GGUF file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._arrays import FloatArray
from ..._files import check_output
from ..._options import checked, flag, function, instance, path, text
from ..._progress import Progress
from ...arch.config import read_config
from ...arch.tensors import read_plan
from ...core.core import Core
from ...core.hosts import get_core
from ...errors import ModelFileError, NotFiniteError, UnsupportedError
from ...gguf.header import TensorInfo
from ...gguf.reader import GgufFile
from ...gguf.types import TypedValue, ValueType, packed_bytes
from ...gguf.writer import TensorData, Writable, gguf_package, write_gguf
from ...text.tokenizer import Tokenizer
from ...weights.formats import FORMATS, file_format
from ...weights.quantized import ByteArray, quantize_rows
from .config import Config
from .eight_bits import scaled_parts
from .mxfp4 import mxfp4_parts, others
from .parts import Part, Parts, stack_experts
from .safetensors import Checkpoint, StoredTensor, read_json_object
from .ternary import TERNARY, TERNARY_ONLY, ternary_kind
from .tokenizer import tokenizer_metadata

_PIECE_WEIGHTS = 4 << 20  # quantised at a time
# Made from the config.
_IGNORED = (
    ".rotary_emb.inv_freq",
    *(f".{name}.{kind}" for name in ("attn", "attention") for kind in ("bias", "masked_bias")),
)


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

    Supported are the model types of `families.FAMILIES`, also with other activations (relu, relu2,
    fatrelu …), which are recorded in the file. Matrices that BitNet's configuration declares
    ternary, packed or not, become TQ2_0 with a scale of their own, exactly.

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
    metadata |= tokenizer_metadata(folder, config.vocab, pre, encoder=config.family.encoder)
    metadata |= config.templates(metadata)
    tokenizer = Tokenizer.from_metadata(metadata, str(folder))
    job = _Conversion(config, Checkpoint(folder), folder, format, core or get_core())
    tensors = job.tensors(progress or (lambda what, share: None))
    if not config.family.usual:
        _check_plan(folder, metadata, tensors)
    kinds = [each.format for each in tensors.values() if len(each.shape) > 1]
    most = max(set(kinds), key=kinds.count)
    if most in FORMATS:
        metadata["general.file_type"] = TypedValue(FORMATS[most].file_type, ValueType("u32"))
    writable: dict[str, Writable] = {**tensors}
    write_gguf(target, metadata, writable, inputs, force=force)
    return ConvertReport(
        str(target),
        config.architecture,
        metadata[f"{config.architecture}.hidden_activation"],
        tokenizer.kind,
        most,
        len(tensors),
        sum(math.prod(each.shape) for each in tensors.values()),
        target.stat().st_size,
    )


class _Unwritten(GgufFile):
    """The header of a file that is not written yet."""

    def __init__(
        self, name: str, metadata: Mapping[str, Any], tensors: Mapping[str, TensorData]
    ) -> None:
        self.name = name
        self.metadata = dict(metadata)
        self.tensors = {
            key: TensorInfo(key, each.shape, each.format, 0, 0) for key, each in tensors.items()
        }


def _check_plan(
    folder: Path, metadata: Mapping[str, Any], tensors: Mapping[str, TensorData]
) -> None:
    """The errors that the file would have when it is loaded, before it is written."""
    file = _Unwritten(str(folder), metadata, tensors)
    read_plan(file, read_config(file))


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
        architecture = names[config.family.names or config.architecture]
        self._names = gguf.get_tensor_name_map(architecture, config.layers)

    def tensors(self, announce: Progress) -> dict[str, TensorData]:
        """All tensors by their names in the new file, created when they are written."""
        found: Parts = {}
        for name, part in self._parts().items():
            new = self._new_name(name)
            if new is None or new in found:
                raise UnsupportedError(
                    f"{self._folder}: tensor {name!r} is not one of "
                    f"{self._config.architecture!r}, and results without it would be wrong"
                )
            found[new] = self._in_pairs(new, part)
        if self._config.tied:
            found.pop("output.weight", None)
        self._check_shapes(found)
        total = sum(math.prod(each.shape) for each in found.values()) or 1
        tensors: dict[str, TensorData] = {}
        for name, factors in self._config.rope_factors().items():
            tensors[name] = TensorData("f32", factors.shape, factors.view(np.uint8))
        done = 0
        for new in sorted(found, key=_place):
            part = found[new]
            kind = self._kind(new, part)
            packed_bytes(kind, part.shape)
            tensors[new] = TensorData(
                kind, part.shape, self._maker(part, kind, announce, done / total)
            )
            done += math.prod(part.shape)
        return tensors

    def _new_name(self, name: str) -> str | None:
        """A tensor's name in the new file, which `arrange` may have given it."""
        made = name.startswith("blk.") and not self._config.family.usual
        if made or name == "cls.output.weight":
            return name
        new: str | None = self._names.get_name(name, try_suffixes=(".weight", ".bias", ".scale"))
        return new

    def _parts(self) -> Parts:
        """The tensors by the checkpoint's names, arranged as GGUF has them."""
        stored: Mapping[str, StoredTensor] = self._checkpoint.tensors
        parts: Parts = {}
        if self._config.mxfp4:
            parts = mxfp4_parts(stored, self._folder)
            stored = others(stored)
        if self._config.packed.used:
            parts, stored = self._config.packed.parts(stored)
        scaled, stored = scaled_parts(stored, self._config.values, self._folder / "config.json")
        parts |= scaled
        parts |= {
            name: part
            for name, part in self._config.ternary.parts(stored).items()
            if not name.endswith(_IGNORED)
        }
        try:
            parts = stack_experts(parts, self._config.experts)
        except ModelFileError as error:
            raise ModelFileError(f"{self._folder}: {error}") from None
        if "embed_tokens.weight" in parts:  # a model that was saved without its head
            parts = {f"model.{name}": part for name, part in parts.items()}
        return self._config.family.arrange(self._config, parts)

    def _in_pairs(self, new: str, part: Part) -> Part:
        """The same, with neighbouring rows for rotary pairs where the architecture has them so."""
        heads = self._moved_heads(new)
        return part.moved(lambda x: _neighbours(x, heads)) if heads else part

    def _check_shapes(self, found: Parts) -> None:
        config = self._config
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        d, hidden = config.d, config.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (config.vocab, d),
        }
        if config.family.norms:
            shapes["output_norm.weight"] = (d,)
        for layer in range(config.layers if config.family.usual else 0):
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

    def _kind(self, new: str, part: Part) -> str:
        """The format that a tensor gets. Vectors are plain numbers, and so are routers, which are
        small, and whose choices would change."""
        if part.plain or len(part.shape) < 2 or new.endswith(".bias"):
            return "f32"
        if part.format == TERNARY:
            return ternary_kind(self._format, part.shape[-1])
        if self._format == "keep" or (self._config.ternary.used and self._format in TERNARY_ONLY):
            return part.format if part.format in FORMATS else "f16"
        if ".ffn_gate_inp." in new:
            return "f32"
        fits = part.shape[-1] % FORMATS[self._format].block == 0
        return self._format if fits else "f16"

    def _maker(
        self, part: Part, kind: str, announce: Progress, share: float
    ) -> Callable[[], ByteArray]:
        def make() -> ByteArray:
            announce(part.name, share)
            if kind == part.format and part.packed is not None:
                return part.packed()
            return self._packed(part, part.floats(), kind)

        return make

    def _moved_heads(self, new: str) -> int:
        """Number of heads of a tensor whose rows are permuted, or 0."""
        if not self._config.family.pairs or not new.startswith("blk.") or new.endswith(".scale"):
            return 0
        name = new.split(".")[2]
        return {"attn_q": self._config.heads, "attn_k": self._config.kv_heads}.get(name, 0)

    def _packed(self, part: Part, values: FloatArray, kind: str) -> ByteArray:
        what = f"{self._folder}: tensor {part.name!r}"
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{what} holds NaN, infinity, or weights too large for F32")
        if kind == "f32":
            return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
        rows = values.reshape(-1, part.shape[-1])
        step = max(1, _PIECE_WEIGHTS // part.shape[-1])
        return np.concatenate(
            [
                quantize_rows(rows[start : start + step], kind, self._core, what)
                for start in range(0, len(rows), step)
            ]
        )


def _neighbours(values: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of q or k, (heads · head_dim, …), permuted so that the two rows of a rotary pair, which
    are half a head apart in the checkpoint, become adjacent."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _place(name: str) -> tuple[int, str]:
    """Sort key: the model's own tensors first, then layer by layer."""
    parts = name.split(".")
    return (int(parts[1]), name) if parts[0] == "blk" else (-1, name)
