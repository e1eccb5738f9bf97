#!/usr/bin/env bash
# From a fresh clone to green tests:  bash dev/test.sh [pytest arguments]
# PYTHON=... chooses the interpreter (3.10 to 3.13), VENV=... the place of the virtual environment.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv requirements.txt requirements-dev.txt
cd "$ROOT"
export OMP_NUM_THREADS=1   # a process a core
exec "$PY" -m pytest -n auto --maxprocesses 4 "$@"
