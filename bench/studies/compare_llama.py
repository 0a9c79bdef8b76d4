"""The same numbers as llama.cpp? Logits, perplexity and greedy text of both on the same files.

    python -m bench.studies.compare_llama perplexity greedy   # about 15 minutes
    python -m bench.studies.compare_llama architectures --files *.gguf
    python -m bench.studies.compare_llama perplexity --formats q8_0 q4_1
    python -m bench.studies.compare_llama greedy --tokens 64

The language model is SmolLM2, the text two addresses on the State of the Union. `architectures`
compares any F32 files; `python tests/llama_variants.py FOLDER` writes tiny random ones, one of each
architecture. How fast both are: `python -m bench.peers decode`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sparsefire as sf

from ..lib.command import run_program
from ..lib.llama import LlamaModel
from ..lib.peer_files import address, as_floats, smollm2_as

FORMATS = ("f16", "q8_0", "q4_0", "q4_1", "q4_k")
WINDOW = 512
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "The three laws of motion are",
    "Dear Sir or Madam,\n\n",
    "Q: What is photosynthesis?\nA:",
    "1, 2, 3, 4,",
    "In 1969, the first",
    "To make a good cup of tea, first",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
)

Floats = npt.NDArray[np.float64]


def log_softmax(logits: npt.ArrayLike) -> Floats:
    """Log probabilities of logits (…, vocab)."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


# ---- Architectures -----------------------------------------------------------------------------


def architectures(files: list[Path]) -> None:
    """Largest difference between the log probabilities of both, for each file."""
    print(f"{'model':26} {'architecture':12} largest |Δ log p|  of values that span")
    for path in files:
        with sf.Model.load(path, k_format="f32", v_format="f32") as model:
            ids = np.random.default_rng(1).integers(0, model.config.vocab, 40).tolist()
            ours = log_softmax(model.logits(ids, mode="dense"))
            peer = log_softmax(LlamaModel(path, 1, 64, exact=True).logits(ids))
            kind = f"{model.config.architecture:12} {np.abs(ours - peer).max():17.6f}"
        print(f"{path.stem:26} {kind}  {np.ptp(peer):.1f}", flush=True)


# ---- A language model --------------------------------------------------------------------------


def perplexity(formats: list[str], tokens: int) -> None:
    """Perplexity of both over the same windows of a text, in which every token but the first
    counts; and how far each is from llama.cpp with the same weights as floats, since it rounds
    what it multiplies with quantised weights to 8 bits."""
    print("| format | perplexity | llama.cpp | ratio | KL from floats | llama.cpp's | same token |")
    print("|---|---|---|---|---|---|---|")
    for format in formats:
        path = smollm2_as(format)
        peers = [LlamaModel(each, 1, WINDOW) for each in (path, as_floats(path))]
        losses, divergences, agree = [0.0, 0.0], [0.0, 0.0], 0
        with sf.Model.load(path, context=WINDOW) as model:
            ids = model.tokenize(address(), special=False)[:tokens]
            windows = [ids[i : i + WINDOW] for i in range(0, len(ids) - 1, WINDOW)]
            for window in windows:
                ours = log_softmax(model.logits(window, mode="dense")[:-1])
                theirs, floats = (log_softmax(peer.logits(window)[:-1]) for peer in peers)
                for side, values in enumerate((ours, theirs)):
                    losses[side] -= float(values[np.arange(len(values)), window[1:]].sum())
                    divergences[side] += float((np.exp(floats) * (floats - values)).sum())
                agree += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        count = len(ids) - len(windows)
        mine, its = (float(np.exp(loss / count)) for loss in losses)
        ours_off, theirs_off = (each / count for each in divergences)
        print(
            f"| {format.upper()} | {mine:.4f} | {its:.4f} | {mine / its:.5f} | {ours_off:.1e} | "
            f"{theirs_off:.1e} | {100 * agree / count:.2f} % |",
            flush=True,
        )
    print(f"\n{count} scored tokens in windows of {WINDOW}")


def greedy(formats: list[str], tokens: int) -> None:
    """Whether both continue ten prompts alike when greedy, and whether we and llama.cpp with the
    same weights as floats do. Where they diverge, the margin of the best token over the second in
    each, in nats."""
    for format in formats:
        path = smollm2_as(format)
        for peer_path in (path, as_floats(path)):
            peer = LlamaModel(peer_path, 1, 256)
            same = 0
            with sf.Model.load(path, context=256) as model:
                for prompt in PROMPTS:
                    found = _part(model, peer, model.tokenize(prompt), tokens)
                    same += found is None
                    if found is not None:
                        print(f"  {format} {prompt[:30]!r}: {found}", flush=True)
            kind = "on the same file" if peer_path == path else "with its weights as floats"
            print(f"{format}, llama.cpp {kind}: {same} of {len(PROMPTS)} prompts alike", flush=True)


def _part(model: sf.Model, peer: LlamaModel, ids: list[int], tokens: int) -> str | None:
    """Where and why both part, None when they do not."""
    session = model.new_session(len(ids) + tokens)
    ours = log_softmax(session.feed(ids, "dense"))
    theirs = log_softmax(peer.logits(ids)[-1])
    for step in range(tokens):
        best = [int(values.argmax()) for values in (ours, theirs)]
        if best[0] != best[1]:
            gaps = [
                float(values[best[i]] - values[best[1 - i]])
                for i, values in enumerate((ours, theirs))
            ]
            apart = float(np.abs(ours - theirs)[best].max())
            return (
                f"token {step}: its best two are {gaps[0]:.4f} apart here and {gaps[1]:.4f} in "
                f"llama.cpp; the two differ by {apart:.4f} there"
            )
        ours = log_softmax(session.step(best[0]))
        theirs = log_softmax(peer.logits([best[0]], restart=False)[-1])
    return None


def main() -> None:
    """Runs the sections that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.compare_llama",
        description="sparsefire's numbers against llama.cpp's.",
    )
    sections = ("architectures", "perplexity", "greedy")
    parser.add_argument("sections", nargs="+", metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--files", nargs="+", type=Path, default=[], help="for `architectures`")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--tokens", type=int, default=64, help="of greedy text")
    parser.add_argument("--length", type=int, default=2048, help="tokens for the perplexity")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(sections)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}")
    for section in arguments.sections:
        if section == "architectures":
            architectures(arguments.files)
        elif section == "perplexity":
            perplexity(arguments.formats, arguments.length)
        else:
            greedy(arguments.formats, arguments.tokens)
        print()


if __name__ == "__main__":
    run_program(main)
