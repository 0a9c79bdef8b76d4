"""Does `sparsefire convert` keep ids and logits of models with published tokenisers? Each folder
holds a tokenizer.json, and perhaps a tokenizer_config.json; beside it `transformers` makes a small
random model of the family that is named, which is converted.

    python -m bench.studies.checkpoints llama=FOLDER qwen3=FOLDER deepseek_v3=FOLDER …

Needs `torch` and `transformers`. `bench/README.md` says where such files come from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

import sparsefire as sf
from sparsefire.files.convert.checkpoint import convert_checkpoint

LARGEST_ERROR = 1e-6  # normalised mean squared error of the logits, or of an encoder's vectors
TEXTS = (
    "The people of the United States, in 1789, weren't sure; they'll see.",
    "  leading, trailing  \n\n\t tabs\r\nand\rlines \n ",
    "def f(x: int) -> str:\n    return f'{x:>10}'  # 100%\n\n\nprint(f(12345678))\n",
    "Ünïcödé naïve café Straße ĳ ǅ İstanbul ﬁ",
    "日本語のテキスト、中文文本和한국어 텍스트。 Привет, мир! שלום עולם مرحبا नमस्ते สวัสดี",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 emoji",
    "١٢٣ ४५६ Ⅷ ½ ² 一二三 3.14159 1,000,000",
    "\x00\x01\x1b[0m\x7f\x85\xa0\u2028\u200b\ufeff e\u0301\u0301 \U0010ffff \ue000 \ufffd",
    "I'M WE'LL he'D 'ſ don’t ''s 's't",
    "a" * 300 + "\n" * 30 + " " * 31 + "x" + "!?" * 50,
)
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 24}
_OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 3},
    "qwen2_moe": {**_EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 40},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 16},
    "deepseek_v3": {
        **_EXPERTS,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": True,
    },
}


def main() -> int:
    """Compares what the command line names; 1 when ids or logits differ."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.checkpoints",
        description="Does `sparsefire convert` keep ids and logits?",
    )
    what = "a model_type of transformers, and a folder with its tokenizer.json"
    parser.add_argument("pairs", nargs="+", metavar="FAMILY=FOLDER", help=what)
    arguments = parser.parse_args()
    print("| tokeniser | model | tokens | kind | texts | NMSE | |\n|---|---|---|---|---|---|---|")
    wrong = 0
    for pair in arguments.pairs:
        family, _, folder = pair.partition("=")
        with tempfile.TemporaryDirectory() as made:
            row, right = _compare(family, Path(folder), Path(made))
        print(row, flush=True)
        wrong += not right
    return int(wrong > 0)


def _compare(family: str, source: Path, folder: Path) -> tuple[str, bool]:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    theirs = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    vocabulary = max(theirs.get_vocab(with_added_tokens=True).values()) + 6
    tokens = np.array([(37 * i + 11) % vocabulary for i in range(60)])
    expected = _reference(family, vocabulary, folder, tokens)
    try:
        convert_checkpoint(folder, folder / "out.gguf")
    except sf.SparsefireError as refusal:
        reason = str(refusal).replace("|", "\\|")
        return f"| {source.name} | {family} | {vocabulary:,} | | | | refused: {reason} |", False
    with sf.Model.load(folder / "out.gguf") as model:
        # Without tokens at the ends: what tokenizer_config.json says of these, the package ignores.
        same = sum(
            model.tokenizer.encode(text, add_bos=False, add_eos=False)
            == theirs.encode(text, add_special_tokens=False).ids
            for text in TEXTS
        )
        output = model.config.kind.output
        found = model.logits(tokens) if output else model.hidden_states(tokens)
        kind = repr(model.tokenizer)
    error = float(((found - expected) ** 2).sum() / (expected**2).sum())
    right = same == len(TEXTS) and error < LARGEST_ERROR
    counts = f"{vocabulary:,} | {kind} | {same} of {len(TEXTS)} | {error:.1e}"
    return f"| {source.name} | {family} | {counts} | {'ok' if right else 'different'} |", right


def _reference(family: str, vocabulary: int, folder: Path, tokens: Any) -> Any:
    """What transformers computes of a random model, which it writes to the folder."""
    import torch
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(1)
    sizes = {**_SIZES, **_OWN.get(family, {}), "vocab_size": vocabulary}
    config = transformers.AutoConfig.for_model(family, **sizes)
    classes: tuple[Any, ...] = (transformers.AutoModelForCausalLM, transformers.AutoModel)
    encodes = family in ("bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert")
    model = classes[encodes].from_config(config, dtype=torch.float32).eval()
    for name, values in model.named_parameters():
        if values.ndim > 1:
            torch.nn.init.normal_(values, std=0.3 if "embed" in name else values.shape[-1] ** -0.5)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        model.save_pretrained(folder)
    with torch.no_grad():
        answer = model(torch.tensor(tokens[None]))
    values = answer.last_hidden_state if encodes else answer.logits
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    return values[0].numpy().astype(np.float64)


if __name__ == "__main__":
    sys.exit(main())
