"""Options, progress and error messages that the subcommands share."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO, TypeVar

from .._options import DEFAULT_KV_FORMAT, HEADS, INPUTS, KV_FORMATS
from .._shown import json_line, shown
from ..errors import ArgumentError, SparsefireError

_FULL = (errno.ENOSPC, errno.EFBIG)

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names and reports a wrong one in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """-m, --activation, --pre, --neuron-budget, and those of `add_host_options`."""
    add = parser.add_argument
    add("-m", "--model", metavar="FILE", help="GGUF model; default: the one in the package")
    add(
        "--activation",
        metavar="NAME",
        help="activation of the feed-forward layers, overriding the file: relu, relu2, silu, "
        "gelu …",
    )
    add_pre_option(parser)
    add(
        "--no-mmap",
        action="store_false",
        dest="mapped",
        help="read the model into memory once instead of mapping its file, which may then be "
        "changed while it is in use",
    )
    add(
        "--neuron-budget",
        type=_budget,
        metavar="SIZE",
        help="feed-forward weights of a calibrated model, or experts of a mixture, to keep in "
        "memory, 500M or 40%%; the others are read from the file on demand; default: all",
    )
    add(
        "--neuron-profile",
        metavar="FILE",
        help="how often each neuron, or expert, was used: the most used are kept in memory from "
        "the beginning. Written at the end with the uses of this run added, and made if it is not "
        "there. With --neuron-budget",
    )
    add_kv_options(parser)
    add_head_option(parser)
    add_host_options(parser)


def add_kv_options(parser: argparse.ArgumentParser) -> None:
    """--k-format and --v-format."""
    for name, what in (("k", "keys"), ("v", "values")):
        parser.add_argument(
            f"--{name}-format",
            choices=KV_FORMATS,
            default=DEFAULT_KV_FORMAT,
            help=f"format in which sessions keep {what}: f32 takes twice the memory of f16, q8_0 "
            "about half of it and a little of the precision; default %(default)s",
        )


def add_head_option(parser: argparse.ArgumentParser) -> None:
    """--head and --inputs."""
    parser.add_argument(
        "--head",
        choices=HEADS,
        help="rows of the output matrix to compute: screened, the most likely ones, if the file or "
        "its companion NAME.sparsefire.gguf has a screen (then the default); dense, all; proven, "
        "of a matrix in 8 bits or more for greedy decoding, those that may be the most likely",
    )
    parser.add_argument(
        "--inputs",
        choices=INPUTS,
        help="auto, the default, leaves out the smallest inputs of products when decoding in "
        "sparse mode, if the file or its companion has limits for them; dense does not",
    )


def add_speculation_option(parser: argparse.ArgumentParser) -> None:
    """--speculation."""
    parser.add_argument(
        "--speculation",
        action="store_true",
        help="where the text repeats itself, evaluate what followed before together with the next "
        "token, as long as that is faster; the text is the same",
    )


def add_pre_option(parser: argparse.ArgumentParser) -> None:
    """--pre."""
    parser.add_argument(
        "--pre",
        metavar="RULE",
        help="pre-tokeniser of a byte-level BPE vocabulary, overriding the file: gpt-2, "
        "llama-bpe, qwen2 …",
    )


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """--backend, --isa and --threads."""
    group = parser.add_argument_group("where it runs")
    add = group.add_argument
    add(
        "--backend",
        choices=("auto", "native", "wasmtime"),
        help="host; default: SPARSEFIRE_BACKEND, or else auto, the fastest installed",
    )
    add(
        "--isa",
        metavar="NAME",
        help="instruction set: amx, avx512_vnni, avx2, sse41, neon, scalar …",
    )
    add("--threads", type=int, metavar="N", help="number of threads; default: all processors")


def add_engine_options(add: Any) -> None:
    """Adds --engine, --address and --workers."""
    add("--engine", choices=("local", "ray", "dask"), default="local", help="default %(default)s")
    add("--address", help="of a cluster that runs; default: one on this machine")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes; default: 1, with --engine ray or dask one for each processor. Several "
        "have one thread each, unless --threads says otherwise",
    )


def uses_engine(arguments: argparse.Namespace) -> bool:
    """Whether the engine's options name other processes than this one."""
    return arguments.engine != "local" or arguments.workers not in (None, 1)


def engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The engine's options as keyword arguments of `sparsefire.batch`'s functions."""
    return {name: getattr(arguments, name) for name in ("engine", "address", "workers")}


def _budget(text: str) -> int | float:
    """Bytes, or a share below 1: "1500000", "500M", "1.5G", "40%"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(?:i?B)?|(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size, as in 500M, 2G or 40%")
    number, unit, percent = match.groups()
    if percent is not None:
        return float(percent) / 100
    return int(float(number) * 1000 ** "_kMGT".index(unit or "_"))


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--force and --json, of commands that write a model."""
    parser.add_argument("--force", action="store_true", help="replace an existing OUT.gguf")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def add_mode_options(parser: argparse.ArgumentParser) -> None:
    """--dense, --exact and --sparse, which exclude each other."""
    group = parser.add_argument_group("which neurons are computed").add_mutually_exclusive_group()
    for mode, text in (
        ("sparse", "the neurons that the predictor proposes (default for calibrated models)"),
        ("exact", "every gate, up and down where it is active (default for other ReLU models)"),
        ("dense", "every neuron (default for other models)"),
    ):
        group.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=text)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """--temp and the others that `sampling_options` reads."""
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add(
        "--temp",
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="temperature, 0 for greedy decoding; default %(default)s",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="random seed; default, and below 0: a different one each time",
    )
    for option, default, metavar, text in (
        ("--top-k", 40, "N", "sample from the N most likely tokens, 0 for all"),
        ("--top-p", 0.95, "P", "sample from the most likely tokens up to probability P, 1 for all"),
        ("--min-p", 0.05, "P", "drop tokens below P times the highest probability, 0 for none"),
        ("--repeat-penalty", 1.0, "X", "penalty on the last 64 tokens, 1 for none"),
        ("--frequency-penalty", 0.0, "X", "penalty per occurrence in the new text, 0 for none"),
        (
            "--presence-penalty",
            0.0,
            "X",
            "penalty on tokens that occur in the new text, 0 for none",
        ),
    ):
        add(
            option,
            type=type(default),
            default=default,
            metavar=metavar,
            help=f"{text}; default %(default)s",
        )


def sampling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling options as keyword arguments of `Model.generate`."""
    penalties = ("repeat_penalty", "frequency_penalty", "presence_penalty")
    names = ("top_k", "top_p", "min_p", *penalties, "seed")
    return {"temperature": arguments.temp, **{name: getattr(arguments, name) for name in names}}


def choose_host(arguments: argparse.Namespace) -> None:
    """Makes the host that the options name the current one."""
    from ..core.hosts import use_backend

    name = arguments.backend or os.environ.get("SPARSEFIRE_BACKEND") or "auto"
    use_backend(name, isa=arguments.isa, threads=arguments.threads)


@contextmanager
def load_model(arguments: argparse.Namespace, context: int | None = None) -> Iterator[Any]:
    """The model that the options name on the host that they name, until the end. Then, also after
    Ctrl-C, its neuron profile is written, if the options name one."""
    from ..lm.model import Model

    profile = arguments.neuron_profile
    if profile is not None and arguments.neuron_budget is None:
        raise ArgumentError("--neuron-profile is for --neuron-budget")
    choose_host(arguments)
    budget = arguments.neuron_budget
    if isinstance(budget, float):
        from ..ffn.cache import NeuronCache

        budget = NeuronCache(hot_fraction=budget)
    with Model.load(
        arguments.model,
        activation=arguments.activation,
        context=context,
        neuron_budget=budget,
        pre=arguments.pre,
        mapped=arguments.mapped,
        head=arguments.head,
        k_format=arguments.k_format,
        v_format=arguments.v_format,
        inputs=arguments.inputs,
    ) as model:
        neurons = model.neurons if profile is not None else None
        if neurons is not None and Path(profile).exists():
            neurons.load_profile(profile)
        try:
            yield model
        except Exception:
            neurons = None
            raise
        finally:
            if neurons is not None:
                neurons.save_profile(profile)


def read_text(path: str) -> str:
    """A UTF-8 text file, without the byte order mark that it may begin with; "-" reads standard
    input."""
    raw = _standard_input() if path == "-" else Path(path).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path}: not UTF-8 text (at byte {error.start})") from None


