#!/usr/bin/env bash
# Set-up and the whole test suite: format, lint, types, tests. Arguments go to pytest.
#   scripts/test.sh                      everything that can run here
#   scripts/test.sh tests/unit -k media  a part; skips the format, lint and type checks
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/setup_env.sh test
bin=${ERNIE_VENV:-$root/.venv}/bin
export PYTHONDONTWRITEBYTECODE=1
if [ $# -eq 0 ]; then
    "$bin/ruff" format --check .
    "$bin/ruff" check .
    "$bin/mypy"
fi
exec "$bin/python" -m pytest -m "not soak" "$@"
