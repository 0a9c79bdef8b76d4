#!/usr/bin/env bash
# Builds the API reference, by default into build/docs, from the docstrings; a warning is an error.
#   pip install '.[docs]' && scripts/build_docs.sh [DIRECTORY]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; fi
# What `import sparsefire` offers (with it goes the module `devices`, which has the name of a function), then the modules
# of what its functions take and return.
modules=(sparsefire)
for module in activation bench bench_cache calibrate chat convert cutoff_calibration errors ffn inspect_model matrix \
  model_neurons neurons quant quantize sampling sparsity stats tokenizer vocabulary; do
  modules+=("sparsefire.$module")
done
exec "$python" -W error -m pdoc --output-directory "${1:-$root/build/docs}" "${modules[@]}"
