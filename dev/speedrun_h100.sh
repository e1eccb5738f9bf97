#!/usr/bin/env bash
# The three phases on a box with H100s, or any NVIDIA GPUs:  bash dev/speedrun_h100.sh
# Environment, data, pretraining on all GPUs, the Cairo timeline ingested, the recall score. Not yet run on a GPU. What is done is not done again: started
# anew after an interruption (a spot instance), it goes on where it was.
#
# DEPTH (8), GPUS (all there are), STREAMS (64: --device-batch-size; 24 GB: 16, 12 GB: 8), BATCH (524288 tokens a step, rounded to what streams and GPUs
# divide), PROSE_SHARDS (3 of FineWeb-Edu, 0: none), LIFE_SHARDS (27) of LIVES (1000), the first PLAIN_SHARDS (4) of them plain ones, DATA (data/base),
# TAG (d8), WANDB_PROJECT (none), FLAGS (more of base_train's, like "--fp8" or "--num-iterations 2000")
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
    "$PY" dev/gen_base_data.py --output-dir "$NEW/synthetic" --shards "${LIFE_SHARDS:-27}" --lives-per-shard "${LIVES:-1000}" \
        --plain-shards "${PLAIN_SHARDS:-4}" --seed 0 --question-share 0.5
    if [ "$PROSE_SHARDS" -gt 0 ]; then
        "$PY" -m nanochat.dataset -n "$PROSE_SHARDS"
        PROSE=()
        for n in $(seq -f %05g 0 $((PROSE_SHARDS - 1))); do PROSE+=("data/fineweb/shard_$n.parquet"); done
        "$PY" dev/repackage_data_reference.py --input "${PROSE[@]}" --output "$NEW/prose" --docs-per-shard 5000 --val-fraction 0
    fi
    # prose and lives take turns by name, and the last shard, which is held out, holds lives
    n=0
    for life in "$NEW"/synthetic/*.parquet; do
        prose="$(printf "prose/shard_%05d.parquet" "$n")"
        [ ! -e "$NEW/$prose" ] || ln -s "$prose" "$NEW/$(printf %05d "$n")_1_prose.parquet"
        ln -s "synthetic/$(basename "$life")" "$NEW/$(printf %05d "$n")_2_synthetic.parquet"
        n=$((n + 1))
    done
    mv "$NEW" "$DATA"
fi

echo "== pretrain"
TRAIN=("$PY" -m scripts.base_train)
[ "$GPUS" -le 1 ] || TRAIN=("$PY" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" -m scripts.base_train)
"${TRAIN[@]}" --model-class THENGPT --depth "$DEPTH" --data-dir "$DATA" --tag "$TAG" --device-batch-size "$STREAMS" \
    --total-batch-size $((WINDOW * (ACCUMULATE > 1 ? ACCUMULATE : 1))) --save-every 100 --keep 3 --resume latest \
    ${WANDB_PROJECT:+--wandb-project "$WANDB_PROJECT" --run-name "$TAG"} ${FLAGS:-}

echo "== ingest"
"$PY" dev/gen_cairo_data.py
"$PY" -m scripts.ingest --model-path "base_checkpoints/$TAG" --data-path data/synthetic-cairo-episodes.txt --output-path cairo_memory_state.pt

echo "== query"
"$PY" -m scripts.query --model-path "base_checkpoints/$TAG" --state-path cairo_memory_state.pt -p "What did the user prefer at t=7?"
"$PY" -m scripts.memory_eval --model-path "base_checkpoints/$TAG" --seeds 1 --questions 300 --control-questions 60
