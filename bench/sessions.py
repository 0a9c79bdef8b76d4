"""Several sessions that decode in one batch: tokens a second in all beside one session's.

    python -m bench.sessions [--backend native] [--threads 1]

Weights that several tokens need are read once a batch. The embedded model, dense and sparse, and
SmolLM2-135M, dense. Texts of different beginnings are decoded by 1, 2, 4 and 8 sessions, in turns;
each is compared with the text of the same beginning alone. One session is also timed without a
batch, which is what the others' speed is beside.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import sparsefire as sf
from sparsefire.lm.session import Session

from .lib.command import Effort, add_quick, run_program
from .lib.peer_files import smollm2
from .lib.timing import Times, interleave

COUNTS = (1, 2, 4, 8)
PROMPTS = (
    "The people of the United States",
    "In the year that has passed",
    "A government that",
    "Peace among nations is",
    "Our farmers and workers",
    "The Congress should",
    "War has taught us",
    "To the American people I say",
)


class Texts:
    """Greedy texts of as many sessions as there are prompts."""

    def __init__(self, model: sf.Model, mode: str, length: int) -> None:
        self.model = model
        self.mode = mode
        self.length = length
        self.prompts = [model.tokenize(each) for each in PROMPTS]
        most = max(map(len, self.prompts)) + length
        self.sessions = [model.new_session(most) for _ in PROMPTS]
        self.first = []
        for session, prompt in zip(self.sessions, self.prompts, strict=True):
            self.first.append(int(session.feed(prompt, mode).argmax()))
        self.alone = [self.decode_alone(index) for index in range(len(PROMPTS))]

    def _restart(self, index: int) -> Session:
        session = self.sessions[index]
        session.rewind(len(self.prompts[index]), self.mode)
        return session

    def decode_alone(self, index: int) -> list[int]:
        """The text of one session by itself."""
        session, token, text = self._restart(index), self.first[index], []
        for _ in range(self.length):
            text.append(token)
            token = int(session.step(token).argmax())
        return text

    def together(self, count: int) -> None:
        """The same in batches. The texts are those of each alone."""
        sessions = [self._restart(index) for index in range(count)]
        tokens = self.first[:count]
        texts: list[list[int]] = [[] for _ in sessions]
        for _ in range(self.length):
            for text, token in zip(texts, tokens, strict=True):
                text.append(token)
            parts = [(each, [token]) for each, token in zip(sessions, tokens, strict=True)]
            logits = self.model.evaluate(parts, mode=self.mode, phase="decode")
            tokens = np.argmax(logits, axis=1).tolist()
        assert texts == self.alone[:count], "a text depends on the others of its batch"


def _together(texts: Texts, count: int, _: int) -> None:
    texts.together(count)


def _measure(texts: Texts, effort: Effort) -> dict[str, Times]:
    runs: dict[str, Callable[[int], object]] = {}
    for count in effort.some(COUNTS[1:]) if effort.quick else COUNTS:
        runs[f"{count}"] = partial(_together, texts, count)
    runs["alone"] = lambda _: texts.decode_alone(0)
    return interleave(runs, effort.seconds(30.0))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sessions", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--backend", default="native", help="default %(default)s")
    add("--threads", type=int, default=1, metavar="N", help="default %(default)s")
    add_quick(parser)
    options = parser.parse_args()
    effort = Effort(options.quick)
    print(sf.use_backend(options.backend, threads=options.threads))
    cases: list[tuple[str, Path | None, str]] = [
        ("embedded", None, mode) for mode in ("sparse", "exact", "dense")
    ]
    if not options.quick:
        cases.append(("SmolLM2 Q4_1", smollm2(), "dense"))
    print(f"{'model, mode':24}{'sessions':>9}{'tokens/s':>10}{'beside one session':>20}{'ms':>22}")
    for name, path, mode in cases:
        with sf.Model.load(path) as model:
            length = 4 if effort.quick else 24
            times = _measure(Texts(model, mode, length), effort)
        one = length / times["alone"].median
        for key, each in times.items():
            count = 1 if key == "alone" else int(key)
            speed = count * length / each.median
            label = "1, no batch" if key == "alone" else key
            low, high = (1e3 * quartile / length for quartile in each.quartiles)
            spread = f"{1e3 * each.median / length:.3g} ({low:.3g} … {high:.3g})"
            print(f"{name + ', ' + mode:24}{label:>9}{speed:10.0f}{speed / one:19.2f}×{spread:>22}")
    print("ms are of a batch, with quartiles; every text was the same as alone")


if __name__ == "__main__":
    run_program(main)
