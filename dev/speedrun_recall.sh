#!/usr/bin/env bash
# The recall speedrun, rules and records in dev/LEADERBOARD.md:  bash dev/speedrun_recall.sh
# A model is trained on plain lives on two cores, frozen, and asked 300 questions about a timeline of 10,000 steps that it has never seen.
# SECONDS_OF_TRAINING (default 1500), SEED (default 0), TAG (default speedrun).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt
cd "$ROOT"
export OMP_NUM_THREADS=2
TAG="${TAG:-speedrun}"
RUN="${NANOCHAT_BASE_DIR:-$ROOT}/base_checkpoints/$TAG"
[ ! -e "$RUN" ] || fail "$RUN is there already: remove it, or choose another TAG"

"$PY" dev/gen_base_data.py --output-dir "$RUN/lives" --shards 8 --plain-shards 8 --lives-per-shard 250 --seed 31 --question-share 0.5
"$PY" -m scripts.base_train --data-dir "$RUN/lives" --tag "$TAG" --seed "${SEED:-0}" --time-budget "${SECONDS_OF_TRAINING:-1500}" \
    --matrix-lr 0.015 --warmdown 0.7 --eval-every 0
"$PY" -m scripts.memory_eval --model-path "$RUN" --task timeline --steps 10000 --seeds 1 --questions 300 --json >"$RUN/timeline.jsonl"
"$PY" - "$RUN" <<'PY'
import json, sys
rows = lambda name: [json.loads(line) for line in open(f"{sys.argv[1]}/{name}")]
metrics, exact = rows("metrics.jsonl"), {row["control"]: row["exact"] for row in rows("timeline.jsonl")}
steps = [m for m in metrics if m["kind"] == "step"]
run = metrics[0]["run"]
print(f"{steps[-1]['elapsed']:.0f} s of training, {steps[-1]['step']} steps | exact match {exact['memory']:.1f} %, without memory {exact['none']:.1f} %, traces shuffled {exact['shuffled']:.1f} % | "
      f"{run['threads']} threads of {run['cpu']}, commit {run['git_commit'][:7]}")
if exact["memory"] < 95:
    sys.exit("error: that is no record, 95 % are asked for")
PY
