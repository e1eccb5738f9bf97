#!/usr/bin/env bash
# The whole pipeline in two minutes, for CI:  bash dev/miniature.sh
# A model is trained for 70 steps (a minute), frozen, fed a timeline it has never seen, and must answer better with its memory than without.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
export NANOCHAT_BASE_DIR="$WORK"

"$PY" dev/gen_base_data.py --output-dir "$WORK/base" --shards 2 --lives-per-shard 60 --plain-shards 2 --seed 1 --question-share 0.5
"$PY" -m scripts.base_train --data-dir "$WORK/base" --tag mini --num-iterations 70 --matrix-lr 0.015 --warmdown 0.7 --eval-every 1000 --eval-segments 4
MODEL="base_checkpoints/mini"
"$PY" dev/gen_cairo_data.py --steps 200 --output "$WORK/cairo.txt"
"$PY" -m scripts.ingest --model-path "$MODEL" --data-path "$WORK/cairo.txt" --output-path "$WORK/state.pt"
"$PY" -m scripts.query --model-path "$MODEL" --state-path "$WORK/state.pt" --json -p "Where was the user at t=7?"
"$PY" -m scripts.memory_eval --model-path "$MODEL" --steps 200 --seeds 1 --questions 120 --control-questions 120 --json >"$WORK/cells.jsonl"
"$PY" - "$WORK/cells.jsonl" <<'PY'
import json, sys
exact = {cell["control"]: cell["exact"] for cell in map(json.loads, open(sys.argv[1]))}
print("exact match:", {k: round(v, 1) for k, v in exact.items()})
if exact["memory"] < exact["none"] + 10 or exact["memory"] < exact["shuffled"] + 10:
    sys.exit("error: memory does not beat its controls by 10 points")
PY
echo "miniature: ok"
