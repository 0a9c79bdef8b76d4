"""The Python side of the browser page's worker: loads models, generates text, reports statistics.

The worker's JavaScript calls an `Engine`, which returns JSON. Generation runs in slices, so that
JavaScript can handle messages, such as a press of Stop, between them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from .._options import DEFAULT_KV_FORMAT
from ..arch.config import ModelConfig, read_config
from ..arch.plan import ExpertLayer, FfnLayer, Plan
from ..arch.tensors import read_plan
from ..core.enums import StepName
from ..core.hosts import backend, get_core, use_backend
from ..core.pyodide import processors
from ..core.threads import DEFAULT_THREADS_LIMIT, enable_threads
from ..errors import CoreMemoryError, SparsefireError
from ..ffn.cache import CacheStats
from ..ffn.files import predictor_copies
from ..ffn.forward import MODES
from ..gguf.reader import GgufFile
from ..lm.layer_bytes import LayerBytes
from ..lm.model import Model
from ..lm.opening import DEFAULT_CONTEXT
from ..lm.session import Activity
from ..text.tokenizer import check_tokenizer
from ..weights.formats import weight_format

PAGE_CONTEXT = 2048  # default limit of the context, in tokens
_SLICE_TOKENS = 255  # at most: firing counts are bytes
_WORK_BYTES = 32 << 20  # estimate of a core's memory besides weights and key/value cache
_THREADED_BYTES = 32 << 20  # smallest model for which several threads pay off
_CALIBRATED_BYTES = 320_000_000  # of the largest model that is calibrated here, within minutes
_CALIBRATION_TOKENS = 4_096
_MEMORY_LIMIT = 1 << 32  # bytes that 32-bit WebAssembly can address


async def open_engine(threads: int = 0, relaxed: bool = False) -> Engine:
    """Opens an engine.

    threads: the number of threads, where the page can use several; 0 chooses it by the size of each
      model.
    relaxed: use relaxed SIMD instead of strict.
    """
    engine = Engine(threads, relaxed)
    await engine.prepare(0)
    return engine


def threads_for(nbytes: int, processors: int) -> int:
    """Default number of threads for a model of `nbytes` bytes.

    The products of a small model are too short to split. For larger models it is half of the
    logical processors, since two of them often share a core and the page needs one itself.
    """
    if nbytes < _THREADED_BYTES or processors < 2:
        return 1
    return min(max(2, processors // 2), DEFAULT_THREADS_LIMIT)


def open_files(read_at: Callable[[int, int], Any], parts: str) -> list[JsFile]:
    """The files of a model that JavaScript reads end to end: `parts` is JSON, a list of the name
    and the size in bytes of each."""
    files, start = [], 0
    for part in json.loads(parts):
        files.append(JsFile(read_at, part["size"], part["name"], start))
        start += part["size"]
    return files


class JsFile:
    """A binary file of `size` bytes from `start`, read by JavaScript: `read_at(offset, nbytes)`
    returns a Uint8Array."""

    def __init__(
        self, read_at: Callable[[int, int], Any], size: int, name: str, start: int = 0
    ) -> None:
        self._read_at = read_at
        self._size = size
        self._start = start
        self._at = 0
        self.name = name

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.RawIOBase.seek`."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, nbytes: int = -1) -> bytes:
        """See `io.RawIOBase.read`."""
        left = max(0, self._size - self._at)
        nbytes = left if nbytes < 0 else min(nbytes, left)
        if nbytes == 0:
            return b""
        data: bytes = self._read_at(self._start + self._at, nbytes).to_bytes()
        self._at += len(data)
        return data


class Engine:
    """A core with at most one model."""

    def __init__(self, threads: int = 1, relaxed: bool = False) -> None:
        self._threads = threads
        self._isa = "relaxed128" if relaxed else None
        self._model: Model | None = None
        self._bytes: LayerBytes | None = None
        self._activity: Activity | None = None
        self._pieces: Generator[str, None, None] | None = None
        # Totals after the last slice: evaluated tokens, selected and active neurons; the cache's.
        self._totals: tuple[int, Any, Any] = (0, 0, 0)
        self._cache_totals = CacheStats(0, 0, 0, 0, 0)
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._companion = Path(folder) / "companion.gguf"

    async def prepare(self, nbytes: int) -> None:
        """Closes the loaded model and opens a core for a model of `nbytes` bytes."""
        self.unload()
        threads = self._threads or threads_for(nbytes, await processors())
        if threads > 1:
            await enable_threads(threads, isa=self._isa)
        if threads == 1 or backend().threads == 1:
            note = backend().note if threads > 1 else ""
            use_backend("auto", isa=self._isa, threads=1)
            get_core().note = note

    def backend(self) -> str:
        """Description of the core, as JSON."""
        chosen = backend()
        return json.dumps(
            {
                "backend": chosen.name,
                "isa": chosen.isa,
                "simd": chosen.simd,
                "threads": chosen.threads,
                "automatic": self._threads == 0,  # the number of threads
                "note": chosen.note,
                "version": chosen.version,
            }
        )

    def warm_up(self) -> None:
        """Imports modules that the first generation needs."""
        np.random.default_rng()

    def core_bytes(self) -> int:
        """See `Core.memory_bytes`."""
        return get_core().memory_bytes()

    # -- models ------------------------------------------------------------------------------------

    def inspect(self, files: Sequence[JsFile], options: str, rest: int = 0) -> str:
        """Memory that loading a model would need, as JSON, from its header alone, which also shows
        a tokeniser that is not known.

        `files` and `options` are as for `load`, except for a split model of which only the first
        file is available: then `rest` is the size of the others in bytes.
        """
        try:
            with _opened(files, whole=not rest) as file:
                config = read_config(file, None)
                check_tokenizer(file.metadata, file.name)
                plan = None if rest else read_plan(file, config)
                needed = _memory_needed(file, config, plan, json.loads(options), rest)
                return json.dumps({"name": config.name, **needed})
        except Exception as error:
            return _failure(error)

    def load(self, files: Sequence[JsFile], options: str, companion: Any = None) -> str:
        """Loads a model after closing the current one; returns its description as JSON.

        `files` are one file, or all files of a split model. `options` is JSON: {"context": tokens,
        "budget": bytes of resident neurons}; 0 stands for the default context and for all neurons.
        With a budget, the file must stay readable until `unload`. `companion` is a Uint8Array with
        the model's companion, if it has one.
        """
        self.unload()
        try:
            chosen = json.loads(options)
            if companion is not None:
                self._companion.write_bytes(companion.to_bytes())
            with _opened(files) as file:
                config = read_config(file, None)
                context = _context(config, chosen)
                budget = _budget(file, read_plan(file, config), chosen)
            self._model = model = Model.load(
                _source(files),
                context=context,
                neuron_budget=budget or None,
                companion=None if companion is None else self._companion,
            )
            self._bytes = LayerBytes(model.file, model.session.model.plan)
            model.tokenizer  # noqa: B018  creates the tokenizer, so that the first text need not wait
            return json.dumps(self._about(model))
        except Exception as error:
            self.unload()
            return _failure(error)

    def unload(self) -> None:
        """Closes the loaded model, if any."""
        self.end()
        self.watch(False)
        if self._model is not None:
            self._model.close()
        self._model = None

    def _about(self, model: Model) -> dict[str, Any]:
        config, plan = model.config, model.session.model.plan
        return {
            "name": config.name,
            "architecture": config.architecture,
            "hidden": [layer.hidden for layer in plan.layers],
            "layers": _layers(plan),
            "d": config.d,
            "vocab": config.vocab,
            "activation": str(config.activation),
            "context": model.context,
            "trained_context": config.context_length,
            "bytes": model.file.nbytes,
            "hot": list(config.hot_counts or ()),
            "default_mode": config.default_mode,
            "modes": {mode: _refusal(model, mode) for mode in MODES},
            "chat": _chat_refusal(model),
            "head": model.head,
            "calibrates": _calibrates(model),
            "budget_bytes": model.neurons.budget_bytes if model.neurons else 0,
            "neuron_bytes": _neuron_bytes(model.file, plan),
        }

    # -- calibration -------------------------------------------------------------------------------

    def calibrate(
        self, files: Sequence[JsFile], options: str, report: Callable[[str, float], object]
    ) -> str:
        """Fits a screen of the output matrix of a model, whose `files` are as for `load`, after
        closing the current one: `calibrate_head`, of whose arguments `options` is JSON. Returns
        what was found, as JSON: `written` is whether decoding is faster with it, and `companion`
        then returns the companion. `report` is called with what is being done and the share of the
        whole that is done."""
        from ..calibrate.head import calibrate_head

        self.unload()
        try:
            chosen = {"tokens": _CALIBRATION_TOKENS, **json.loads(options)}
            path, source = self._companion, _source(files)
            found = calibrate_head(source, companion=path, force=True, progress=report, **chosen)
            known = found.as_dict()
            return json.dumps(
                {
                    "written": found.output is not None,
                    "measured": known["measured"],
                    "chosen": known["chosen"],
                    "held_out_tokens": found.held_out_tokens,
                }
            )
        except Exception as error:
            return _failure(error)

    def companion(self) -> bytes:
        """The companion that `calibrate` has written."""
        return self._companion.read_bytes()

    # -- generation --------------------------------------------------------------------------------

    def start(self, given: str, options: str) -> str:
        """Starts a generation. `given` is JSON: {"prompt": text} or {"messages": conversation};
        `options` is JSON with the arguments of `Model.generate`."""
        self.end()
        try:
            model = self._loaded()
            parsed = json.loads(given)
            prompt: str | list[int] = parsed.get("prompt") or ""
            if parsed.get("messages"):
                text = model.apply_chat_template(parsed["messages"])
                prompt = model.tokenize(text)
            if model.neurons is not None:
                self._cache_totals = model.neurons.stats
            self._pieces = model.generate(prompt, **json.loads(options))
            self._totals = (0, 0, 0)
            return json.dumps({"prompt_tokens": model.stats.prompt_tokens})
        except Exception as error:
            return _failure(error)

    def run(self, seconds: float) -> str:
        """Generates for about `seconds`; the first slice ends after the first token. Returns JSON
        with the new text, whether and why generation has ended, and the counts of the slice."""
        model, pieces = self._loaded(), self._pieces
        if pieces is None:
            return json.dumps({"text": "", "done": True, "reason": "stopped"})
        text: list[str] = []
        done, reason = False, ""
        until = time.perf_counter() + seconds
        first = not model.stats.token_ids
        try:
            for piece in pieces:
                text.append(piece)
                if first or len(text) >= _SLICE_TOKENS or time.perf_counter() >= until:
                    break
            else:
                done, reason = True, model.stats.finish_reason
        except KeyboardInterrupt:
            done, reason = True, "stopped"
        except Exception as error:
            self.end()
            return _failure(error)
        report = {"text": "".join(text), "done": done, "reason": reason, **self._counts(model)}
        if done:
            self.end()
        return json.dumps(report)

    def _counts(self, model: Model) -> dict[str, Any]:
        """The number of tokens so far, and neurons and bytes per token since the last slice."""
        session, stats = model.session, model.stats
        evaluated, selected, active = self._totals
        tokens = session.evaluated - evaluated
        report: dict[str, Any] = {
            "tokens": len(stats.token_ids),
            "evaluated": tokens,
            "prompt_tokens_per_s": stats.prompt_tokens_per_s,
        }
        if tokens > 0:
            assert self._bytes is not None
            new_selected = (session.selected - selected) / tokens
            new_active = (session.active - active) / tokens
            report["selected"] = (new_selected / session.hidden).tolist()
            report["active"] = (new_active / session.hidden).tolist()
            report["ffn_bytes"] = self._bytes.read(stats.mode, new_selected, new_active)
            report["dense_ffn_bytes"] = self._bytes.dense
            report["other_bytes"] = self._bytes.other
            self._totals = (session.evaluated, session.selected.copy(), session.active.copy())
        if model.neurons is not None:
            report |= self._cache_counts(model.neurons.stats)
        return report

    def _cache_counts(self, stats: CacheStats) -> dict[str, Any]:
        """Since the last slice: requested neurons, cache hits, and bytes read on misses."""
        previous, self._cache_totals = self._cache_totals, stats
        hits, misses = stats.hits - previous.hits, stats.misses - previous.misses
        return {
            "cache_hits": hits,
            "cache_wanted": hits + misses,
            "cache_read_bytes": stats.bytes_read - previous.bytes_read,
        }

    def end(self) -> None:
        """Ends the current generation."""
        if self._pieces is not None:
            self._pieces.close()
        self._pieces = None

    def token_ids(self) -> str:
        """The token ids of the last text, as JSON."""
        return json.dumps(self._loaded().stats.token_ids)

    # -- activity ----------------------------------------------------------------------------------

    def watch(self, wanted: bool) -> None:
        """Starts or stops counting which neurons fire."""
        if self._activity is not None:
            self._activity.close()
        self._activity = None
        if wanted and self._model is not None:
            self._activity = self._model.session.watch()

    def fired(self, target: Any) -> bool:
        """Writes the firing counts since the last call to a Uint8Array of layers · hidden elements;
        returns False when counting is off."""
        if self._activity is None:
            return False
        target.assign(self._activity.take())
        return True

    def _loaded(self) -> Model:
        if self._model is None:
            raise SparsefireError("no model is loaded; choose one in the list of models")
        return self._model


def _source(files: Sequence[JsFile]) -> BinaryIO | list[BinaryIO]:
    """The files as `Model.load` accepts them."""
    streams = [cast("BinaryIO", each) for each in files]
    return streams[0] if len(streams) == 1 else streams


def _opened(files: Sequence[JsFile], whole: bool = True) -> GgufFile:
    if whole:
        return GgufFile.open(_source(files))
    (first,) = files
    return GgufFile(cast("BinaryIO", first), whole=False)


def _context(config: ModelConfig, options: dict[str, Any]) -> int:
    wanted = int(options.get("context") or min(PAGE_CONTEXT, DEFAULT_CONTEXT))
    return max(1, min(config.context_length, wanted))


def _refusal(model: Model, mode: str) -> str | None:
    """Why the model does not support a mode, or None."""
    try:
        model.generate([0], 0, mode=mode).close()
    except SparsefireError as error:
        return str(error).removeprefix(f"{model.file.name}: ")
    return None


def _chat_refusal(model: Model) -> str | None:
    """Why the model does not support chat, or None."""
    try:
        model.apply_chat_template([{"role": "user", "content": "Hello"}])
    except SparsefireError as error:
        return str(error).removeprefix(f"{model.file.name}: ")
    return None


def _calibrates(model: Model) -> bool:
    """Whether a screen of the model's output matrix can be fitted here."""
    small = model.file.nbytes <= _CALIBRATED_BYTES and model.neurons is None
    return small and model.head == "dense" and model.session.model.output is not None


