"""Decoders that run some of their blocks several times: Nanbeige, and HRM-Text (Wang et al. 2025),
with a slow and a fast stack; and Talkie, which goes back to the embeddings in each block."""

from __future__ import annotations

from ..core.enums import Function
from ..errors import UnsupportedError
from .decoder import LLAMA, attention, blocks, one_block
from .plan import Buffer
from .writer import Writer

_MOST = 1 << 10  # blocks that run for a token, those that run again among them


def write_nanbeige(w: Writer) -> None:
    """The blocks again and again, each time after the final norm unless the file says not to."""
    loops = w.keys.integer("num_loops", _MOST, 1)
    _check_runs(w, "num_loops", loops * w.config.layers)
    w.embed()
    for loop in range(loops):
        blocks(w, attention)
        if loop < loops - 1 and not w.keys.value("skip_loop_final_norm", False):
            w.norm(w.x, "output_norm", w.x)
    w.head()


def write_hrm(w: Writer) -> None:
    """Each cycle runs the fast stack several times, then the slow one once, each on the sum of what
    both had last. The slow one begins with the embeddings."""
    keys, plan = w.keys, w.plan
    if keys.value("hrm.prefix_lm", False):
        raise UnsupportedError(
            f"{w.file.name}: the model reads prompts in both directions, which is not supported"
        )
    count = keys.integer("hrm.layers_per_stack", _MOST)
    cycles, turns = (keys.integer(f"hrm.{name}_cycles", _MOST) for name in "hl")
    _check_runs(w, "hrm.h_cycles", cycles * (turns + 1) * count)
    slow, fast = w.buffer("slow", w.config.d), w.buffer("fast", w.config.d)
    w.embed()
    plan.copy(w.x, slow, width=slow.width)
    plan.add(slow, plan.vector("hrm.z_l_init", w.config.d), w.x)
    for cycle in range(cycles):
        for turn in range(turns):
            if cycle or turn:
                plan.add(slow, fast, w.x)
            _stack(w, range(count), fast)
        plan.add(slow, fast, w.x)
        _stack(w, range(count, 2 * count), slow)
    plan.copy(slow, w.x, width=slow.width)
    w.head(norm=None)


def _check_runs(w: Writer, name: str, runs: int) -> None:
    """Refuses files whose numbers, each plausible, make a plan that takes minutes to write."""
    if runs > _MOST:
        raise w.keys.fail(name, f"makes {runs} blocks run for a token; at most {_MOST} can")


def _stack(w: Writer, of: range, out: Buffer) -> None:
    for block in of:
        one_block(w, block, attention)
    w.plan.norm(w.x, out, None, w.config.norm_epsilon)


def write_talkie(w: Writer) -> None:
    """After each block, the embeddings are added, times a number of the block."""
    plan, first = w.plan, w.buffer("embeddings", w.config.d)
    w.embed()
    plan.copy(w.x, first, width=first.width)
    for block in range(w.config.layers):
        one_block(w, block, attention)
        plan.multiply(first, plan.vector(f"blk.{block}.layer_output_scale.weight", 1), w.added)
        plan.add(w.x, w.added, w.x)
    w.head()


_DENSE = LLAMA._replace(mixture=None)

ROWS = {
    "hrm_text": _DENSE._replace(
        write=write_hrm,
        rope_halves=True,
        norm_weights=False,
        gated_heads=Function.SIGMOID,
    ),
    "nanbeige": _DENSE._replace(write=write_nanbeige),
    "talkie": _DENSE._replace(
        write=write_talkie,
        rope_halves=True,
        norm_weights=False,
        embedding_norm="bare",
        bare_norms=True,
        logit_factor=True,
    ),
}
