"""Mixtures of experts against their forward pass in float64 numpy."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import mixture_models
from mixture_reference import Reference
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

TOKENS = [(37 * i + 11) % mixture_models.VOCAB for i in range(14)]


@pytest.mark.parametrize("architecture", mixture_models.MIXTURES)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = mixture_models.write(tmp_path / "m.gguf", architecture)
    expected = Reference(path).logits(TOKENS)
    with Model.load(path) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


def _join_latent_matrices(source: Path, target: Path) -> None:
    """Writes a model of DeepSeek's as older converters did: keys and values by one matrix."""
    reader = gguf.GGUFReader(source)
    tensors = {each.name: np.array(each.data) for each in reader.tensors}
    writer = gguf.GGUFWriter(target, "deepseek2")
    for name, field in reader.fields.items():
        kind, value = field.types[0], field.contents()
        if name.startswith("GGUF.") or name == "general.architecture" or name.endswith("_mla"):
            continue
        old = {
            "deepseek2.attention.head_count_kv": mixture_models.HEADS,
            "deepseek2.attention.key_length": mixture_models.PLAIN + mixture_models.TURNED,
            "deepseek2.attention.value_length": mixture_models.VALUE,
        }
        sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, old.get(name, value), kind, sub_type)
    for name, values in tensors.items():
        if name.endswith("attn_v_b.weight"):
            keys = tensors[name.replace("_v_", "_k_")].transpose(0, 2, 1)
            joined = np.ascontiguousarray(np.concatenate([keys, values], 1))
            writer.add_tensor(name.replace("_v_", "_kv_"), joined.reshape(-1, joined.shape[-1]))
        elif not name.endswith("attn_k_b.weight"):
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_keys_and_values_by_one_matrix(tmp_path: Path) -> None:
    path = mixture_models.write(tmp_path / "m.gguf", "deepseek2")
    _join_latent_matrices(path, tmp_path / "old.gguf")
    expected = Reference(path).logits(TOKENS)
    with Model.load(tmp_path / "old.gguf") as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


def test_contexts_end_where_tokens_would_be_chosen(tmp_path: Path) -> None:
    path = mixture_models.write(tmp_path / "m.gguf", "deepseek32")
    with Model.load(path) as model:
        assert model.context == model.config.context_length == 16
