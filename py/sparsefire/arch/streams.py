"""Residual streams side by side (hyper-connections; Zhu et al. 2024): a part of a block reads a sum
of them, and what it makes is added to each, with shares that are functions of what they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.enums import Function, Repeat
from .plan import Buffer
from .writer import Writer

_MOST = 64


class Streams:
    """The streams of a model, all of them copies of buffer x at first. ``mixed``: each part of a
    block also mixes them, by shares whose rows and columns have sums of 1 (Xie et al. 2025)."""

    def __init__(self, w: Writer, mixed: bool) -> None:
        keys, prefix = w.keys, "hyper_connection."
        self.w = w
        self.count = keys.integer(f"{prefix}count", _MOST)
        self.epsilon = keys.number(f"{prefix}epsilon", 0.0, 1.0)
        self.rounds = keys.integer(f"{prefix}sinkhorn_iterations", 1000) if mixed else 0
        self.magnitude = 2.0 if mixed else keys.number(f"{prefix}magnitude", 0.0, 1e6)
        self.all = w.buffer("streams", self.count * w.config.d)
        w.plan.copy(w.x, self.all, count=self.count, width=w.config.d, stride=(0, w.config.d))

    def blocks(
        self,
        mix: Callable[[Writer, int, Buffer, Buffer], object],
        feed: Callable[[Writer, int, Buffer, Buffer], object],
    ) -> None:
        """The blocks, of a part in the place of attention and a feed-forward part."""
        w = self.w
        for block in range(w.config.layers):
            for name, part in (("attn", mix), ("ffn", feed)):
                added, mixing = self._read(f"blk.{block}.hc_{name}")
                w.norm(w.x, f"blk.{block}.{name}_norm", w.normed)
                part(w, block, w.normed, w.added)
                self._write(added, mixing)

    def sum_by_shares(self, name: str) -> None:
        """x = the sum of the streams that the tensors `name` make."""
        shares = self._shares(name, (self.count,))
        self._sum(shares)

    def mean(self) -> None:
        """x = the mean of the streams."""
        w, d = self.w, self.w.config.d
        w.plan.copy(self.all, w.x, width=d)
        for stream in range(1, self.count):
            w.plan.copy(self.all, w.added, width=d, first=(stream * d, 0))
            w.plan.add(w.x, w.added, w.x)
        w.plan.scale(w.x, 1 / self.count)

    def _read(self, name: str) -> tuple[Buffer, Buffer | None]:
        """x = what a part of a block reads; the shares of each stream in what the part makes, and
        those of the streams in each other."""
        w, plan, count = self.w, self.w.plan, self.count
        sizes = (count, count, *((count * count,) if self.rounds else ()))
        shares = self._shares(name, sizes)
        added = w.buffer("shares added", count)
        plan.copy(shares, added, width=count, first=(count, 0))
        plan.map(added, added, Function.SIGMOID)
        plan.scale(added, self.magnitude)
        mixing = None
        if self.rounds:
            by_source, mixing = (w.buffer(each, count * count) for each in ("by source", "mixing"))
            plan.copy(shares, by_source, width=count * count, first=(2 * count, 0))
            plan.softmax(by_source, by_source, count, self.rounds, self.epsilon)
            for source in range(count):  # a row of the mixing is of one that is mixed
                first, stride = (source * count, source), (1, count)
                plan.copy(by_source, mixing, count=count, width=1, first=first, stride=stride)
        else:
            plan.add(added, plan.repeated((self.epsilon,), count), added)
        self._sum(shares)
        return added, mixing

    def _shares(self, name: str, sizes: tuple[int, ...]) -> Buffer:
        """Products of what the streams hold with a matrix, each part of them times a factor of its
        own, and a bias."""
        w, plan, width = self.w, self.w.plan, sum(sizes)
        normed, shares = w.buffer("streams normed", self.all.width), w.buffer("shares", width)
        plan.norm(self.all, normed, None, w.config.norm_epsilon)
        w.product(normed, f"{name}_fn", shares)
        places = np.repeat(np.arange(len(sizes)), sizes)
        factors = plan.vector(f"{name}_scale.weight", len(sizes), places)
        plan.multiply(shares, factors, shares)
        plan.add(shares, plan.vector(f"{name}_base.weight", width), shares)
        return shares

    def _sum(self, shares: Buffer) -> None:
        """x = the sum of the streams with the first shares."""
        w, plan = self.w, self.w.plan
        read = w.buffer("shares read", self.count)
        plan.copy(shares, read, width=self.count)
        plan.map(read, read, Function.SIGMOID)
        plan.add(read, plan.repeated((self.epsilon,), self.count), read)
        plan.mix(self.all, read, w.x, self.count)

    def _write(self, added: Buffer, mixing: Buffer | None) -> None:
        """Adds what a part has made to the streams."""
        w, plan, d = self.w, self.w.plan, self.w.config.d
        changes = w.buffer("changes", self.all.width)
        plan.copy(w.added, changes, count=self.count, width=d, stride=(0, d))
        plan.multiply(changes, added, changes, Repeat.SPREAD)
        kept = self.all
        if mixing is not None:
            kept = w.buffer("streams mixed", self.all.width)
            plan.mix(self.all, mixing, kept, self.count)
        plan.add(kept, changes, self.all)
