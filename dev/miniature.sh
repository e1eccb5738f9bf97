#!/usr/bin/env bash
# The whole pipeline in some minutes, for CI:  bash dev/miniature.sh
# A small model is trained on synthetic memories, frozen, fed logs it has never seen, and must answer better with its memory than without.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
export NANOCHAT_BASE_DIR="$WORK"

"$PY" dev/grammar.py --seed 1 --memories 3000 --kinds log --lines 12 --output "$WORK/grammar.jsonl"
"$PY" - "$WORK" <<'PY'
import json, sys
with open(sys.argv[1] + "/prose.txt", "w", encoding="utf-8") as file:
    for line in open(sys.argv[1] + "/grammar.jsonl", encoding="utf-8"):
        file.write("\n".join(json.loads(line)["sents"]) + "\n\n")
PY
"$PY" dev/repackage_data_reference.py --input "$WORK/prose.txt" --output "$WORK/base"
mv "$WORK/grammar.jsonl" "$WORK/base/"
"$PY" -m scripts.base_train --data-dir "$WORK/base" --tag mini --num-iterations 300 --depth 4 --set n_embd=128 --set n_head=2 --set n_kv_head=2 \
    --device-batch-size 2 --max-seq-len 128 --tbptt-segments 1 --window-tokens 4096 --cloze-share 0 --eval-every 1000 --eval-questions 60 \
    --matrix-lr 0.02 --embedding-lr 0.02 --head-lr 0.001 --warmdown 0.7
MODEL="base_checkpoints/mini"
