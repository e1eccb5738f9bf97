#!/usr/bin/env bash
# The three phases on a box with H100s, or any NVIDIA GPUs:  bash dev/speedrun_h100.sh
# Environment, data, pretraining on all GPUs, the Cairo timeline ingested, the recall score. Not yet run on a GPU. What
# is done is not done again: started anew after an interruption (a spot instance), it goes on where it was.
#
#   DEPTH         8
#   GPUS          all there are
#   STREAMS       64, --device-batch-size; 24 GB: 16, 12 GB: 8
#   BATCH         524288 tokens a step, rounded to what streams and GPUs divide
#   PROSE_SHARDS  3 of FineWeb-Edu
#   MEMORIES      20000 of the grammar
#   QUESTIONS     files of people's questions (form: nanochat/reading_data.py), several in one string; none
#   DATA          data/base; TAG (d8), WANDB_PROJECT (none), FLAGS (more of base_train's, like "--fp8")
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
DEPTH="${DEPTH:-8}"
GPUS="${GPUS:-$("$PY" -c 'import torch; print(torch.cuda.device_count())')}"
DATA="${DATA:-data/base}"
TAG="${TAG:-d$DEPTH}"
PROSE_SHARDS="${PROSE_SHARDS:-3}"
STREAMS="${STREAMS:-64}"
WINDOW=$((STREAMS * 512 * 2 * (GPUS > 1 ? GPUS : 1)))   # --max-seq-len x --tbptt-segments
ACCUMULATE=$(((${BATCH:-524288} + WINDOW / 2) / WINDOW))

echo "== data"
if [ ! -e "$DATA" ]; then
    NEW="$DATA.new"   # it gets its name when it is whole
    rm -rf "$NEW"
    "$PY" -m nanochat.dataset -n "$PROSE_SHARDS"
    PROSE=()
    for n in $(seq -f %05g 0 $((PROSE_SHARDS - 1))); do PROSE+=("data/fineweb/shard_$n.parquet"); done
    "$PY" dev/repackage_data_reference.py --input "${PROSE[@]}" --output "$NEW"
    "$PY" dev/grammar.py --memories "${MEMORIES:-20000}" --output "$NEW/grammar.jsonl"
    for file in ${QUESTIONS:-}; do cp "$file" "$NEW/"; done
    mv "$NEW" "$DATA"
fi

trap 'exit 130' INT TERM   # a run that is stopped saves, and ends as if it were done
echo "== pretrain"
TRAIN=("$PY" -m scripts.base_train)
[ "$GPUS" -le 1 ] || TRAIN=("$PY" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" -m scripts.base_train)
"${TRAIN[@]}" --model-class THENGPT --depth "$DEPTH" --data-dir "$DATA" --tag "$TAG" --device-batch-size "$STREAMS" \
    --total-batch-size $((WINDOW * (ACCUMULATE > 1 ? ACCUMULATE : 1))) --save-every 100 --keep 3 --resume latest \
    ${WANDB_PROJECT:+--wandb-project "$WANDB_PROJECT" --run-name "$TAG"} ${FLAGS:-}

echo "== ingest"
"$PY" dev/gen_cairo_data.py
"$PY" -m scripts.ingest --model-path "base_checkpoints/$TAG" --data-path data/synthetic-cairo-episodes.txt \
    --output-path cairo_memory_state.pt --replace

echo "== query"
"$PY" -m scripts.query --model-path "base_checkpoints/$TAG" --state-path cairo_memory_state.pt \
    -p "What did the user prefer at t=7?"
"$PY" -m scripts.memory_eval --model-path "base_checkpoints/$TAG" --seeds 1 --questions 300 --control-questions 60
