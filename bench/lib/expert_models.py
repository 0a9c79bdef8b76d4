"""Mixtures of experts of random weights, of the layers' shapes of real models, whose tokens decide
the experts that they go to, and traces of tokens. Experts are in Q8_0, which no side repacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefire.gguf.writer import TensorData, write_gguf

from .peer_files import HOME

_LEVEL = 73.3  # spread of the levels -127 … 127
_QUIET = 0.02  # of what layers add to the stream, so that it stays the token's embedding


@dataclass(frozen=True)
class Mixture:
    """Sizes of a model; ``active`` is the share of a ReLU expert's neurons that fire. The model has
    fewer layers and tokens than the real one, and its shapes in all else."""

    name: str
    architecture: str
    layers: int
    d: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    used: int
    width: int
    vocab: int
    active: float = 1.0

    @property
    def expert_bytes(self) -> int:
        """Of one expert."""
        return 3 * self.width * self.d * 34 // 32

    @property
    def all_expert_bytes(self) -> int:
        """Of all layers' experts."""
        return self.layers * self.experts * self.expert_bytes


QWEN3 = Mixture("qwen3-30b-a3b", "qwen3moe", 4, 2048, 32, 4, 128, 128, 8, 768, 1024)
SMALLTHINKER = Mixture(
    "smallthinker-4b", "smallthinker", 8, 1536, 12, 2, 128, 32, 4, 768, 1024, active=0.3
)
TINY_QWEN3 = Mixture("tiny-qwen3", "qwen3moe", 2, 128, 4, 2, 32, 16, 4, 64, 64)
TINY_SMALLTHINKER = Mixture(
    "tiny-smallthinker", "smallthinker", 2, 128, 4, 2, 32, 8, 2, 64, 64, active=0.3
)


