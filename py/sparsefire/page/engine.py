"""What the browser page's worker does in Python: load a model, generate, count, tell.

The page's JavaScript calls an `Engine` and gets JSON; it decides when to call again, so that it
can hear a stop button between two slices of work.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator
from typing import Any, BinaryIO, cast

import numpy as np

from ..arch.config import ModelConfig, read_config
from ..arch.tensors import check_tensors
from ..core.hosts import backend, get_core, use_backend
from ..core.pyodide import processors
from ..core.threads import enable_threads
from ..errors import CoreMemoryError, SparsefireError
from ..ffn.cache import CacheStats
from ..ffn.files import predictor_copies
from ..ffn.forward import MODES
from ..gguf.reader import GgufFile
from ..lm.model import DEFAULT_CONTEXT, Model
from ..lm.session import Activity

PAGE_CONTEXT = 2048  # tokens, at most, unless the page asks for more
_MOST_TOKENS = 255  # of a slice: a neuron that fires is counted so far
_WORK_BYTES = 32 << 20  # of a core beside weights and cache, roughly
_SHARED_BYTES = 32 << 20  # of a model, from which more than one thread is worth it
_MOST_THREADS = 8  # unless the page asks for more
_CORE_BYTES = 1 << 32  # that WebAssembly with 32-bit addresses can have


async def open_engine(threads: int = 0, relaxed: bool = False) -> Engine:
    """An engine with so many threads, as far as the page can have them, and with relaxed SIMD or
    strict. 0 threads: as many as suit each model."""
    engine = Engine(threads, relaxed)
    await engine.prepare(0)
    return engine


def threads_for(nbytes: int, processors: int) -> int:
    """How many threads suit a model of that size. A small one's products are too short to share;
    for others, half of the processors, which are often two to a core, leave the page its own."""
    if nbytes < _SHARED_BYTES or processors < 2:
        return 1
    return min(max(2, processors // 2), _MOST_THREADS)


class JsFile:
    """A binary file whose bytes JavaScript gives: `read_at(offset, nbytes)` is a Uint8Array."""

    def __init__(self, read_at: Callable[[int, int], Any], size: int, name: str) -> None:
        self._read_at = read_at
        self._size = size
        self._at = 0
        self.name = name

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, nbytes: int = -1) -> bytes:
        """As of any file."""
        left = max(0, self._size - self._at)
        nbytes = left if nbytes < 0 else min(nbytes, left)
        if nbytes == 0:
            return b""
        data: bytes = self._read_at(self._at, nbytes).to_bytes()
        self._at += len(data)
        return data


class LayerBytes:
    """Bytes of weights that a token reads, as the file stores them: of each layer's neuron the
    gate row and the up and down rows, of each layer its predictor, and of everything else."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        sizes = {name: info.nbytes for name, info in file.tensors.items()}
        layers = range(config.layers)
        prefixes = [f"blk.{layer}.ffn_" for layer in layers]

        def each(*names: str) -> np.ndarray[Any, Any]:
            return np.array(
                [sum(sizes.get(f"{p}{name}.weight", 0) for name in names) for p in prefixes]
            )

        bundle, gate, up, down = each("bundle"), each("gate"), each("up"), each("down")
        gated = gate.any() or bundle.any()
        first = (gate + bundle / 3) if gated else up
        rest = (up + down + 2 * bundle / 3) if gated else down
        self.first, self.rest = first / config.hidden, rest / config.hidden
        self.predictor = each("predictor_p", "predictor_q")
        ffn = sum(size for name, size in sizes.items() if ".ffn_" in name)
        self.other = sum(sizes.values()) - ffn
        if "output.weight" in sizes:  # then the embedding is only looked up, one row a token
            self.other -= sizes.get("token_embd.weight", 0)
        self.dense = float(first.sum() + rest.sum())

    def read(self, mode: str, selected: Any, active: Any) -> float:
        """Of the feed-forward layers, for a token with so many neurons by layer."""
        predictor = self.predictor.sum() if mode == "sparse" else 0
        return float((selected * self.first + active * self.rest).sum() + predictor)


class Engine:
    """One core with at most one model, for a page."""

    def __init__(self, threads: int = 1, relaxed: bool = False) -> None:
        self._threads = threads
        self._isa = "relaxed128" if relaxed else None
        self._model: Model | None = None
        self._bytes: LayerBytes | None = None
        self._activity: Activity | None = None
        self._pieces: Generator[str, None, None] | None = None
        self._seen: tuple[int, Any, Any] = (0, 0, 0)  # tokens, selected, active at the last slice
        self._cached = CacheStats(0, 0, 0, 0, 0)  # then

    async def prepare(self, nbytes: int) -> None:
        """Goes to the core that suits a model of that size, which is loaded next; the model before
        is closed."""
        self.unload()
        threads = self._threads or threads_for(nbytes, await processors())
        if threads > 1:
            await enable_threads(threads, isa=self._isa)
        if threads == 1 or backend().threads == 1:
            note = backend().note if threads > 1 else ""
            use_backend("auto", isa=self._isa, threads=1)
            get_core().note = note

    def where(self) -> str:
        """The core, as JSON."""
        chosen = backend()
        return json.dumps(
            {
                "backend": chosen.name,
                "isa": chosen.isa,
                "simd": chosen.simd,
                "threads": chosen.threads,
                "suited": self._threads == 0,  # to the model, not chosen by the user
                "note": chosen.note,
                "version": chosen.version,
            }
        )

    def warm(self) -> None:
        """Imports what the first text would wait for."""
        np.random.default_rng()

    def core_bytes(self) -> int:
        """Bytes of the core's memory, which grows and never shrinks; 0 where it is Python's own."""
        memory = getattr(get_core(), "_memory", None)
        return int(memory.buffer.byteLength) if memory is not None else 0

    # -- models ------------------------------------------------------------------------------------

    def inspect(self, source: JsFile, options: str) -> str:
        """What loading this file would take, as JSON, from its header alone; `options` as for
        `load`."""
        try:
            with GgufFile.open(cast("BinaryIO", source)) as file:
                config = read_config(file, None)
                check_tensors(file, config)
                needed = _memory_needed(file, config, json.loads(options))
                return json.dumps({"name": config.name, **needed})
        except Exception as error:
            return _failure(error)

    def load(self, source: JsFile, options: str) -> str:
        """Loads a model in place of the one before, which is closed first; about it, as JSON.

        `options` is JSON: {"context": tokens, "budget": bytes of neurons in memory}, 0 for the
        page's choice and for all. With a budget, `source` is read from until `unload`.
        """
        self.unload()
        try:
            chosen = json.loads(options)
            with GgufFile.open(cast("BinaryIO", source)) as file:
                context = _context(read_config(file, None), chosen)
                budget = _budget(file, chosen)
            self._model = model = Model.load(
                cast("BinaryIO", source), context=context, neuron_budget=budget or None
            )
            self._bytes = LayerBytes(model.file, model.config)
            model.tokenizer  # noqa: B018  made now, so that the first text does not wait
            return json.dumps(self._about(model))
        except Exception as error:
            self.unload()
            return _failure(error)

    def unload(self) -> None:
        """Closes the model, if there is one."""
        self.end()
        self.watch(False)
        if self._model is not None:
            self._model.close()
        self._model = None

    def _about(self, model: Model) -> dict[str, Any]:
        config = model.config
        return {
            "name": config.name,
            "architecture": config.architecture,
            "layers": config.layers,
            "hidden": config.hidden,
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
            "budget_bytes": model.neurons.budget_bytes if model.neurons else 0,
            "neuron_bytes": _neuron_bytes(model.file),
        }

    # -- generation --------------------------------------------------------------------------------

    def start(self, given: str, options: str) -> str:
        """Begins a text. `given` is JSON: {"prompt": text} or {"messages": a conversation};
        `options` is JSON with the arguments of `Model.generate`."""
        self.end()
        try:
            model = self._loaded()
            what = json.loads(given)
            prompt: str | list[int] = what.get("prompt") or ""
            if what.get("messages"):
                text = model.apply_chat_template(what["messages"])
                prompt = model.tokenize(text, add_bos=False)
            if model.neurons is not None:
                self._cached = model.neurons.stats
            self._pieces = model.generate(prompt, **json.loads(options))
            self._seen = (0, 0, 0)
            return json.dumps({"prompt_tokens": model.stats.prompt_tokens})
        except Exception as error:
            return _failure(error)

    def run(self, seconds: float) -> str:
        """Goes on for about so long; the first call ends with the first piece of text. JSON with
        the new text, and whether and why it has ended."""
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
                if first or len(text) >= _MOST_TOKENS or time.perf_counter() >= until:
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
        """Tokens so far, and the neurons and bytes of those since the last slice."""
        session, stats = model.session, model.stats
        evaluated, selected, active = self._seen
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
            self._seen = (session.evaluated, session.selected.copy(), session.active.copy())
        if model.neurons is not None:
            report |= self._cache_counts(model.neurons.stats)
        return report

    def _cache_counts(self, stats: CacheStats) -> dict[str, Any]:
        """Since the last slice: neurons wanted and found in memory, and bytes read for others."""
        before, self._cached = self._cached, stats
        hits, misses = stats.hits - before.hits, stats.misses - before.misses
        return {
            "cache_hits": hits,
            "cache_wanted": hits + misses,
            "cache_read_bytes": stats.bytes_read - before.bytes_read,
        }

    def end(self) -> None:
        """Breaks a text off."""
        if self._pieces is not None:
            self._pieces.close()
        self._pieces = None

    def token_ids(self) -> str:
        """The ids of the last text, as JSON."""
        return json.dumps(self._loaded().stats.token_ids)

    # -- what fires --------------------------------------------------------------------------------

    def watch(self, wanted: bool) -> None:
        """Has the firing neurons counted, or not."""
        if self._activity is not None:
            self._activity.close()
        self._activity = None
        if wanted and self._model is not None:
            self._activity = self._model.session.watch()

    def fired(self, target: Any) -> bool:
        """Writes the counts since the last call to a Uint8Array (layers · hidden); False where
        nothing is counted."""
        if self._activity is None:
            return False
        target.assign(self._activity.take())
        return True

    def _loaded(self) -> Model:
        if self._model is None:
            raise SparsefireError("no model is loaded; choose one in the list of models")
        return self._model


