"""Do the vocabularies of llama.cpp's tests give its tokens? In the folder `models` of its sources
are vocabularies, most with texts (`.inp`) and their tokens (`.out`).

    python -m bench.studies.vocabularies LLAMA_CPP/models
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import sparsefire as sf
from sparsefire.gguf.reader import GgufFile
from sparsefire.text.tokenizer import Tokenizer

_BETWEEN = "\n__ggml_vocab_test__\n"


def main() -> int:
    """Prints a line for each vocabulary; 1 when one is refused or gives other tokens."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.vocabularies",
        description="Do the vocabularies of llama.cpp's tests give its tokens?",
    )
    parser.add_argument("folder", type=Path, metavar="MODELS", help="of llama.cpp's sources")
    paths = sorted(parser.parse_args().folder.glob("ggml-vocab-*.gguf"))
    if not paths:
        parser.error("the folder has no ggml-vocab-*.gguf")
    print("| vocabulary | kind | cases that are right |\n|---|---|---|")
    right = [_checked(path) for path in paths]
    print(f"\n{sum(right)} of {len(right)} right")
    return int(not all(right))


def _checked(path: Path) -> bool:
    """Whether all cases are right, and if there are none, whether the vocabulary is read."""
    name = path.stem.removeprefix("ggml-vocab-")
    try:
        with GgufFile.open(path) as file:
            tokenizer = Tokenizer.from_metadata(file.metadata)
    except sf.SparsefireError as refusal:
        print(f"| {name} | refused: {refusal} | |")
        return False
    cases = _cases(path)
    good = sum(
        tokenizer.encode(text, add_bos=False, add_eos=False, special=False) == ids
        for text, ids in cases
    )
    print(f"| {name} | {tokenizer.kind} | {f'{good} of {len(cases)}' if cases else 'none'} |")
    return good == len(cases)


def _cases(path: Path) -> list[tuple[str, list[int]]]:
    texts, tokens = (Path(f"{path}.{ending}") for ending in ("inp", "out"))
    if not texts.exists():
        return []
    ids = [[int(each) for each in line.split()] for line in tokens.read_text().splitlines()]
    text = texts.read_bytes().decode().removesuffix(_BETWEEN)
    return list(zip(text.split(_BETWEEN), ids, strict=True))


if __name__ == "__main__":
    sys.exit(main())