def _layers(plan: Plan) -> list[dict[str, Any]]:
    """What each feed-forward layer is: the block, from 0 on, that it belongs to; the number of
    neurons of an expert, or 0; whether it is a block's shared experts; and how positions are mixed
    before it: "attention", "recurrence", "convolution", or "" if they are not."""
    mixers = {
        StepName.STEP_CONVOLUTION: "convolution",
        StepName.STEP_ATTENTION: "attention",
        StepName.STEP_RECURRENCE: "recurrence",
    }
    found: dict[int, str] = {}
    before = ""
    for step in plan.steps:
        if step.name in (StepName.STEP_FFN, StepName.STEP_EXPERTS):
            found.setdefault(step.arguments[0], before)
            before = ""
        elif step.name in mixers and before != "recurrence":  # which is often after a convolution
            before = mixers[step.name]
    return [
        {
            "block": layer.block,
            "expert": layer.width if isinstance(layer, ExpertLayer) else 0,
            "shared": isinstance(layer, FfnLayer) and bool(layer.suffix),
            "mixer": found.get(index, ""),
        }
        for index, layer in enumerate(plan.layers)
    ]


def _neuron_bytes(file: GgufFile, plan: Plan | None) -> int:
    """Bytes of the neurons that can be read on demand: those of experts, or of bundled layers; 0
    for other models."""
    experts = [each for each in plan.layers if isinstance(each, ExpertLayer)] if plan else []
    names = {f"{name}.weight" for each in experts for name in (each.gate, each.up, each.down)}
    names = names or {name for name in file.tensors if ".ffn_bundle." in name}
    return sum(file.tensors[name].nbytes for name in names if name in file.tensors)


