"""Small checkpoints of families of transformers, as tests/golden/make_checkpoints.py recorded what
it computes of them."""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_checkpoint import write_safetensors
from hf_tokenizers import MAKERS

GOLDEN = Path(__file__).parent / "golden" / "checkpoints.json"
VOCAB = 320
TOKENS = [5, 300, 17, 17, 2, 99, 250, 8, 1, 0, 41]
TYPES = [0] * 6 + [1] * 5  # of pairs of texts


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


@functools.cache
def _tokenizer(family: str) -> str:
    return str(MAKERS[family](VOCAB - 10).to_str())


def write(folder: Path, entry: Mapping[str, Any], **changes: Any) -> Path:
    """Writes the checkpoint of an entry with a tokeniser of the family; changes are of its
    config."""
    tensors = weights(entry["shapes"])
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**entry["config"], **changes}), "utf-8")
    write_safetensors(folder / "model.safetensors", tensors, "F32")
    family = str(entry["config"]["model_type"]).replace("-", "_")
    (folder / "tokenizer.json").write_text(_tokenizer(family), "utf-8")
    mask = {"modernbert": "[MASK]", "bert": "[MASK]", "nomic_bert": "[MASK]"}.get(family, "<mask>")
    settings = {"mask_token": mask} if "bert" in family else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder
