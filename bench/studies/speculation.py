"""Greedy answers with and without speculation by prompt lookup, in turns:

python -m bench.studies.speculation MODEL.gguf
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from sparsefire import Model
from sparsefire.core import hosts
from sparsefire.errors import UnsupportedError

from ..lib.repeating import OTHERS, REPEATING


def main() -> None:
    """Prints, for each text and over all of a kind, the time of decoding without speculation over
    that with it, and how many tokens were drafted and right."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.speculation",
        description="How much faster is decoding with speculation?",
    )
    parser.add_argument("model", type=Path, help="GGUF file, of a model that follows instructions")
    parser.add_argument("--tokens", type=int, default=128, help="most of an answer; default 128")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default 1 and 2")
    parser.add_argument("--head", choices=("dense", "screened"), help="see `sparsefire generate`")
    arguments = parser.parse_args()
    for threads in arguments.threads:
        core = hosts.open_core("native", threads=threads)
        with Model.load(arguments.model, head=arguments.head, core=core) as model:
            print(f"{arguments.model.name}, {threads} threads")
            for name, requests in (("repeating", REPEATING), ("other", OTHERS)):
                _compare(model, name, requests, arguments.tokens, arguments.rounds)


def _compare(model: Model, name: str, requests: Sequence[str], tokens: int, rounds: int) -> None:
    """A row for each request, and one for all: medians of both, and of processor time."""
    totals = {kind: [0.0, 0.0] for kind in ("clock", "processor")}
    for place, request in enumerate(requests):
        ids = model.prompt_ids(_prompt(model, request))
        spent: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        texts = {}
        for measured in range(rounds + 1):  # the first evaluates the prompt
            for speculation, times in spent.items():
                found, texts[speculation] = _timed(model, ids, tokens, speculation)
                if measured:
                    times.append(found)
        if texts[True] != texts[False]:
            raise RuntimeError(f"speculation changed the answer to request {place} ({name})")
        stats = model.stats
        ratios = []
        for k, kind in enumerate(totals):
            plain, drafted = (
                statistics.median(each[k] for each in spent[speculation])
                for speculation in (False, True)
            )
            totals[kind][0] += plain
            totals[kind][1] += drafted
            ratios.append(f"{plain / drafted:.2f}")
        print(
            f"{name} {place}: {stats.n_tokens} tokens, {stats.accepted_tokens} right of "
            f"{stats.drafted_tokens} drafted; faster by {ratios[0]} (processor time {ratios[1]})",
            flush=True,
        )
    clock, processor = (plain / drafted for plain, drafted in totals.values())
    print(f"{name}, all: faster by {clock:.2f} (processor time {processor:.2f})", flush=True)


def _prompt(model: Model, request: str) -> str:
    try:
        return model.apply_chat_template([{"role": "user", "content": request}])
    except UnsupportedError:  # no template
        return request


def _timed(
    model: Model, ids: Sequence[int], tokens: int, speculation: bool
) -> tuple[tuple[float, float], list[int]]:
    """Seconds of decoding by the clock and of the processor, and the answer's tokens."""
    run = model.start(ids, tokens, temperature=0, speculation=speculation)
    next(run, None)  # the prompt and the first token
    clock, processor = time.perf_counter(), time.process_time()
    for _ in run:
        pass
    spent = time.perf_counter() - clock, time.process_time() - processor
    return spent, list(run.stats.token_ids)


if __name__ == "__main__":
    main()
