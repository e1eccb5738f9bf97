# The virtual environment of this repository, for bash scripts:  source dev/venv.sh; use_venv REQUIREMENTS_FILE...
#
# Sets ROOT (the repository) and makes PY the python of a virtual environment in which the requirements are installed.
# Takes seconds when nothing changed. PYTHON=... chooses the interpreter, VENV=... the place (default .venv).

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac  # the scripts change directory

fail() {
    echo "error: $*" >&2
    exit 1
}

# prints X.Y if $1 runs and is a version that torch has wheels for
supported_version() {
    "$1" -c 'import sys
v = sys.version_info[:2]
print("%d.%d" % v)
sys.exit(not (3, 10) <= v <= (3, 13))' 2>/dev/null
}

# prints the interpreter to build from
find_python() {
    local candidate version
    if [ -n "${PYTHON:-}" ]; then
        version="$(supported_version "$PYTHON")" ||
            fail "PYTHON=$PYTHON is ${version:+Python $version, }not a Python 3.10 to 3.13"
        echo "$PYTHON"
        return
    fi
    # a name can be on the path and still not run (version managers), hence the call
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if supported_version "$candidate" >/dev/null; then
            echo "$candidate"
            return
        fi
    done
    version="$(supported_version python3)" || true
    fail "Python 3.10 to 3.13 is needed (python3 is ${version:-not there}); install one, or set PYTHON=/path/to/python"
}

# builds $VENV with the interpreter $1
create_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 cannot make virtual environments (no ensurepip; on Debian and Ubuntu: apt install python3-venv)," \
            "or set PYTHON=/path/to/another/python"
    echo "creating $VENV with $("$1" --version)" >&2
    "$1" -m venv --clear "$VENV" || fail "$1 -m venv failed"
}

# prints a digest of the file $1 and of the environment's Python
stamp_of() {
    "$PY" -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read() + sys.version.encode()).hexdigest())' "$1"
}

# On Linux, PyPI's torch brings some GB of CUDA libraries. Without an NVIDIA GPU the build without them is taken, where
# PyTorch's own index can be reached; otherwise the general installation that follows gets the one from PyPI.
install_cpu_torch() {
    [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null || return 0
    "$PY" -m pip install --quiet --disable-pip-version-check --retries 0 --timeout 15 \
        --extra-index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' "$ROOT/requirements.txt")" >&2 || true
}

use_venv() {
    local file python options=() stale=()
    PY="$VENV/bin/python"
    # an unfinished or broken environment has no pip, one of an unsupported Python is of no use
    if ! { supported_version "$PY" && "$PY" -m pip --version; } >/dev/null 2>&1; then
        python="$(find_python)" || exit 1
        create_venv "$python"
    elif [ -n "${PYTHON:-}" ]; then
        python="$(find_python)" || exit 1
        [ "$(supported_version "$python")" = "$(supported_version "$PY")" ] || create_venv "$python"
    fi
    for file in "$@"; do
        [ "$(cat "$VENV/.installed-$file" 2>/dev/null)" = "$(stamp_of "$ROOT/$file")" ] || stale+=("$file")
    done
    [ ${#stale[@]} -gt 0 ] || return 0
    echo "installing ${stale[*]} (torch is large: this can take some minutes)" >&2
    case " ${stale[*]} " in *" requirements.txt "*) install_cpu_torch ;; esac
    for file in "${stale[@]}"; do
        options+=(-r "$ROOT/$file")
    done
    "$PY" -m pip install --quiet --disable-pip-version-check "${options[@]}" >&2 ||
        fail "pip could not install ${stale[*]} (see above)"
    for file in "${stale[@]}"; do
        stamp_of "$ROOT/$file" >"$VENV/.installed-$file"
    done
}
