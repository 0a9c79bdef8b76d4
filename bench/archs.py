"""Which architectures run, and do they give llama.cpp's logits? Small random models of all that
llama.cpp has.

    python -m bench.archs MODELS LOGITS                  # models and logits that are there
    python -m bench.archs --build LLAMA_CPP FOLDER       # makes them first, in FOLDER; --seed 1
    python -m bench.archs MODELS LOGITS --only 'qwen*'
    python -m bench.archs MODELS LOGITS --backend wasmtime   # or pyodide, in node

The error of a model is its normalised mean squared error: the sum of the squared differences over
the sum of llama.cpp's squared logits, for 40 tokens, all in F32. Above 1e-6, or in WebAssembly
1e-5, something is computed differently. `bench/README.md` says where the sources come from.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sparsefire as sf
from sparsefire.arch.table import ARCHITECTURES

LARGEST_ERROR = 1e-6
LARGEST_ERROR_IN_WASM = 1e-5
# llama.cpp looks GELU up in a table of F16, which adds up in many layers.
LARGEST_ERRORS = {"gemma3n": 3e-5}
# llama.cpp computes GELU's tanh form where published models have the erf form: so do we here.
OTHER_ACTIVATIONS = dict.fromkeys(
    ("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert-moe", "modern-bert"), "gelu_tanh"
)
# What llama.cpp computes otherwise than the published models do, by architecture.
KNOWN_DIFFERENCES = {
    "phimoe": "llama.cpp computes RMS norms and a softmax, not layer norms and SparseMixer",
    "grovemoe": "llama.cpp gives small experts the output of the large ones, not their input",
}


@dataclass(frozen=True)
class Comparison:
    """One model: ``verdict`` is "ok", "different", "known" (of `KNOWN_DIFFERENCES`), "refused" or
    "no logits"."""

    model: str
    verdict: str
    error: float | None = None
    reason: str = ""


def comparisons(models: Path, logits: Path, only: str = "*") -> Iterator[Comparison]:
    """Compares the models in one folder with the peer's logits in another."""
    for path in sorted(models.glob(f"{only}.gguf")):
        expected = logits / f"{path.name}.logits"
        if expected.exists():
            yield _compare(path, _read_logits(expected))
        else:
            reason = "llama.cpp gave none"
            yield Comparison(path.stem, "no logits", reason=reason)


def _read_logits(path: Path) -> npt.NDArray[np.float32]:
    """Logits as `peer_logits` writes them, (tokens, vocabulary), or an encoder's vectors."""
    data = path.read_bytes()
    count, vocabulary = np.frombuffer(data, np.int32, 2)
    return np.frombuffer(data, np.float32, offset=8).reshape(count, vocabulary)


def _compare(path: Path, expected: npt.NDArray[np.float32]) -> Comparison:
    try:
        other = OTHER_ACTIVATIONS.get(_architecture(path))
        with sf.Model.load(path, activation=other, k_format="f32", v_format="f32") as model:
            vocabulary = model.config.vocab
            tokens = np.array([(37 * i + 11) % vocabulary for i in range(len(expected))], np.int32)
            encodes = not model.config.kind.output
            found = model.hidden_states(tokens) if encodes else model.logits(tokens)
    except sf.SparsefireError as refusal:
        reason = str(refusal).removeprefix(f"{path}: ")
        return Comparison(path.stem, "refused", reason=reason)
    wanted = expected.astype(np.float64)
    error = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
    usual = LARGEST_ERROR if sf.backend().name == "native" else LARGEST_ERROR_IN_WASM
    if error <= LARGEST_ERRORS.get(path.stem, usual):
        return Comparison(path.stem, "ok", error)
    known = KNOWN_DIFFERENCES.get(_architecture(path), "")
    return Comparison(path.stem, "known" if known else "different", error, known)


def _architecture(path: Path) -> str:
    """The architecture of a model, which its file is named after, with a word more in some."""
    names = (path.stem, path.stem.rsplit("-", 1)[0])
    return next((name for name in names if name in ARCHITECTURES), names[-1])


def table(found: list[Comparison]) -> str:
    """A table in Markdown, and how many models there are of each verdict."""
    lines = ["| model | | error | because |", "|---|---|---|---|"]
    for each in found:
        error = "" if each.error is None else f"{each.error:.1e}"
        reason = each.reason.split(";")[0].replace("|", "\\|")
        lines.append(f"| {each.model} | {each.verdict} | {error} | {reason} |")
    counts = collections.Counter(each.verdict for each in found)
    lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())]
    return "\n".join(lines)


def _in_pyodide(models: Path, logits: Path, only: str) -> list[Comparison]:
    """The comparisons that this module makes in Pyodide."""
    from .lib.in_pyodide import run_in_pyodide

    code = f"""
import json
from dataclasses import asdict
from pathlib import Path
from bench.archs import comparisons
json.dumps([asdict(each) for each in comparisons(Path("/models"), Path("/logits"), {only!r})])
"""
    found = json.loads(run_in_pyodide(code, {"/models": models, "/logits": logits}))
    return [Comparison(**each) for each in found]


def main() -> int:
    """Compares what the command line names; 1 when a model gives other logits."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.archs",
        description="Which architectures run, and do they give llama.cpp's logits?",
    )
    add = parser.add_argument
    add("models", type=Path, metavar="MODELS", help="folder of random models; with --build, where")
    add("logits", type=Path, nargs="?", metavar="LOGITS", help="folder of llama.cpp's logits")
    add("--build", type=Path, metavar="LLAMA_CPP", help="make both from the sources of llama.cpp")
    add("--seed", type=int, default=0, help="of the models that --build makes")
    add("--only", default="*", metavar="PATTERN", help="names of models, such as 'qwen*'")
    hosts = ("native", "wasmtime", "pyodide")
    add("--backend", choices=hosts, default="native", help="where models run")
    add("--json", action="store_true", help="print JSON instead")
    arguments = parser.parse_args()
    models, logits = arguments.models, arguments.logits
    if (arguments.build is None) == (logits is None):
        parser.error("name MODELS and LOGITS, or --build LLAMA_CPP and a folder")
    if arguments.build is not None:
        from .lib.random_models import make_models

        models, logits = make_models(arguments.build, arguments.models, arguments.seed)
    if arguments.backend == "pyodide":
        found = _in_pyodide(models, logits, arguments.only)
    else:
        sf.use_backend(arguments.backend)
        found = list(comparisons(models, logits, arguments.only))
    if not found:
        parser.error(f"{models} has no model {arguments.only!r}")
    if arguments.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    else:
        print(table(found))
    return int(any(each.verdict == "different" for each in found))


if __name__ == "__main__":
    sys.exit(main())
