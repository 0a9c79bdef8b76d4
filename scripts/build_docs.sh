#!/usr/bin/env bash
# Builds the API reference, by default into build/docs, from the docstrings; a warning is an error.
#   pip install '.[docs]' && scripts/build_docs.sh [DIRECTORY]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; fi
# What `import sparsefire` offers, then the modules of what its functions take and return.
modules=(sparsefire)
for module in errors weights.activation weights.formats weights.matrix weights.quantized text.tokenizer text.vocabulary ffn.layer \
  ffn.cache ffn.sparsity lm.neurons lm.chat lm.sampling lm.stats calibrate.predictors calibrate.cutoffs calibrate.inputs calibrate.report \
  calibrate.combined calibrate.combination \
  files.inspect files.quantize files.convert.checkpoint bench.ffn bench.cache \
  batch.workers batch.processor batch.settings batch.llm batch.job batch.shards batch.udfs; do
  modules+=("sparsefire.$module")
done
exec "$python" -W error -m pdoc --output-directory "${1:-$root/build/docs}" "${modules[@]}"
