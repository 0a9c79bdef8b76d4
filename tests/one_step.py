"""Models of the core that show what a step computes: a token's row of a table is the step's
input, and the step's output is the logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sparsefire.arch.plan import Buffer, Plan
from sparsefire.core.core import Core
from sparsefire.core.enums import Phase
from sparsefire.ffn.forward import MODES
from sparsefire.weights.formats import weight_format
from sparsefire.weights.matrix import Matrix

Doubles = npt.NDArray[np.float64]
Build = Callable[[Plan, dict[str, Buffer], Buffer], None]


class OneStep:
    """A model whose tokens are the rows of `inputs`, arrays (n, width), each in a buffer of its
    name; `build` adds steps from these to a buffer of `width` floats."""

    def __init__(self, core: Core, inputs: dict[str, Doubles], width: int, build: Build) -> None:
        self.core = core
        self.width = width
        table = np.ascontiguousarray(np.concatenate(list(inputs.values()), 1), np.float32)
        # Each row is a token, and each logit is one's.
        table = np.pad(table, ((0, max(0, width - len(table))), (0, 0)))
        plan = Plan(*table.shape)
        row, out = plan.buffer(table.shape[1]), plan.buffer(width)
        plan.embed(row, plan.matrix("inputs", table.shape))
        buffers, first = {}, 0
        for name, values in inputs.items():
            buffers[name] = plan.buffer(values.shape[1])
            plan.copy(row, buffers[name], width=values.shape[1], first=(first, 0))
            first += values.shape[1]
        build(plan, buffers, out)
        logits = plan.buffer(plan.vocab)
        plan.copy(out, logits, width=width)
        plan.pick(logits)
        plan.copy(logits, plan.logits, width=plan.vocab)
        self._open(plan, table)

    def _open(self, plan: Plan, table: npt.NDArray[np.float32]) -> None:
        core, self.vocab = self.core, plan.vocab
        self.model = core.open("sf_model_open", core.context, plan.vocab, plan.d)
        core.own(self, "sf_model_close", self.model)
        for width in plan.widths[1:]:
            core.check("sf_model_add_buffer", self.model, width)
        memory = core.upload(table)
        self.matrix = Matrix(core, memory, weight_format("f32"), *table.shape, 0)
        core.check("sf_model_add_matrix", self.model, self.matrix.handle)
        for vector in plan.vectors:
            assert vector.values is not None
            core.check("sf_model_add_vector", self.model, core.inp(vector.values), vector.count)
        for step in plan.steps:
            arguments, numbers = np.array(step.arguments, np.int32), np.array(step.numbers)
            core.check(
                "sf_model_add_step",
                self.model,
                step.name,
                core.inp(arguments),
                arguments.size,
                core.inp(numbers.astype(np.float32)) if numbers.size else None,
                numbers.size,
            )

    def session(self) -> int:
        """A new session."""
        session = self.core.open("sf_session_open", self.model, 1000)
        self.core.own(self, "sf_session_close", session)
        return session

    def run(self, session: int, tokens: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """What the step makes of more tokens of a session, float32 (n, width)."""
        ids = np.asarray(tokens, np.int32)
        logits = np.empty((len(ids), self.vocab), np.float32)
        arguments = MODES["dense"], Phase.PROMPT, self.core.out(logits), len(ids)
        self.core.check("sf_session_eval", session, self.core.inp(ids), len(ids), *arguments)
        return logits[:, : self.width]

    def run_together(self, sessions: list[int], tokens: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The same for a batch of which each token has its session."""
        ids = np.asarray(tokens, np.int32)
        handles = np.array(sessions, self.core.pointer_dtype)
        logits = np.empty((len(ids), self.vocab), np.float32)
        self.core.check(
            "sf_model_eval",
            self.model,
            self.core.inp(handles),
            self.core.inp(ids),
            self.core.inp(np.ones_like(ids)),
            len(ids),
            MODES["dense"],
            Phase.PROMPT,
            self.core.out(logits),
            len(ids),
        )
        return logits[:, : self.width]