@dataclass(frozen=True)
class Routing:
    """A Markov chain over tokens, each of which has its experts in every layer: the chain stays in
    a topic with probability ``stay``, or goes to any; the tokens of a topic are equally likely,
    and have drawn their experts, without putting any back, in proportion to rank^-``zipf``, in the
    topic's own order of the experts."""

    zipf: float = 1.2
    topics: int = 8
    stay: float = 0.99

    def experts(self, sizes: Mixture) -> npt.NDArray[np.int64]:
        """(layers, vocab, used), ascending."""
        random = np.random.default_rng(1)
        popular = -self.zipf * np.log(np.arange(1, sizes.experts + 1))
        found = np.empty((sizes.layers, sizes.vocab, sizes.used), np.int64)
        for layer in range(sizes.layers):
            orders = [random.permutation(sizes.experts) for _ in range(self.topics)]
            for token in range(sizes.vocab):
                best = np.argsort(-(popular + random.gumbel(size=sizes.experts)))[: sizes.used]
                found[layer, token] = np.sort(orders[token % self.topics][best])
        return found

    def trace(self, sizes: Mixture, length: int, seed: int = 0) -> list[int]:
        """Tokens."""
        random, topic, tokens = np.random.default_rng(seed), 0, []
        for _ in range(length):
            if random.random() > self.stay:
                topic = int(random.integers(self.topics))
            tokens.append(int(random.integers(sizes.vocab // self.topics)) * self.topics + topic)
        return tokens


def mixture_model(sizes: Mixture, routing: Routing) -> Path:
    """The model's file, which is made when it is not there."""
    path = HOME / f"random-{sizes.name}-{routing.zipf}-{routing.topics}.gguf"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        write_gguf(path, _metadata(sizes), _tensors(sizes, routing))
    return path


def _metadata(sizes: Mixture) -> dict[str, Any]:
    values: dict[str, Any] = {
        "block_count": sizes.layers,
        "context_length": 4096,
        "embedding_length": sizes.d,
        "feed_forward_length": sizes.width,
        "expert_feed_forward_length": sizes.width,
        "expert_count": sizes.experts,
        "expert_used_count": sizes.used,
        "expert_gating_func": 1,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": sizes.head_dim,
        "vocab_size": sizes.vocab,
    }
    return {
        "general.architecture": sizes.architecture,
        "general.name": f"random {sizes.name}",
        "tokenizer.ggml.model": "none",
        **{f"{sizes.architecture}.{name}": value for name, value in values.items()},
    }


def _tensors(sizes: Mixture, routing: Routing) -> dict[str, TensorData]:
    d, q_width, kv_width = sizes.d, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    embedding = _embedding(sizes)
    routers = _routers(sizes, routing, embedding)
    tensors = {
        "token_embd.weight": _floats(embedding),
        "output_norm.weight": _floats(np.ones(d)),
        "output.weight": _random(sizes.vocab, d),
    }
    for layer in range(sizes.layers):
        prefix = f"blk.{layer}."
        names = ["attn_norm", "ffn_norm"]
        tensors |= {f"{prefix}{name}.weight": _floats(np.ones(d)) for name in names}
        if sizes.architecture == "qwen3moe":
            for name in ("attn_q_norm", "attn_k_norm"):
                tensors[f"{prefix}{name}.weight"] = _floats(np.ones(sizes.head_dim))
        many, width = (sizes.experts,), sizes.width
        shift = 127 if sizes.active < 1 else None
        tensors |= {
            f"{prefix}attn_q.weight": _random(q_width, d),
            f"{prefix}attn_k.weight": _random(kv_width, d),
            f"{prefix}attn_v.weight": _random(kv_width, d),
            f"{prefix}attn_output.weight": _random(d, q_width, scale=_QUIET),
            f"{prefix}ffn_gate_inp.weight": _floats(routers[layer]),
            f"{prefix}ffn_gate_exps.weight": _random(*many, width, d, minus=shift),
            f"{prefix}ffn_up_exps.weight": _random(*many, width, d),
            f"{prefix}ffn_down_exps.weight": _random(*many, d, width, scale=_QUIET),
        }
    return tensors


def _embedding(sizes: Mixture) -> npt.NDArray[np.float64]:
    """A code for each token. Its first element is the same for all: the gates' weight for it is
    the most negative level, so it decides how many neurons fire."""
    random = np.random.default_rng(2)
    codes = random.standard_normal((sizes.vocab, sizes.d))
    length = np.linalg.norm(codes[:, 1:], axis=1)
    codes[:, 0] = 0.0
    if sizes.active < 1:
        codes[:, 0] = NormalDist().inv_cdf(1 - sizes.active) * _LEVEL / 127 * length
    return codes


def _routers(
    sizes: Mixture, routing: Routing, embedding: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float64]]:
    """(experts, d) of each layer, with which every token goes to its experts."""
    pre_norm = sizes.architecture != "smallthinker"
    root = np.sqrt(np.mean(embedding**2, axis=1, keepdims=True)) if pre_norm else 1.0
    inverse = np.linalg.pinv(embedding / root)
    routers = []
    for chosen in routing.experts(sizes):
        logits = np.zeros((sizes.vocab, sizes.experts))
        np.put_along_axis(logits, chosen, 4 - 0.1 * np.arange(sizes.used)[None], axis=1)
        routers.append((inverse @ logits).T)
    return routers


def _floats(values: npt.NDArray[np.float64]) -> TensorData:
    data = np.ascontiguousarray(values, np.float32)
    return TensorData("f32", data.shape, data.view(np.uint8).reshape(-1))


def _random(*shape: int, scale: float = 1.0, minus: int | None = None) -> TensorData:
    """Random blocks in Q8_0: products with a vector of elements of about 1 are about ``scale``.
    ``minus``: the first weight of each row is so many levels below 0."""
    step, blocks = np.float16(scale * shape[-1] ** -0.5 / _LEVEL), shape[-1] // 32

    def make() -> npt.NDArray[np.uint8]:
        random = np.random.default_rng(sum(shape))
        packed = np.empty((int(np.prod(shape[:-1])), blocks, 34), np.uint8)
        packed[:, :, :2] = np.array([step]).view(np.uint8)
        levels = random.integers(-127, 128, (*packed.shape[:2], 32), np.int8)
        if minus is not None:
            levels[:, 0, 0] = -minus
        packed[:, :, 2:] = levels.view(np.uint8)
        return packed.reshape(-1)

    return TensorData("q8_0", shape, make)
