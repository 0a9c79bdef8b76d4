"""Decoding of whole models of published sizes and random weights, sparse against own dense, in
turns; and what each of both reads:

python -m bench.studies.whole_models inputs
python -m bench.studies.whole_models bitnet

`inputs`: a model of Llama 2 7B's sizes in Q4_0, with limits below which a share of the inputs of
every product is left out. `bitnet`: one of BitNet b1.58 2B4T's sizes in TQ2_0 with an output matrix
in F16, with predictors that select a share of the neurons and a screened head, against the same
model as it is published, dense. Random limits, predictors and screens cost what fitted ones do, and
the text means nothing. The files are removed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sparsefire import Model
from sparsefire.arch import screen
from sparsefire.calibrate.companion import write_companion
from sparsefire.calibrate.inputs import limits_for, recorded_inputs, usable_sites
from sparsefire.core import hosts
from sparsefire.lm.session import Session

from ..lib.big_model import BITNET, LLAMA_7B, Sizes, path_of, plain_model, sparse_model

_PROMPT, _BLOCK = 64, 4  # tokens before those that are timed, and tokens of a turn


def main() -> None:
    """Prints, for each number of threads, the speed of both and the bytes that they read."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.whole_models",
        description="How much faster is a whole model of published sizes when it is sparse?",
    )
    parser.add_argument("study", choices=("inputs", "bitnet"))
    add = parser.add_argument
    add("--layers", type=int, help="default: as published, 32 and 30")
    add("--share", type=float, help="of inputs left out, default 0.4; of active neurons, 0.2")
    add("--rounds", type=int, default=9, help="default %(default)s")
    add("--threads", type=int, nargs="+", default=[1, 2], help="default 1 and 2")
    add("--quick", action="store_true", help="a tiny model, which measures nothing")
    arguments = parser.parse_args()
    sizes = _sizes(arguments)
    try:
        for threads in arguments.threads:
            if arguments.study == "inputs":
                _inputs(sizes, threads, arguments.share or 0.4, arguments.rounds)
            else:
                _bitnet(sizes, threads, arguments.rounds)
    finally:
        for sparse in (False, True):
            path_of(sizes, sparse).unlink(missing_ok=True)
        screen.companion_path(path_of(sizes, False)).unlink(missing_ok=True)


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = LLAMA_7B if arguments.study == "inputs" else BITNET
    if arguments.quick:
        screened = None if sizes.screen is None else (32, 64)
        sizes = replace(sizes, name=f"tiny-{sizes.name}", layers=2, d=256, hidden=512, heads=2)
        sizes = replace(sizes, kv_heads=2, vocab=512, screen=screened)
    if arguments.layers:
        sizes = replace(sizes, layers=arguments.layers)
    if arguments.study == "bitnet" and arguments.share:
        sizes = replace(sizes, active=arguments.share)
    return sizes


