#!/usr/bin/env bash
# A model of the shipped kind from nothing, on two CPU cores (how those weights came about says data/then-d4/model.json):  bash dev/pretrain_cpu.sh
# PROSE=file.jsonl ({"text": ...} a line) is mixed into a third of the lives as noise; without it the base is synthetic alone.
# SECONDS_OF_TRAINING (default 6000) from random weights, FURTHER (default 1170) on other lives at half the rates, and the mean of both, which does better than either.
# TAG (default then-d4), DATA (default data/base), SEED (default 0).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
DATA="${DATA:-data/base}"
TAG="${TAG:-then-d4}"
generate() {  # directory and flags; what is there already stays
    ls "$1"/*.parquet >/dev/null 2>&1 || "$PY" dev/gen_base_data.py --output-dir "$@" --lives-per-shard 250 --question-share 0.5 ${PROSE:+--prose "$PROSE" --prose-lives 0.35}
}
train() {
    "$PY" -m scripts.base_train --model-class THENGPT --depth 4 --seed "${SEED:-0}" --matrix-lr 0.015 --eval-every 500 --save-every 500 "$@"
}
generate "$DATA" --shards 40 --plain-shards 3 --seed 101
generate "$DATA-further" --shards 14 --seed 111
# glibc gives large tensors back to the system and gets them again, page by page: a step takes about a tenth less if it keeps them
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
train --data-dir "$DATA" --tag "$TAG" --time-budget "${SECONDS_OF_TRAINING:-6000}" --warmdown 0.7
train --data-dir "$DATA-further" --tag "$TAG-further" --init-from "base_checkpoints/$TAG" --time-budget "${FURTHER:-1170}" --lr-scale 0.5 --warmdown 0.95
"$PY" -m scripts.export_model --model-path "base_checkpoints/$TAG-further" --average "base_checkpoints/$TAG" --output-path data/then-d4 \
    --set recall_topk=64 --set recall_candidates=128
