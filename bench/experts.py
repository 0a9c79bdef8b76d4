"""Mixtures of experts: decoding when a part of the experts fits into memory, and what sparsity
inside ReLU experts brings.

    python -m bench.experts [budget] [inside] [--share 0.3] [--threads 2]

`budget`: layers of Qwen3-30B-A3B's shapes, along a trace of tokens that decide their experts. All
in memory, ours and llama.cpp's; then with as much memory for the process, page cache included, as a
share of the experts, the other weights and an allowance for the program take: ours with a neuron
budget, llama.cpp with the file mapped. `inside`: layers of SmallThinker-4B's shapes, exact and
dense inside the experts, and llama.cpp, all in memory. Each side runs in a process of its own, in
turns; a value is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sparsefire as sf

from .lib import expert_models, memory_limit
from .lib.command import add_quick, run_program
from .lib.expert_models import Mixture, Routing
from .lib.llama import LlamaModel
from .lib.peer_files import MissingPeer, peer

_ALLOWANCE = 250 << 20  # for the interpreter, libraries, buffers and keys and values
_WARM, _MEASURED = 150, 200


@dataclass(frozen=True)
class Run:
    """What one process does. ``budget``: bytes of experts, None: all of them are in memory."""

    side: str  # "ours" or "llama.cpp"
    model: str
    tokens: list[int]
    warm: int
    threads: int
    mode: str = "dense"
    budget: int | None = None


def work(run: Run) -> dict[str, Any]:
    """Decodes; seconds of the tokens after the first ``warm``, and what the caches did."""
    return _ours(run) if run.side == "ours" else _theirs(run)


def _ours(run: Run) -> dict[str, Any]:
    sf.use_backend("native", threads=run.threads)
    with sf.Model.load(run.model, context=len(run.tokens), neuron_budget=run.budget) as model:
        session = model.new_session(len(run.tokens))
        session.rewind(0, run.mode)
        report: dict[str, Any] = {}
        for index, token in enumerate(run.tokens):
            if index == run.warm:
                before = model.neurons.stats if model.neurons else None
                session.reset_counts()
                began = time.perf_counter()
            logits = session.step(token)
        report["seconds"] = time.perf_counter() - began
        report["logits"] = zlib.crc32(logits.tobytes())
        report["active"] = float(session.active.sum() / max(session.selected.sum(), 1))
        if model.neurons is not None and before is not None:
            after = model.neurons.stats
            hits, misses = after.hits - before.hits, after.misses - before.misses
            report["hit_rate"] = hits / (hits + misses)
            report["bytes_read"] = after.bytes_read - before.bytes_read
        return report


def _theirs(run: Run) -> dict[str, Any]:
    model = LlamaModel(Path(run.model), run.threads, context=len(run.tokens))
    for token in run.tokens[: run.warm]:
        model.feed([token])
    began = time.perf_counter()
    for token in run.tokens[run.warm :]:
        model.feed([token])
    return {"seconds": time.perf_counter() - began}


def _in_process(run: Run, limit: int | None) -> dict[str, Any]:
    """`work` in a process of its own, with so many bytes of memory."""
    command = [sys.executable, "-m", "bench.experts", "--work"]
    text = json.dumps(asdict(run))
    if limit is None:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    else:
        memory_limit.forget(Path(run.model))
        with memory_limit.memory_group(limit) as group:
            enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
            done = subprocess.run(
                [*enter, *command], input=text, capture_output=True, text=True, check=False
            )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _rounds(runs: dict[str, tuple[Run, int | None]], rounds: int) -> dict[str, dict[str, Any]]:
    """Each of the runs in turn; medians of what they report."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    names = list(runs)
    for _ in range(rounds):
        for name in names:
            found[name].append(_in_process(*runs[name]))
        names = names[1:] + names[:1]
    return {
        name: {key: statistics.median(each[key] for each in reports) for key in reports[0]}
        | {"all": [each["seconds"] for each in reports]}
        for name, reports in found.items()
    }


