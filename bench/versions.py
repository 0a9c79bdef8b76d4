"""Two installations of sparsefire against each other: is the new one as fast as the old one?

    python -m bench.versions OLD/.venv/bin/python NEW/.venv/bin/python
    python -m bench.versions OLD_PYTHON NEW_PYTHON -m model.gguf --only decode
    python -m bench.versions OLD_PYTHON NEW_PYTHON -m model.gguf --only prompts --backend wasmtime
    python -m bench.versions OLD_PYTHON NEW_PYTHON --quick    # tiny sizes: shows that it works

Each interpreter imports the sparsefire that is installed for it. Both run in processes of their
own that take turns of some 20 ms, and who begins alternates; only the one whose turn it is
computes. There are two processes and no third: one of the old installation would share its
physical pages of weights and code, and so find them in the cache more often than the new one does.
Where memory lies differs from process to process, so both are started several times. A ratio is
the median over turns of old time / new time: 1 is equally fast, above 1 the new one is faster. The
noise is the same of turns of the old one with its next turn. Prompts, of which one fills a turn,
have fewer turns, and are timed only on request. All other cases take about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .lib.command import Effort, add_quick
from .lib.layers import LARGE, MIDDLE, SMALL

_WORKER = Path(__file__).resolve().parent / "lib" / "version_worker.py"
_TURN_SECONDS = 0.02
_STARTS, _TURNS = 4, 60
_PROMPTS, _PROMPT_TURNS = (64, 512), 4

_LAYERS = (
    (LARGE, "q8_0", ("dense", "sparse", "exact")),
    (MIDDLE, "f32", ("dense", "sparse", "exact")),
    (MIDDLE, "q4_0", ("dense", "sparse")),
    (MIDDLE, "q4_k", ("dense", "sparse")),
    (SMALL, "q8_0", ("dense", "sparse", "exact")),
)


class Installation:
    """A process of one interpreter that opens what is timed and runs it when asked."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-I", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **message: Any) -> Any:
        """Sends a message; the answer."""
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None
        assert pipes[1] is not None
        print(json.dumps(message), file=pipes[0], flush=True)
        line = pipes[1].readline()
        if not line:
            raise SystemExit("an installation ended; its message is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


@dataclass(frozen=True)
class Comparison:
    """One case: medians in milliseconds, and ratios of old time / new time, of which ``noise`` is
    that of the old installation's turns with their next."""

    what: str
    old_ms: float
    new_ms: float
    ratio: float
    quartiles: tuple[float, float]
    noise: float

    def __str__(self) -> str:
        low, high = self.quartiles
        return (
            f"{self.what:38} {self.old_ms:10.4g} {self.new_ms:10.4g} "
            f"{self.ratio:8.3f} ({low:.3f} … {high:.3f}) {self.noise:8.3f}"
        )


def cases(
    kinds: Sequence[str], model: str | None, backend: str, effort: Effort
) -> Iterator[dict[str, Any]]:
    """What is timed: layers in each mode, decoding in each mode that the model has, and prompts."""
    for threads in effort.some((1, 2) if backend == "native" else (1,)):
        if "layers" in kinds:
            for shape, format, modes in effort.some(_LAYERS):
                d, hidden = effort.shape(shape)
                layer = {"kind": "layer", "shape": (d, hidden), "format": format}
                for mode in modes:
                    yield {**layer, "mode": mode, "threads": threads}
        if "decode" in kinds:
            for mode in ("dense", "sparse"):
                yield {"kind": "decode", "model": model, "mode": mode, "threads": threads}
        if "prompts" in kinds:
            for tokens in effort.some(_PROMPTS):
                yield {"kind": "prompt", "model": model, "tokens": tokens, "threads": threads}


def describe(case: dict[str, Any]) -> str:
    """A line's name."""
    if case["kind"] == "layer":
        d, hidden = case["shape"]
        what = f"{d}×{hidden} {case['format']} {case['mode']}"
    elif case["kind"] == "prompt":
        what = f"prompt of {case['tokens']} tokens"
    else:
        what = f"decode a token {case['mode']}"
    return f"{what}, {case['threads']} thread{'s' * (case['threads'] > 1)}"


def compare(old: str, new: str, case: dict[str, Any], effort: Effort) -> Comparison | None:
    """Times one case; None when an installation cannot run it (a mode that the model lacks)."""
    spent: tuple[list[float], list[float]] = [], []
    ratios: list[float] = []
    noise: list[float] = []
    for _ in range(1 if effort.quick else _STARTS):
        with ExitStack() as stack:
            sides = [Installation(python) for python in (old, new)]
            for side in sides:
                stack.callback(side.close)
            # Both are warm, and do as many calls a turn, before the first turn counts.
            once = [side.ask(**case) for side in sides]
            if None in once:
                return None
            calls = max(1, round(effort.seconds(_TURN_SECONDS) / min(once)))
            turns: tuple[list[float], list[float]] = [], []
            most = _PROMPT_TURNS if case["kind"] == "prompt" else _TURNS
            for turn in range(min(5, most) if effort.quick else most):
                for place in (0, 1) if turn % 2 else (1, 0):
                    turns[place].append(sides[place].ask(kind="run", calls=calls) / calls)
            for mine, all_of_mine in zip(turns, spent, strict=True):
                all_of_mine += mine[1:]
            ratios += [a / b for a, b in zip(turns[0][1:], turns[1][1:], strict=True)]
            noise += [a / b for a, b in pairwise(turns[0][1:])]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        describe(case),
        1e3 * statistics.median(spent[0]),
        1e3 * statistics.median(spent[1]),
        middle,
        (low, high),
        statistics.median(noise),
    )


def main() -> None:
    """Compares what the command line names."""
    kinds = ("layers", "decode", "prompts")
    parser = argparse.ArgumentParser(
        prog="python -m bench.versions", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("old", metavar="OLD_PYTHON", help="interpreter with the old version")
    parser.add_argument("new", metavar="NEW_PYTHON", help="interpreter with the new version")
    parser.add_argument("--only", choices=kinds, action="append", help="default: all but prompts")
    parser.add_argument("-m", "--model", metavar="FILE", help="default: the embedded model")
    parser.add_argument("--backend", choices=("native", "wasmtime"), default="native")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    add_quick(parser)
    options = parser.parse_args()
    effort = Effort(options.quick)
    model = options.model and str(Path(options.model).resolve())

    results = []
    head = f"{'':38} {'old, ms':>10} {'new, ms':>10} {'ratio':>8} {'(quartiles)':15} {'noise':>8}"
    print(head, file=sys.stderr if options.json else sys.stdout, flush=True)
    for case in cases(options.only or kinds[:2], model, options.backend, effort):
        found = compare(options.old, options.new, {**case, "backend": options.backend}, effort)
        if found is not None:
            results.append(found)
            print(found, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps([asdict(each) for each in results], indent=1))
        return
    middle = statistics.geometric_mean(each.ratio for each in results)
    print(f"\ngeometric mean {middle:.3f}, smallest {min(each.ratio for each in results):.3f}")


if __name__ == "__main__":
    main()
