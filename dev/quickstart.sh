#!/usr/bin/env bash
# From a fresh clone to answers:  bash dev/quickstart.sh
# Environment, the Cairo timeline (10,000 steps the model has never seen), ingest into a state, ten questions, the
# recall score.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
MODEL=data/then-d6
STATE=cairo_memory_state.pt
began=$SECONDS
echo "== the timeline"
"$PY" dev/gen_cairo_data.py
echo "== ingest: the model is frozen, the text becomes traces"
"$PY" -m scripts.ingest --model_path "$MODEL" --data_path data/synthetic-cairo-episodes.txt --output_path "$STATE" \
    --replace --no-export
echo "== ten questions about the timeline, ten about notes of everyday life"
"$PY" dev/ask_ten.py --model_path "$MODEL" --state_path "$STATE"
echo "== recall score: 300 questions, and the controls that must fail"
"$PY" -m scripts.memory_eval --model_path "$MODEL" --seeds 1 --questions 300 --control-questions 60
echo "done in $((SECONDS - began)) s after installation. Ask yourself:"
echo "    $PY -m scripts.query --model_path $MODEL --state_path $STATE"