def _budget(file: GgufFile, plan: Plan | None, options: dict[str, Any]) -> int:
    """Bytes of resident neurons; 0 when all of them are resident."""
    wanted = int(options.get("budget") or 0)
    return wanted if 0 < wanted < _neuron_bytes(file, plan) else 0


def _memory_needed(
    file: GgufFile, config: ModelConfig, plan: Plan | None, options: dict[str, Any], rest: int
) -> dict[str, int]:
    """Estimate of the core memory that a model needs with these options, in bytes; `rest`: of
    weights in files that are not open, without which there is no plan."""
    context, budget = _context(config, options), _budget(file, plan, options)
    weights = sum(info.nbytes for info in file.tensors.values()) + predictor_copies(file) + rest
    if budget:
        weights += budget - _neuron_bytes(file, plan)
    kept = weight_format(DEFAULT_KV_FORMAT).row_bytes(config.kv_width)
    cache = 2 * kept * config.layers * context
    if plan is not None:
        cache = plan.session_bytes(context)
    return {
        "weights_bytes": weights,
        "cache_bytes": cache,
        "needed_bytes": weights + cache + _WORK_BYTES,
        "limit_bytes": _MEMORY_LIMIT,
        "context_tokens": context,
        "neuron_bytes": _neuron_bytes(file, plan),
    }


def _failure(error: BaseException) -> str:
    """An error as JSON: a message for users, and its kind. The traceback of an error that has no
    message for users goes to standard error, which is the browser's console."""
    kind = type(error).__name__
    if isinstance(error, SparsefireError):
        message = " ".join(str(error).split())
    elif isinstance(error, MemoryError):
        kind, message = CoreMemoryError.__name__, "the browser has no more memory for this page"
    elif kind == "JsException":  # of `JsFile`, whose messages are written for users
        message = str(error).removeprefix("Error: ")
    else:
        traceback.print_exception(error)
        message = f"an unexpected error in Python, {kind}: the browser's console has the details"
    return json.dumps({"error": message, "kind": kind})
