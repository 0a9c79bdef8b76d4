"""What the subcommands of the command line share: options, and how errors are told."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArgumentError, SparsefireError

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that tells a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """-m, --activation, --neuron-budget, and those of `add_host_options`."""
    add = parser.add_argument
    add("-m", "--model", metavar="FILE", help="GGUF model; default: the one in the package")
    add(
        "--activation",
        metavar="NAME",
        help="activation of the feed-forward layers, where the file does not say: relu, relu2, "
        "silu, gelu …",
    )
    add(
        "--neuron-budget",
        type=_budget,
        metavar="SIZE",
        help="of a calibrated model, keep so much of the feed-forward weights in memory, 500M or "
        "40%%, and read the rest from the file when it is needed; default: everything",
    )
    add_host_options(parser)


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """--backend, --isa and --threads."""
    group = parser.add_argument_group("where it runs")
    add = group.add_argument
    add(
        "--backend",
        choices=("auto", "native", "wasmtime"),
        help="default: SPARSEFIRE_BACKEND, else auto, the fastest that is installed",
    )
    add("--isa", metavar="NAME", help="instruction set: avx512, avx2, sse41, neon, scalar …")
    add("--threads", type=int, metavar="N", help="default: as many as there are processor cores")


def _budget(text: str) -> int | float:
    """Bytes, or a share below 1: "1500000", "500M", "1.5G", "40%"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(?:i?B)?|(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size, as in 500M, 2G or 40%")
    number, unit, percent = match.groups()
    if percent is not None:
        return float(percent) / 100
    return int(float(number) * 1000 ** "_kMGT".index(unit or "_"))


def add_mode_options(parser: argparse.ArgumentParser) -> None:
    """--dense, --exact and --sparse, of which one may be given."""
    group = parser.add_argument_group("which neurons are computed").add_mutually_exclusive_group()
    for mode, text in (
        ("sparse", "those that the predictor proposes (default of calibrated models)"),
        ("exact", "every gate, the rest where it is not zero (default of other ReLU models)"),
        ("dense", "all of them"),
    ):
        group.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=text)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """--temp and the others that `sampling_options` reads."""
    group = parser.add_argument_group("how tokens are drawn")
    add = group.add_argument
    add("--temp", "--temperature", type=float, default=0.8, help="0: the likeliest; default 0.8")
    add("--seed", type=int, metavar="N", help="same seed, same text; default: another every time")
    add("--top-k", type=int, default=40, metavar="N", help="0: all; default %(default)s")
    add("--top-p", type=float, default=0.95, metavar="P", help="1: all; default %(default)s")
    add("--min-p", type=float, default=0.05, metavar="P", help="0: all; default %(default)s")
    add("--repeat-penalty", type=float, default=1.0, metavar="X", help="1: none; default 1")
    add("--frequency-penalty", type=float, default=0.0, metavar="X", help="0: none; default 0")
    add("--presence-penalty", type=float, default=0.0, metavar="X", help="0: none; default 0")


def sampling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `Model.generate` that say how tokens are drawn."""
    penalties = ("repeat_penalty", "frequency_penalty", "presence_penalty")
    names = ("top_k", "top_p", "min_p", *penalties, "seed")
    return {"temperature": arguments.temp, **{name: getattr(arguments, name) for name in names}}


def choose_host(arguments: argparse.Namespace) -> None:
    """Has the host that the options name, for what is loaded from now on."""
    from ..core.hosts import use_backend

    name = arguments.backend or os.environ.get("SPARSEFIRE_BACKEND") or "auto"
    use_backend(name, isa=arguments.isa, threads=arguments.threads)


def load_model(arguments: argparse.Namespace, context: int | None = None) -> Any:
    """The model that the options name, on the host that they name."""
    from ..lm.model import Model

    choose_host(arguments)
    budget = arguments.neuron_budget
    if isinstance(budget, float):
        from ..ffn.cache import NeuronCache

        budget = NeuronCache(hot_fraction=budget)
    return Model.load(
        arguments.model,
        activation=arguments.activation,
        context=context,
        neuron_budget=budget,
    )


def read_text(path: str) -> str:
    """A UTF-8 text file; "-" reads standard input."""
    raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path}: not UTF-8 text (at byte {error.start})") from None


def cache_report(model: Any) -> dict[str, Any]:
    """What the neuron caches did, for JSON; nothing for a model that is in memory."""
    neurons = model.neurons
    if neurons is None:
        return {}
    stats = neurons.stats
    found = {"budget_bytes": neurons.budget_bytes, "layer_bytes": neurons.nbytes}
    return {"neuron_cache": {**found, **asdict(stats), "hit_rate": stats.hit_rate}}


def print_json(report: dict[str, Any]) -> None:
    """One JSON object on a line of standard output."""
    print(json.dumps(report, ensure_ascii=False))


class Progress:
    """The progress of a long command, on standard error if that is a terminal: a bar where tqdm is
    installed, else a line every two seconds. A `sparsefire._progress.Progress`, and a context
    manager that clears the bar."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown = -float("inf")
        self._bar: Any = None
        self._on = sys.stderr.isatty()
        if self._on:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(
                total=1.0,
                leave=False,
                file=sys.stderr,
                bar_format="{percentage:3.0f} % |{bar:30}| {desc} ({remaining} left)",
            )

    def __call__(self, what: str, share: float) -> None:
        now = time.monotonic()
        if not self._on or now - self._shown < (0.1 if self._bar is not None else 2.0):
            return
        self._shown = now
        if self._bar is not None:
            self._bar.n = min(share, 1.0)
            self._bar.set_description_str(what)
        else:
            print(f"{now - self._started:6.1f} s {100 * share:3.0f} %  {what}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def run_command(program: str, command: Command, arguments: argparse.Namespace) -> int:
    """Runs a subcommand and returns the exit status: 0, 1 after an error, 2 where an argument was
    wrong, 130 after Ctrl-C. Errors are one line on standard error."""
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output has gone. Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SparsefireError as error:
        message, status = str(error), 2 if isinstance(error, ArgumentError) else 1
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        message, status = f"{name}{error.strerror or error}", 1
    except MemoryError:
        message, status = "out of memory", 1
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return status
