"""lm-evaluation-harness itself, where it is installed, runs a local task on the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch_workers import write_lines
from sparsefire.batch import Scorer, close_models

pytest.importorskip("lm_eval", reason="pip install 'sparsefire[lm-eval]'")

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


def test_a_local_task(tmp_path: Path) -> None:
    """As hellaswag: the likeliest of several endings; how often it is the right one is what a
    `Scorer` says."""
    (tmp_path / "endings.yaml").write_text(TASK)
    documents = [{"ctx": c, "endings": e, "label": k} for c, e, k in DOCUMENTS]
    write_lines(tmp_path / "endings.jsonl", documents)
    command = [sys.executable, "-m", "sparsefire.lm_eval", "--model", "sparsefire"]
    command += ["--model_args", "threads=1,mode=sparse", "--tasks", "endings"]
    command += ["--include_path", ".", "--output_path", "results"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment = {**os.environ, **offline}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("results/**/results_*.json")
    found = json.loads(report.read_text())["results"]["endings"]["acc,none"]
    score = Scorer(threads=1, mode="sparse")
    right = 0
    for context, endings, label in DOCUMENTS:
        rows = score([{"context": context, "continuation": each} for each in endings])
        sums = [row["logprob"] for row in rows]
        right += sums.index(max(sums)) == label
    assert 0 < right < len(DOCUMENTS)
    assert found == pytest.approx(right / len(DOCUMENTS))
    close_models()
