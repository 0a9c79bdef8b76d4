"""Runs lm-evaluation-harness itself on a local task, as hellaswag: the likeliest of several
endings. How often it is the right one is what a `Scorer` says.

    pip install '.[lm-eval]' && python -m bench.studies.harness
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sparsefire.batch import Scorer, close_models

TASK = """
task: endings
dataset_path: json
dataset_kwargs: {data_files: {validation: endings.jsonl}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{ctx}}"
doc_to_target: "{{label}}"
doc_to_choice: endings
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
DOCUMENTS = [
    ("The people of the United", [" kettle", " States of America", " of"], 1),
    ("The Congress of the United", [" States has", " piano", " seven"], 0),
    ("War and", [" kettle", " of the", " banana peace"], 2),
]


def main() -> None:
    """Prints both shares, and fails when they differ."""
    argparse.ArgumentParser(
        prog="python -m bench.studies.harness",
        description="Does lm-evaluation-harness find what a Scorer finds?",
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = _share_by_harness(Path(folder))
    ours = _share_by_scorer()
    print(f"right by the harness {theirs:.3f}, by a Scorer {ours:.3f}")
    if abs(theirs - ours) > 1e-6 or not 0 < ours < 1:
        sys.exit("the harness was not answered right")


def _share_by_harness(folder: Path) -> float:
    (folder / "endings.yaml").write_text(TASK)
    rows = [json.dumps({"ctx": c, "endings": e, "label": k}) for c, e, k in DOCUMENTS]
    (folder / "endings.jsonl").write_text("\n".join(rows) + "\n")
    command = [sys.executable, "-m", "sparsefire.lm_eval", "--model", "sparsefire"]
    command += ["--model_args", "threads=1,mode=sparse", "--tasks", "endings"]
    command += ["--include_path", ".", "--output_path", "results"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **offline}, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    (report,) = folder.glob("results/**/results_*.json")
    return float(json.loads(report.read_text())["results"]["endings"]["acc,none"])


def _share_by_scorer() -> float:
    score = Scorer(threads=1, mode="sparse")
    right = 0
    for context, endings, label in DOCUMENTS:
        rows = score([{"context": context, "continuation": each} for each in endings])
        sums = [row["logprob"] for row in rows]
        right += sums.index(max(sums)) == label
    close_models()
    return right / len(DOCUMENTS)


if __name__ == "__main__":
    main()
