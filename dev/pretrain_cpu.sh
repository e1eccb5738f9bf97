#!/usr/bin/env bash
# A model of the shipped kind from nothing, on two CPU cores (how those weights came about says data/then-d4/model.json):  bash dev/pretrain_cpu.sh
# PROSE=file.jsonl ({"text": ...} a line) is mixed into a third of the lives as noise; without it the base is synthetic alone.
# SECONDS_OF_TRAINING (default 6000), TAG (default then-d4), DATA (default data/base), SEED (default 0).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
DATA="${DATA:-data/base}"
TAG="${TAG:-then-d4}"
if ! ls "$DATA"/*.parquet >/dev/null 2>&1; then
    "$PY" dev/gen_base_data.py --output-dir "$DATA" --shards 40 --lives-per-shard 250 --plain-shards 3 --seed 101 --question-share 0.5 \
        ${PROSE:+--prose "$PROSE" --prose-lives 0.35}
fi
# glibc gives large tensors back to the system and gets them again, page by page: a step takes about a tenth less if it keeps them
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
"$PY" -m scripts.base_train --model-class THENGPT --depth 4 --data-dir "$DATA" --tag "$TAG" --seed "${SEED:-0}" \
    --time-budget "${SECONDS_OF_TRAINING:-6000}" --matrix-lr 0.015 --warmdown 0.7 --eval-every 500 --save-every 500
"$PY" -m scripts.export_model --model-path "base_checkpoints/$TAG" --output-path data/then-d4 \
    --set recall_topk=64 --set recall_candidates=128
