"""What the architectures' plans have in common: blocks of steps, named as in the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.enums import Mask, Norm, Tap
from ..gguf.reader import GgufFile
from ..weights.activation import ActivationType
from .keys import Keys
from .plan import Buffer, ExpertLayer, FfnLayer, Matrix, Plan, Vector
from .rope import FACTORS_TENSOR, LONG_FACTORS_TENSOR, SHORT_FACTORS_TENSOR, Rope
from .screen import TENSORS as SCREEN_TENSORS
from .screen import can_copy, read_screen

if TYPE_CHECKING:
    from .config import ModelConfig


_GATE_UP = "ffn_gate", "ffn_up"
# Matrices, one after the other, through which the vector of a whole text goes.
POOLED_MATRICES = "dense_2.weight", "dense_3.weight"
# And what makes a score of it.
POOLED_TENSORS = (
    *POOLED_MATRICES,
    *("cls.weight", "cls.bias", "cls.norm.weight", "cls.output.weight", "cls.output.bias"),
)


class Writer:
    """Writes the plan of a model. `x` is the residual stream, `normed` what a block gets, `added`
    what it adds to the stream.

    Tensors are named without ".weight"; ".bias" is used where a file has it and `bias` allows."""

    def __init__(self, file: GgufFile, config: ModelConfig, head: str = "screened") -> None:
        self.file = file
        self.config = config
        self._chosen = head
        self.keys = Keys(file, config.architecture)
        self.mask = Mask.MASK_BOTH if config.both_sides else Mask.MASK_CAUSAL
        self.plan = Plan(config.vocab, config.d)
        self._buffers: dict[tuple[str, int], Buffer] = {}
        self.x = self.buffer("x", config.d)
        self.normed = self.buffer("normed", config.d)
        self.added = self.buffer("added", config.d)

    # -- parts -------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the file has the tensor, named in full."""
        return name in self.file.tensors

    def buffer(self, name: str, width: int) -> Buffer:
        """The buffer of this name and width, which blocks share."""
        key = name, width
        if key not in self._buffers:
            self._buffers[key] = self.plan.buffer(width)
        return self._buffers[key]

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """The matrix `name`.weight, which files store without its rows if there is only one."""
        info = self.file.tensors.get(f"{name}.weight")
        single = rows == 1 and info is not None and len(info.shape) == 1
        return self.plan.matrix(f"{name}.weight", (columns,) if single else (rows, columns))

    def vector(self, name: str, shape: int | tuple[int, ...]) -> Vector:
        """The vector `name`.weight, which some files call `name`."""
        bare = self.has(name) and not self.has(f"{name}.weight")
        return self.plan.vector(name if bare else f"{name}.weight", shape)

    def bias(self, name: str, count: int) -> Vector | None:
        """The vector `name`.bias, if the file has it and the architecture uses it."""
        full = f"{name}.bias"
        if name.rpartition(".")[2] + ".bias" in self.config.kind.unused:
            self.unused(full)
            return None
        return self.plan.vector(full, count) if self.has(full) else None

    def unused(self, name: str) -> None:
        """Notes a tensor, named in full, that files may have and the model does not use."""
        if self.has(name):
            self.plan.tensors[name] = self.file.tensors[name].shape

    def split(self, x: Buffer, *parts: Buffer) -> None:
        """Copies what x holds to the parts, one after the other."""
        first = 0
        for part in parts:
            self.plan.copy(x, part, width=part.width, first=(first, 0))
            first += part.width

    def product(self, x: Buffer, name: str, out: Buffer) -> None:
        """Out = the matrix `name` · x + its bias."""
        self.products(x, (name, out))

    def products(self, x: Buffer, *products: tuple[str, Buffer]) -> None:
        """Several products with the same x."""
        rows = [
            (self.matrix(name, out.width, x.width), self.bias(name, out.width), out)
            for name, out in products
        ]
        self.plan.products(x, *rows)

    def norm(
        self,
        x: Buffer,
        name: str,
        out: Buffer,
        *,
        groups: int = 1,
        shared: bool = True,
        epsilon: float | None = None,
    ) -> None:
        """Normalises x as the architecture does, with the weight `name`. With groups, each is
        normalised by itself, by a weight that they share or have each."""
        config, plan = self.config, self.plan
        shape: int | tuple[int, int] = x.width // groups
        if not shared:
            shape = (groups, x.width // groups)
        kind = Norm.NORM_LAYER if config.layer_norm else Norm.NORM_RMS
        bias = plan.vector(f"{name}.bias", shape) if self._norm_bias(name) else None
        weight = self.vector(name, shape) if config.kind.norm_weights else None
        epsilon = config.norm_epsilon if epsilon is None else epsilon
        plan.norm(x, out, weight, epsilon, bias=bias, kind=kind, groups=groups)

    def _norm_bias(self, name: str) -> bool:
        kind, bias = self.config.kind, f"{name.split('.')[-1]}.bias"
        return bias in kind.vectors or (bias in kind.optional and self.has(f"{name}.bias"))

    def heads(self, block: int) -> int:
        """Heads of attention of a block."""
        return self._of_block("attention.head_count", block, self.config.heads)

    def kv_heads(self, block: int) -> int:
        """Heads of keys and values of a block, which divide its heads."""
        name, heads = "attention.head_count_kv", self.heads(block)
        count = self._of_block(name, block, self.config.kv_heads)
        if count and heads % count:
            raise self.keys.fail(name, f"has {count} for the {heads} heads of layer {block}")
        return count

    def hidden(self, block: int) -> int:
        """Neurons of the feed-forward layer of a block."""
        return self._of_block("feed_forward_length", block, self.config.hidden)

    def _of_block(self, name: str, block: int, size: int) -> int:
        """A size that may differ between blocks, of which `size` is the largest."""
        if name not in self.config.kind.own_keys:
            return size
        return self.keys.per_layer(name, self.config.layers, size, size)[block]

    def rope(self, rope: Rope) -> int:
        """A rotary embedding, its frequencies divided by the file's factors if it has some."""
        self.unused(LONG_FACTORS_TENSOR)
        if not self.config.kind.rotary_factors:
            self.unused(FACTORS_TENSOR)
            return self.plan.rope(rope)
        tensors = (each for each in (FACTORS_TENSOR, SHORT_FACTORS_TENSOR) if self.has(each))
        return self.plan.rope(rope, next(tensors, None))

    # -- blocks ------------------------------------------------------------------------------------

    def embed(self) -> None:
        """x = the embeddings of the tokens, and those of their positions in some models."""
        config = self.config
        embedding = self.matrix("token_embd", config.vocab, config.d)
        self.plan.embed(self.x, embedding, config.embedding_scale)
        if config.kind.embedding_norm == "own":
            self.norm(self.x, "token_embd_norm", self.x)
        elif config.kind.embedding_norm:
            self.plan.norm(self.x, self.x, None, config.norm_epsilon)
        learned = config.kind.positions
        if self.has("position_embd.weight") if learned is None else learned:
            positions = self.matrix("position_embd", config.context_length, config.d)
            self.plan.position(self.added, positions)
            self.plan.add(self.x, self.added, self.x)

    def residual(self, post_norm: str | None = None) -> None:
        """x += added, which goes through a norm of its own in some models."""
        if post_norm is not None:
            epsilon = self.config.kind.post_epsilon
            self.norm(self.added, post_norm, self.added, epsilon=epsilon)
        self.plan.scale(self.added, self.config.residual_scale)
        self.plan.add(self.x, self.added, self.x)

    def ffn(
        self,
        block: int,
        x: Buffer,
        out: Buffer,
        *,
        suffix: str = "",
        hidden: int | None = None,
        gated: bool | None = None,
        activation: ActivationType | None = None,
        limit: float | None = None,
        hints: Buffer | None = None,
        names: tuple[tuple[str, str], ...] = (),
        deviations: float = 0.0,
        stack: str = "",
    ) -> None:
        """The feed-forward layer of a block. ``limit``: that of its activation."""
        config = self.config
        hidden = config.hidden if hidden is None else hidden
        names_of = (f"blk.{block}.{part}{suffix}.weight" for part in _GATE_UP)
        gate, up = (self.file.tensors.get(name) for name in names_of)
        gated = config.kind.gated if gated is None else gated
        if gated is None:
            gated = gate is not None or (up is not None and up.shape[0] == 2 * hidden)
        if gated and config.kind.gate_up and gate is None:
            names = (*names, ("ffn_gate", f"ffn_up{suffix}"))
        chosen = activation or config.activation
        biases = "ffn_up.bias" not in config.kind.unused
        limits = config.limits if limit is None else (limit, limit)
        layer = self.plan.layer(
            FfnLayer(
                block, suffix, hidden, gated, chosen, names, biases, deviations, stack, *limits
            )
        )
        if x.width == config.d:
            self.plan.tap(x, Tap.TAP_FFN_INPUTS, layer)
        self.plan.ffn(layer, x, out, hints)

    def experts(
        self,
        block: int,
        x: Buffer,
        routes: Buffer,
        out: Buffer,
        *,
        count: int,
        width: int,
        gated: bool = True,
        activation: ActivationType | None = None,
        limit: float | None = None,
        before: bool = False,
        suffix: str = "_exps",
        share: int = 1,
    ) -> None:
        """The experts of a block that the routes name. ``limit``: that of their activation."""
        prefix, d = f"blk.{block}.ffn_", x.width
        names = [f"{prefix}{part}{suffix}" for part in ("gate", "up", "down")]
        shapes = [(count, width, d), (count, width, d), (count, out.width, width)]
        if gated and self.has(f"{prefix}gate_up_exps.weight"):
            names[:2] = [f"{prefix}gate_up_exps"] * 2
            shapes[:2] = [(count, 2 * width, d)] * 2
        biases = self.has(f"{names[1]}.bias")
        for name, shape in list(zip(names, shapes, strict=True))[0 if gated else 1 :]:
            self.plan.tensors[f"{name}.weight"] = shape
            if biases:
                self.plan.tensors[f"{name}.bias"] = shape[:2]
        chosen = activation or self.config.activation
        gate = names[0] if gated else None
        limits = self.config.limits if limit is None else (limit, limit)
        expert = ExpertLayer(block, count, width, gate, names[1], names[2], chosen, biases, *limits)
        layer = self.plan.layer(expert)
        if d == self.config.d:
            self.plan.tap(x, Tap.TAP_FFN_INPUTS, layer)
        self.plan.experts(layer, x, routes, out, before=before, share=share)

    def finish(self, *, norm: str | None = "output_norm") -> None:
        """The final norm, if there is one, and what is read of a text without logits."""
        if norm is None:
            self.plan.copy(self.x, self.normed, width=self.config.d)
        else:
            self.norm(self.x, norm, self.normed)
        self.plan.tap(self.normed, Tap.TAP_HIDDEN, 0)
        for block in range(self.config.layers):
            for name in self.config.kind.unused_matrices:
                self.unused(f"blk.{block}.{name}.weight")
        for name in POOLED_TENSORS:  # see lm.embedding and lm.ranking
            self.unused(name)
        if not self.config.kind.output:
            self.unused("output.weight")

    def head(self, output: str = "output", *, norm: str | None = "output_norm") -> None:
        """The final norm, if there is one, and the logits of the tokens that are picked."""
        config, plan = self.config, self.plan
        self.finish(norm=norm)
        plan.pick(self.normed)
        name = output if self.has(f"{output}.weight") else "token_embd"
        matrix = self.matrix(name, config.vocab, config.d)
        self._screen(f"{name}.weight")
        plan.head(self.normed, matrix, self.bias(output, config.vocab))
        plan.scale(plan.logits, config.logit_scale)
        plan.cap(plan.logits, config.logit_cap)

    def _screen(self, output: str) -> None:
        """The screen of the output matrix, if the file has one and it is to be used, or a copy."""
        vocab, d = self.config.vocab, self.config.d
        info = self.file.tensors.get(output)
        self.plan.proven = (
            self._chosen == "proven" and info is not None and can_copy(info.format, d)
        )
        screen = read_screen(self.file, vocab)
        if screen is None:
            return
        shapes = (screen.rank, d), (vocab, screen.rank), (vocab,)
        self.plan.tensors |= dict(zip(SCREEN_TENSORS, shapes, strict=True))
        if self._chosen == "screened":
            self.plan.screen = screen
