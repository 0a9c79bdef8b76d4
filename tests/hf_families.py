"""Small checkpoints of families of transformers, as tests/golden/make_checkpoints.py recorded what
it computes of them."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_checkpoint import byte_level_tokenizer, write_safetensors

GOLDEN = Path(__file__).parent / "golden" / "checkpoints.json"
VOCAB = 320
TOKENS = [5, 300, 17, 17, 2, 99, 250, 8, 1, 0, 41]


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, npt.NDArray[np.float32]]:
    """The same weights for the same names and shapes."""
    found = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1, 1, shape)
        if len(shape) == 1:
            values = values / 4 + (1 if "norm" in name and name.endswith("weight") else 0)
        else:
            values = values * (4 if "embed_tokens" in name else 1.7 / np.sqrt(shape[-1]))
        found[name] = values.astype(np.float32)
    return found


def entries() -> dict[str, dict[str, Any]]:
    """The families: config, shapes, and logits (vocab,) after `TOKENS`."""
    found: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text("utf-8"))
    for entry in found.values():
        entry["logits"] = np.frombuffer(base64.b64decode(entry["logits"]), "<f4")
    return found


def write(folder: Path, entry: Mapping[str, Any], **changes: Any) -> Path:
    """Writes the checkpoint of an entry with a byte-level tokeniser; changes are of its config."""
    tensors = weights(entry["shapes"])
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**entry["config"], **changes}), "utf-8")
    write_safetensors(folder / "model.safetensors", tensors, "F32")
    byte_level_tokenizer(VOCAB - 10).save(str(folder / "tokenizer.json"))
    return folder