def _context(config: ModelConfig, options: dict[str, Any]) -> int:
    wanted = int(options.get("context") or min(PAGE_CONTEXT, DEFAULT_CONTEXT))
    return max(1, min(config.context_length, wanted))


def _refusal(model: Model, mode: str) -> str | None:
    """Why the model cannot run in this mode, or None."""
    try:
        model.generate([0], 0, mode=mode).close()
    except SparsefireError as error:
        return str(error).removeprefix(f"{model.file.name}: ")
    return None


def _chat_refusal(model: Model) -> str | None:
    """Why one cannot converse with the model, or None."""
    try:
        model.apply_chat_template([{"role": "user", "content": "Hello"}])
    except SparsefireError as error:
        return str(error).removeprefix(f"{model.file.name}: ")
    return None


def _neuron_bytes(file: GgufFile) -> int:
    """Bytes of the neurons of a model that stores each by itself, so that it can be read alone; 0
    of other models."""
    bundles = [info.nbytes for name, info in file.tensors.items() if ".ffn_bundle." in name]
    return sum(bundles)


def _budget(file: GgufFile, options: dict[str, Any]) -> int:
    """Bytes of neurons that are kept in memory; 0: all of them."""
    wanted = int(options.get("budget") or 0)
    return wanted if 0 < wanted < _neuron_bytes(file) else 0


def _memory_needed(file: GgufFile, config: ModelConfig, options: dict[str, Any]) -> dict[str, int]:
    """Bytes of core memory, about, that the model takes with these options."""
    context, budget = _context(config, options), _budget(file, options)
    weights = sum(info.nbytes for info in file.tensors.values()) + predictor_copies(file)
    if budget:
        weights += budget - _neuron_bytes(file)
    cache = 2 * 4 * config.layers * config.kv_heads * config.head_dim * context
    return {
        "weights_bytes": weights,
        "cache_bytes": cache,
        "needed_bytes": weights + cache + _WORK_BYTES,
        "limit_bytes": _CORE_BYTES,
        "context_tokens": context,
        "neuron_bytes": _neuron_bytes(file),
    }


def _failure(error: BaseException) -> str:
    """An error as JSON: a sentence, and its kind."""
    if isinstance(error, SparsefireError):
        kind, message = type(error).__name__, " ".join(str(error).split())
    elif isinstance(error, MemoryError):
        kind, message = CoreMemoryError.__name__, "the browser gives this page no more memory"
    else:
        kind, message = type(error).__name__, str(error).strip() or type(error).__name__
    return json.dumps({"error": message, "kind": kind})
