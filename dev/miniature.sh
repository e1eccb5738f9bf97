#!/usr/bin/env bash
# The whole pipeline in some minutes, for CI:  bash dev/miniature.sh
# A small model is trained on synthetic memories, frozen, fed logs it has never seen, and must answer better with its
# memory than without.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
export NANOCHAT_BASE_DIR="$WORK"

"$PY" dev/grammar.py --seed 1 --memories 2500 --kinds own --output "$WORK/questions.jsonl"
"$PY" - "$WORK" <<'PY'
import json, sys
with open(sys.argv[1] + "/prose.txt", "w", encoding="utf-8") as file:
    for line in open(sys.argv[1] + "/questions.jsonl", encoding="utf-8"):
        file.write("\n".join(json.loads(line)["sents"]) + "\n\n")
PY
"$PY" dev/repackage_data_reference.py --input "$WORK/prose.txt" --output "$WORK/base"
mv "$WORK/questions.jsonl" "$WORK/base/"
"$PY" -m scripts.base_train --data-dir "$WORK/base" --tag mini --num-iterations 300 --depth 4 \
    --set n_embd=128 --set n_head=2 --set n_kv_head=2 \
    --device-batch-size 2 --max-seq-len 128 --tbptt-segments 1 --window-tokens 2048 \
    --eval-every 1000 --eval-questions 100 \
    --matrix-lr 0.01 --embedding-lr 0.004 --head-lr 0.0008 --warmdown 0.7
"$PY" - "$WORK/base_checkpoints/mini/metrics.jsonl" <<'PY'
import json, sys
got = [row for row in map(json.loads, open(sys.argv[1])) if row["kind"] == "eval"][-1]
print("held-out questions:", got)
if got["right"] < got["right_empty"] + 10:
    sys.exit("error: with memory no 10 points more are right than without")
PY
MODEL="base_checkpoints/mini"
"$PY" dev/gen_cairo_data.py --steps 200 --output "$WORK/cairo.txt"
"$PY" -m scripts.ingest --model-path "$MODEL" --data-path "$WORK/cairo.txt" --output-path "$WORK/state.pt"
"$PY" -m scripts.query --model-path "$MODEL" --state-path "$WORK/state.pt" --json -p "Where was the user at t=7?"
"$PY" -m scripts.memory_eval --model-path "$MODEL" --steps 200 --seeds 1 --questions 20 --control-questions 10 --json
echo "miniature: ok"