def add_template_variables(add: Any) -> None:
    """Adds the option for variables of the chat template."""
    add(
        "--chat-template-kwargs",
        metavar="JSON",
        help="further variables of the chat template, such as '{\"enable_thinking\": false}'",
    )


def template_variables(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the option says."""
    from ..lm.chat import variables

    name, text = "--chat-template-kwargs", arguments.chat_template_kwargs
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ArgumentError(f"{name} must be a JSON object, not {text!r}")
    return variables(found, name)


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        raise ArgumentError("-: standard input is closed")
    return sys.stdin.buffer.read()


def cache_parts(model: Any) -> list[str]:
    """What the neuron caches did, for the line under a result; nothing for a model in memory."""
    if model.neurons is None:
        return []
    stats = model.neurons.stats
    found = f"{stats.hit_rate:.1%} of {model.neurons.unit}s found in"
    return [f"{found} {model.neurons.budget_bytes:,} bytes, {stats.bytes_read:,} bytes read"]


def cache_report(model: Any) -> dict[str, Any]:
    """Statistics of the neuron caches, for JSON; empty for a model in memory."""
    neurons = model.neurons
    if neurons is None:
        return {}
    stats = neurons.stats
    found = {"budget_bytes": neurons.budget_bytes, "layer_bytes": neurons.nbytes}
    return {"neuron_cache": {**found, **asdict(stats), "hit_rate": stats.hit_rate}}


def print_json(report: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Prints an object, or a list of them, as one line of JSON."""
    print(json_line(report))


class _Report(Protocol):
    def as_dict(self) -> dict[str, Any]: ...


ReportT = TypeVar("ReportT", bound=_Report)


def print_report(
    arguments: argparse.Namespace, report: ReportT, summary: Callable[[ReportT], str]
) -> int:
    """Prints what a command has done, with --json as an object, else its summary; returns 0."""
    if arguments.json:
        print_json(report.as_dict())
    else:
        print(summary(report))
    return 0


class Progress:
    """The progress of a long command, on standard error if that is a terminal: a bar if tqdm is
    installed, or else a line every two seconds. A `sparsefire._progress.Progress`, and a context
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
        what, share = shown(what), min(share, 1.0)
        now = time.monotonic()
        if not self._on or now - self._shown < (0.1 if self._bar is not None else 2.0):
            return
        self._shown = now
        if self._bar is not None:
            self._bar.n = share
            self._bar.set_description_str(what)
        else:
            print(f"{now - self._started:6.1f} s {100 * share:3.0f} %  {what}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def run_command(program: str, command: Command, arguments: argparse.Namespace) -> int:
    """Runs a subcommand and returns the exit status: 0, 1 after an error, 2 if an argument was
    wrong, 130 after Ctrl-C. Errors are one line on standard error."""
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        can_be_written(sys.stdout)  # no more: the reader is gone
        return 1
    except SparsefireError as error:
        message, status = str(error), 2 if isinstance(error, ArgumentError) else 1
    except OSError as error:
        name, blocked = error.filename, not can_be_written(sys.stdout)
        if name is None and (blocked or error.errno in _FULL):
            name = "standard output"  # whatever writes a file names it
        prefix = "" if name is None else f"{name}: "
        message, status = f"{prefix}{error.strerror or error}", 1
    except MemoryError:
        message, status = "out of memory", 1
    with suppress(OSError):  # nobody reads it
        print(f"{program}: error: {shown(' '.join(message.split()))}", file=sys.stderr)
        sys.stderr.flush()
    can_be_written(sys.stderr)
    return status


@contextmanager
def usable_streams() -> Iterator[None]:
    """Makes standard output and standard error usable in a command: what the terminal's encoding
    lacks is replaced, and what is written to a stream that is closed or absent goes nowhere."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or stream.closed:
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.callback(setattr, sys, name, stream)
                setattr(sys, name, nowhere)
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        yield


def can_be_written(stream: TextIO) -> bool:
    """Whether what is left in the buffer can be written. If not, nothing more is: Python would try
    again at exit, and complain."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True
