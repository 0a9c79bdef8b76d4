"""Statistics of a run of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Share:
    """A share of the feed-forward neurons, 0 … 1: the mean over layers, and each layer's."""

    mean: float = 0.0
    layers: tuple[float, ...] = ()

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64], tokens: int, hidden: npt.NDArray[np.int64]) -> Share:
        """From the neurons counted in each layer over `tokens` tokens, and those that it has: int64
        (layers,). Neurons of experts that were not chosen are there, and not counted."""
        if tokens == 0 or not len(counts):
            return cls(0.0, (0.0,) * len(counts))
        shares = counts / (tokens * hidden)
        return cls(float(shares.mean()), tuple(float(share) for share in shares))


def rate(count: float, seconds: float) -> float:
    """`count` per second; 0 where the clock did not move, which in some browsers it does only every
    millisecond or more."""
    return count / seconds if seconds > 0 else 0.0


@dataclass
class Stats:
    """Statistics of one run.

    `active_share` is the share of neurons whose up and down rows were computed, `selected_share`
    the share whose gate was, over the `evaluated_tokens`. `tokens_per_s` is the speed of decoding,
    without the prompt; `prompt_tokens_per_s` that of the prompt. `finish_reason` of a generation is
    "end" (an end-of-text token), "stop" (a stop text), "length" (`max_tokens`), "context" (the
    context is full), "cancelled" or "time" (as its `Cancel` says), or "" (closed early).
    `context_shifts` counts how often the older half of the text was dropped. `head` is "screened"
    where a screen chose rows of the output matrix, "proven" where a copy of it did, else "dense";
    `head_rows` is how many of them were computed for each token whose logits were wanted, and
    `head_bytes` what was read for that, bytes, the screen or copy among them. `inputs_left_out` is
    the share of inputs that were not multiplied, of the products that may leave some out, over the
    tokens that were decoded. `drafted_tokens` is how many tokens speculation evaluated before they
    were drawn, and `accepted_tokens` how many of them were drawn then; the others are among the
    `evaluated_tokens` too.
    """

    model: str
    mode: str
    backend: str
    isa: str
    threads: int
    prompt_token_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    evaluated_tokens: int = 0
    prompt_tokens_per_s: float = 0.0
    tokens_per_s: float = 0.0
    active_share: Share = Share()
    selected_share: Share = Share()
    finish_reason: str = ""
    context_shifts: int = 0
    head: str = "dense"
    head_rows: float = 0.0
    head_bytes: float = 0.0
    inputs_left_out: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Number of prompt tokens."""
        return len(self.prompt_token_ids)

    @property
    def n_tokens(self) -> int:
        """Number of generated tokens."""
        return len(self.token_ids)

    def as_dict(self) -> dict[str, Any]:
        """All fields and counts, for JSON."""
        return {**asdict(self), "prompt_tokens": self.prompt_tokens, "n_tokens": self.n_tokens}

    def where(self) -> str:
        """Host, instruction set and threads, for example "native, avx2, 2 threads"."""
        return f"{self.backend}, {self.isa}, {self.threads} thread{'s' * (self.threads != 1)}"

    def neurons(self) -> str:
        """The share of neurons computed, for example "3.1 % of neurons computed"."""
        text = f"{100 * self.active_share.mean:.1f} % of neurons computed"
        if self.mode != "dense":
            text += f" ({100 * self.selected_share.mean:.1f} % of gates)"
        if self.head != "dense":
            text += f"; {self.head_rows:,.0f} rows of the output matrix"
        if self.inputs_left_out:
            text += f"; {100 * self.inputs_left_out:.1f} % of inputs left out"
        if self.drafted_tokens:
            text += f"; {self.accepted_tokens} of {self.drafted_tokens} drafted tokens right"
        return text

    def __repr__(self) -> str:
        return (
            f"<{self.model}: {self.prompt_tokens} + {self.n_tokens} tokens, "
            f"{self.tokens_per_s:.1f} tokens/s, {self.mode}, {self.neurons()}, {self.where()}>"
        )