def _print(found: dict[str, dict[str, Any]], measured: int) -> None:
    print(f"{'':34}{'tokens/s':>10}{'lowest … highest':>20}{'hit rate':>10}{'MB read a token':>17}")
    for name, report in found.items():
        low, high = measured / max(report["all"]), measured / min(report["all"])
        cached = ""
        if "hit_rate" in report:
            read = report["bytes_read"] / measured / 1e6
            cached = f"{report['hit_rate']:10.1%}{read:17.1f}"
        speed = measured / report["seconds"]
        print(f"{name:34}{speed:10.1f}{f'{low:.1f} … {high:.1f}':>20}{cached}")


def _has_peer() -> bool:
    try:
        peer("llama_cpp")
    except MissingPeer as error:
        print(error)
        return False
    return True


def budget(options: argparse.Namespace) -> None:
    """Experts on demand."""
    sizes = expert_models.TINY_QWEN3 if options.quick else expert_models.QWEN3
    routing, count = Routing(), 8 if options.quick else _MEASURED
    warm = 8 if options.quick else _WARM
    path = expert_models.mixture_model(sizes, routing)
    tokens = routing.trace(sizes, warm + count)
    experts = int(options.share * sizes.all_expert_bytes)
    limit = experts + path.stat().st_size - sizes.all_expert_bytes + _ALLOWANCE
    print(f"{path.name}: {sizes}\n{routing}, {warm} tokens, then {count} that are measured")
    print(f"budget {experts / 1e6:,.0f} MB of {sizes.all_expert_bytes / 1e6:,.0f} MB of experts")
    run = Run("ours", str(path), tokens, warm, options.threads)
    fields = asdict(run)
    cached = Run(**fields | {"budget": experts})
    runs: dict[str, tuple[Run, int | None]] = {"ours, all in memory": (run, None)}
    runs["ours, budget"] = (cached, None)
    theirs = Run(**fields | {"side": "llama.cpp"})
    has_peer = _has_peer()
    if has_peer:
        runs["llama.cpp, all in memory"] = (theirs, None)
    if not options.quick:
        runs["ours, budget, limited memory"] = (cached, limit)
        if has_peer:
            runs["llama.cpp, limited memory"] = (theirs, limit)
        print(f"limited memory: {limit / 1e6:,.0f} MB")
    found = _rounds(runs, options.rounds)
    _print(found, count)
    if len({each["logits"] for each in found.values() if "logits" in each}) > 1:
        raise SystemExit("the last logits with a budget differ from those without")
    print("the last logits with a budget have the same bits")


def inside(options: argparse.Namespace) -> None:
    """Sparse inside experts."""
    sizes: Mixture = (
        expert_models.TINY_SMALLTHINKER if options.quick else expert_models.SMALLTHINKER
    )
    routing, count = Routing(), 8 if options.quick else _MEASURED
    path = expert_models.mixture_model(sizes, routing)
    tokens = routing.trace(sizes, count + 8)
    print(f"{path.name}: {sizes}")
    run = Run("ours", str(path), tokens, 8, options.threads)
    fields = asdict(run)
    runs: dict[str, tuple[Run, int | None]] = {
        "exact inside experts": (Run(**fields | {"mode": "exact"}), None),
        "dense inside experts": (run, None),
    }
    if _has_peer():
        runs["llama.cpp"] = (Run(**fields | {"side": "llama.cpp"}), None)
    found = _rounds(runs, options.rounds)
    _print(found, count)
    active = found["exact inside experts"]["active"]
    print(f"of the chosen experts' neurons {active:.1%} were active")


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.experts", description=(__doc__ or "").split("\n")[0]
    )
    sections = {"budget": budget, "inside": inside}
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    add("--share", type=float, default=0.3, help="of the experts in memory; default %(default)s")
    add("--threads", type=int, default=2, metavar="N", help="default %(default)s")
    add("--rounds", type=int, default=3, metavar="N", help="default %(default)s")
    add("--work", action="store_true", help=argparse.SUPPRESS)
    add_quick(parser)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(Run(**json.load(sys.stdin)))))
        return
    if unknown := set(options.sections) - set(sections):
        parser.error(f"unknown section {', '.join(sorted(unknown))}")
    for name in options.sections or sections:
        sections[name](options)


if __name__ == "__main__":
    run_program(main)