def _inputs(sizes: Sizes, threads: int, share: float, rounds: int) -> None:
    core, path = hosts.open_core("native", threads=threads), plain_model(sizes)
    companion = screen.companion_path(path)
    if not companion.exists():
        with Model.load(path, activation="silu", core=core, inputs="dense") as model:
            sites = usable_sites(model)
            found = recorded_inputs(model, sites, _ids(model, _PROMPT))
            limits = limits_for({name: each[_PROMPT // 2 :] for name, each in found.items()}, share)
            values = np.array(list(limits.values()), np.float32)
            keys = {screen.NAMES_KEY: list(limits), screen.LIMITS_KEY: values}
            of = screen.fingerprint(model.file)
            write_companion(companion, sizes.architecture, of, keys, {}, force=True)
    with Model.load(path, activation="silu", core=core) as model:
        sessions = {mode: model.new_session(_length(rounds)) for mode in ("dense", "sparse")}
        times = _times(sessions, {mode: mode for mode in sessions}, _ids(model, _PROMPT), rounds)
        inputs, multiplied = sessions["sparse"].inputs.tolist()
        matrices = sum(
            matrix.nbytes
            for site in usable_sites(model)
            for matrix in model.session.model.site_matrices(site)
        )
        head = sizes.vocab * model.session.model.head_bytes[0]
        left_out = 1 - multiplied / inputs
        print(f"{sizes.name}, {sizes.layers} layers, {threads} threads, {left_out:.1%} left out")
        _print(times, {"dense": matrices + head, "sparse": (1 - left_out) * matrices + head})


def _bitnet(sizes: Sizes, threads: int, rounds: int) -> None:
    core = hosts.open_core("native", threads=threads)
    models = {
        "dense": Model.load(plain_model(sizes), activation=sizes.activation, core=core),
        "sparse": Model.load(sparse_model(sizes), core=core),
        "sparse, dense head": Model.load(sparse_model(sizes), core=core, head="dense"),
    }
    sessions = {name: model.new_session(_length(rounds)) for name, model in models.items()}
    modes = {name: name.split(",")[0] for name in models} | {"dense neurons": "dense"}
    sessions["dense neurons"] = models["sparse"].new_session(_length(rounds))
    times = _times(sessions, modes, _ids(models["dense"], _PROMPT), rounds)
    selected = sessions["sparse"].selected / sessions["sparse"].evaluated / sizes.hidden
    print(
        f"{sizes.name}, {sizes.layers} layers, {threads} threads, {selected.mean():.1%} of the "
        f"neurons, {sessions['sparse'].head_rows[1] / sessions['sparse'].head_rows[0]:,.0f} of "
        f"{sizes.vocab:,} rows"
    )
    _print(times, _bitnet_bytes(models["sparse"], sizes, float(selected.mean())))
    for model in models.values():
        model.close()


def _bitnet_bytes(model: Model, sizes: Sizes, selected: float) -> dict[str, float]:
    """What a token reads in each way."""
    tensors = {name: info.nbytes for name, info in model.file.tensors.items()}
    bundles = sum(size for name, size in tensors.items() if "ffn_bundle" in name)
    predictors = sum(size for name, size in tensors.items() if "ffn_predictor" in name)
    screened = sum(size for name, size in tensors.items() if "output_screen" in name)
    head = tensors["token_embd.weight"]
    rest = sum(tensors.values()) - bundles - predictors - screened - head
    rows = screened + head * sizes.screen[1] / sizes.vocab if sizes.screen else head
    neurons = selected * bundles + predictors
    return {
        "dense": rest + bundles + head,
        "sparse": rest + neurons + rows,
        "sparse, dense head": rest + neurons + head,
        "dense neurons": rest + bundles + rows,
    }


def _ids(model: Model, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab, count).astype(np.int32)


def _length(rounds: int) -> int:
    return _PROMPT + (rounds + 1) * _BLOCK


def _times(
    sessions: Mapping[str, Session], modes: Mapping[str, str], prompt: np.ndarray, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds a token of each by the clock and of the processor, in turns of a few tokens."""
    for name, session in sessions.items():
        session.feed(prompt.tolist(), modes[name])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sessions}
    order = list(sessions)
    for measured in range(rounds + 1):  # the first warms up
        for name in order:
            found = _timed(sessions[name], prompt[measured : measured + _BLOCK].tolist())
            times[name] += [found] if measured else []
        order.reverse()
    return times


def _timed(session: Session, tokens: Sequence[int]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    for token in tokens:
        session.step(token)
    spent = time.perf_counter() - clock, time.process_time() - processor
    return spent[0] / len(tokens), spent[1] / len(tokens)


def _print(times: Mapping[str, list[tuple[float, float]]], read: Mapping[str, float]) -> None:
    """Medians of each, over those of the first."""
    middle = {
        name: [statistics.median(column) for column in zip(*each, strict=True)]
        for name, each in times.items()
    }
    first = middle["dense"]
    for name, (clock, processor) in middle.items():
        print(
            f"  {name:20} {1e3 * clock:8.1f} ms a token, {read[name] / 1e6:8,.0f} MB, "
            f"{read[name] / clock / 1e9:5.1f} GB/s; {first[0] / clock:.2f}× (processor time "
            f"{first[1] / processor:.2f}×), {read['dense'] / read[name]:.2f}× fewer bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
