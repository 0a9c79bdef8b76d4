"""Small checkpoints of RWKV 7, as flash-linear-attention stores it, and of SmallThinker, and their
forward passes in float64 numpy, written from the models' definitions by the checkpoints' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mixture_reference import relu, sigmoid, softmax
from recurrent_reference import before, layer_norm

Array = npt.NDArray[np.float64]
Shapes = dict[str, tuple[int, ...]]
VOCAB, D, LAYERS = 320, 32, 2

# -- RWKV 7 ------------------------------------------------------------------------------------

HEAD = 8
RANKS = {"w": 6, "a": 5, "v": 4, "g": 7}
RWKV7: dict[str, Any] = {
    "architectures": ["RWKV7ForCausalLM"],
    "model_type": "rwkv7",
    "attn": None,
    "a_low_rank_dim": RANKS["a"],
    "bos_token_id": 1,
    "decay_low_rank_dim": RANKS["w"],
    "eos_token_id": 2,
    "gate_low_rank_dim": RANKS["g"],
    "head_dim": HEAD,
    "hidden_act": "sqrelu",
    "hidden_ratio": 2.5,
    "hidden_size": D,
    "intermediate_size": None,
    "norm_eps": 64e-5 / HEAD,
    "norm_first": True,
    "num_hidden_layers": LAYERS,
    "num_heads": None,
    "tie_word_embeddings": False,
    "v_low_rank_dim": RANKS["v"],
    "vocab_size": VOCAB,
}


def rwkv7_shapes() -> Shapes:
    """Names and shapes; the feed-forward width is 2.5 · D, rounded up to a multiple of 32."""
    shapes: Shapes = {"model.embeddings.weight": (VOCAB, D), "lm_head.weight": (VOCAB, D)}

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (D,), f"{name}.bias": (D,)})

    norm("model.norm")
    norm("model.layers.0.pre_norm")
    for layer in range(LAYERS):
        part = f"model.layers.{layer}."
        for name in ("attn_norm", "ffn_norm", "attn.g_norm"):
            norm(part + name)
        for name in "rwkvag":
            shapes[f"{part}attn.x_{name}"] = (1, 1, D)
        for name in "rkvo":
            shapes[f"{part}attn.{name}_proj.weight"] = (D, D)
        shapes |= {f"{part}attn.k_k": (D,), f"{part}attn.k_a": (D,)}
        shapes[f"{part}attn.r_k"] = (D // HEAD, HEAD)
        for name, rank in RANKS.items():
            if name == "v" and layer == 0:
                continue
            shapes[f"{part}attn.{name}_lora.lora.0.weight"] = (rank, D)
            shapes[f"{part}attn.{name}_lora.lora.2.weight"] = (D, rank)
            if name != "g":
                shapes[f"{part}attn.{name}_lora.lora.2.bias"] = (D,)
        shapes |= {f"{part}ffn.x_k": (D,), f"{part}ffn.key.weight": (96, D)}
        shapes[f"{part}ffn.value.weight"] = (D, 96)
    return shapes


def rwkv7_logits(w: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """Logits of all tokens, (n, VOCAB)."""
    epsilon = RWKV7["norm_eps"]
    first: Array | None = None

    def norm(x: Array, name: str, groups: int = 1, eps: float = epsilon) -> Array:
        parts = layer_norm(x.reshape(len(x), groups, -1), eps).reshape(len(x), -1)
        return parts * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: Array) -> Array:
        return x.reshape(len(x), -1, HEAD)

    def lora(x: Array, name: str, inner: Any = lambda x: x) -> Array:
        low = inner(x @ w[f"{name}_lora.lora.0.weight"].T)
        return low @ w[f"{name}_lora.lora.2.weight"].T + w.get(f"{name}_lora.lora.2.bias", 0.0)

    x = norm(w["model.embeddings.weight"][list(tokens)], "model.layers.0.pre_norm")
    for layer in range(LAYERS):
        part, attn = f"model.layers.{layer}.", f"model.layers.{layer}.attn."
        normed = norm(x, f"{part}attn_norm")
        delta = before(normed) - normed
        shifted = {name: normed + delta * w[f"{attn}x_{name}"].reshape(-1) for name in "rwkvag"}
        r, k, v = (shifted[name] @ w[f"{attn}{name}_proj.weight"].T for name in "rkv")
        decay = np.exp(-np.exp(-0.5) * sigmoid(lora(shifted["w"], f"{attn}w", np.tanh)))
        if first is None:
            first = v
        else:
            v = v + (first - v) * sigmoid(lora(shifted["v"], f"{attn}v"))
        rate = sigmoid(lora(shifted["a"], f"{attn}a"))
        along = heads(k * w[f"{attn}k_k"])
        along = along / np.sqrt((along**2).sum(-1, keepdims=True))
        k = k * (1 + (rate - 1) * w[f"{attn}k_a"])
        r, k, v, decay, rate = (heads(each) for each in (r, k, v, decay, rate))
        state = np.zeros((D // HEAD, HEAD, HEAD))  # key by value
        y = np.zeros_like(v)
        for t in range(len(x)):
            removed = (along[t] * rate[t])[:, :, None]
            state = (
                decay[t][:, :, None] * state
                - removed * np.einsum("hk,hkv->hv", along[t], state)[:, None]
                + k[t][:, :, None] * v[t][:, None]
            )
            y[t] = np.einsum("hk,hkv->hv", r[t], state)
        y = norm(y.reshape(len(x), -1), f"{attn}g_norm", D // HEAD, HEAD * epsilon)
        y = y + ((r * k * w[f"{attn}r_k"]).sum(-1, keepdims=True) * v).reshape(len(x), -1)
        x = x + (y * lora(shifted["g"], f"{attn}g", sigmoid)) @ w[f"{attn}o_proj.weight"].T
        normed = norm(x, f"{part}ffn_norm")
        mixed = normed + (before(normed) - normed) * w[f"{part}ffn.x_k"]
        x = x + relu(mixed @ w[f"{part}ffn.key.weight"].T) ** 2 @ w[f"{part}ffn.value.weight"].T
    return norm(x, "model.norm") @ w["lm_head.weight"].T


# -- SmallThinker ------------------------------------------------------------------------------

HEADS, KV_HEADS, EXPERTS, USED, WIDTH = 4, 2, 6, 2, 24
SMALLTHINKER: dict[str, Any] = {
    "architectures": ["SmallThinkerForCausalLM"],
    "model_type": "smallthinker",
    "head_dim": HEAD,
    "hidden_size": D,
    "max_position_embeddings": 64,
    "moe_ffn_hidden_size": WIDTH,
    "moe_num_active_primary_experts": USED,
    "moe_num_primary_experts": EXPERTS,
    "moe_primary_router_apply_softmax": False,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_layout": [0, 1],
    "rope_theta": 500.0,
    "sliding_window_layout": [0, 1],
    "sliding_window_size": 4096,
    "tie_word_embeddings": True,
    "vocab_size": VOCAB,
}


def smallthinker_shapes() -> Shapes:
    """Names and shapes."""
    shapes: Shapes = {"model.embed_tokens.weight": (VOCAB, D), "model.norm.weight": (D,)}
    for layer in range(LAYERS):
        part = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{part}{name}.weight"] = (D,)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            shapes[f"{part}self_attn.{name}_proj.weight"] = (heads * HEAD, D)
        shapes[f"{part}self_attn.o_proj.weight"] = (D, HEADS * HEAD)
        shapes[f"{part}block_sparse_moe.primary_router.weight"] = (EXPERTS, D)
        for expert in range(EXPERTS):
            inner = f"{part}block_sparse_moe.experts.{expert}."
            shapes |= {f"{inner}{name}.weight": (WIDTH, D) for name in ("gate", "up")}
            shapes[f"{inner}down.weight"] = (D, WIDTH)
    return shapes


def smallthinker_logits(
    w: Mapping[str, Array], tokens: Sequence[int], config: Mapping[str, Any]
) -> Array:
    """Logits of all tokens, (n, VOCAB). The window is longer than the text."""
    n = len(tokens)
    frequencies = config["rope_theta"] ** (-np.arange(0, HEAD, 2) / HEAD)
    angles = np.outer(np.arange(n), np.concatenate([frequencies, frequencies]))
    hidden = np.triu(np.full((n, n), -np.inf), 1)

    def norm(x: Array, name: str) -> Array:
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"])

    def turned(x: Array) -> Array:
        other = np.concatenate([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], -1)
        return x * np.cos(angles) + other * np.sin(angles)

    x = w["model.embed_tokens.weight"][list(tokens)]
    for layer in range(LAYERS):
        part, moe = f"model.layers.{layer}.", f"model.layers.{layer}.block_sparse_moe."
        scores = x @ w[f"{moe}primary_router.weight"].T
        normed = norm(x, f"{part}input_layernorm")
        q, k, v = (
            (normed @ w[f"{part}self_attn.{name}_proj.weight"].T)
            .reshape(n, -1, HEAD)
            .swapaxes(0, 1)
            for name in "qkv"
        )
        if config["rope_layout"][layer]:
            q, k = turned(q), turned(k)
        k, v = (np.repeat(each, HEADS // KV_HEADS, 0) for each in (k, v))
        mixed = softmax(q @ k.swapaxes(1, 2) / np.sqrt(HEAD) + hidden) @ v
        mixed = mixed.swapaxes(0, 1).reshape(n, -1)
        x = x + mixed @ w[f"{part}self_attn.o_proj.weight"].T
        normed = norm(x, f"{part}post_attention_layernorm")
        added = np.zeros_like(x)
        for t in range(n):
            chosen = np.argsort(-scores[t])[:USED]
            if config["moe_primary_router_apply_softmax"]:
                shares = softmax(scores[t, chosen])
            else:
                shares = sigmoid(scores[t, chosen]) / sigmoid(scores[t, chosen]).sum()
            for expert, share in zip(chosen, shares, strict=True):
                gate, up, down = (
                    w[f"{moe}experts.{expert}.{name}.weight"] for name in ("gate", "up", "down")
                )
                added[t] += share * (down @ (relu(gate @ normed[t]) * (up @ normed[t])))
        x = x + added
    return norm(x, "model.norm") @ w["model.embed_tokens.weight"].T
