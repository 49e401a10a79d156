#!/usr/bin/env bash
# Make or refresh .venv with the pinned packages: setup_env.sh serve | test
# `test` also makes .venv-conformance, where other people's clients live with what they need
# (setup_env.sh conformance makes that alone), and installs their Node client where npm is.
# Does nothing when an environment already holds what the requirement files ask for.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kind=${1:-serve}
venv=${ERNIE_VENV:-$root/.venv}
hashed=$root/scripts/requirements/serve.txt
files=("$hashed")
case $kind in
    serve) ;;
    test) files+=("$root/scripts/requirements/test.txt") ;;
    conformance)
        venv=${ERNIE_CONFORMANCE_VENV:-$root/.venv-conformance}
        hashed=$root/scripts/requirements/conformance.txt
        files=("$hashed")
        ;;
    *) echo "setup_env.sh: unknown kind '$kind'; use serve, test or conformance" >&2; exit 2 ;;
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

checksum() {
    cat "$@" | sha256sum | cut -d' ' -f1
}

is_fresh() { # STAMP CHECKSUM
    [ "$(cat "$1" 2>/dev/null)" = "$2" ]
}

make_environment() {
    local stamp=$venv/.requirements-$kind want python
    want=$(checksum "${files[@]}")
    if [ -x "$venv/bin/python" ] && is_fresh "$stamp" "$want"; then
        return
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
    # The clients are large and little of them is imported: bytecode comes as it is needed.
    local compile=()
    [ "$kind" != conformance ] || compile=(--no-compile)
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${compile[@]}" \
        --require-hashes -r "$hashed"
    if [ "$kind" = test ]; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "${files[1]}"
    fi
    echo "$want" >"$stamp"
}

install_node_client() {
    local folder=$root/tests/conformance/node want
    command -v npm >/dev/null || return 0
    want=$(checksum "$folder/package.json" "$folder/package-lock.json")
    if ! is_fresh "$folder/node_modules/.requirements" "$want"; then
        npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel error >/dev/null
        echo "$want" >"$folder/node_modules/.requirements"
    fi
}

if [ "$kind" = test ]; then
    "${BASH_SOURCE[0]}" conformance &
    clients=$!
fi
make_environment
case $kind in
    test) wait "$clients" ;;
    conformance) install_node_client ;;
esac
