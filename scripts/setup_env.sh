#!/usr/bin/env bash
# Make or refresh .venv with the pinned packages: setup_env.sh serve | test
# Does nothing when the environment already holds what the requirement files ask for.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kind=${1:-serve}
venv=${ERNIE_VENV:-$root/.venv}
case $kind in
    serve) files=("$root/scripts/requirements/serve.txt") ;;
    test) files=("$root/scripts/requirements/serve.txt" "$root/scripts/requirements/test.txt") ;;
    *) echo "setup_env.sh: unknown kind '$kind'; use serve or test" >&2; exit 2 ;;
esac

find_python() {
    local candidate
    for candidate in ${ERNIE_PYTHON:-} python3 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup_env.sh: needs Python 3.10, 3.11 or 3.12 on PATH (or in ERNIE_PYTHON)" >&2
    exit 2
}

stamp=$venv/.requirements-$kind
want=$(cat "${files[@]}" | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    exit 0
fi
if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version 2>&1) ..." >&2
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "setup_env.sh: '$python -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 2
    fi
fi
echo "Installing pinned packages ($kind); the first time takes a minute or two ..." >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "${files[0]}"
if [ "$kind" = test ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "${files[1]}"
fi
echo "$want" >"$stamp"
