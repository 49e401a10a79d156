#!/usr/bin/env bash
# Serve a checkpoint; flags are those of `python -m openai_frontend.api_server` (docs/flags.md).
#   scripts/serve.sh                                   the bundled small checkpoint, port 8180
#   scripts/serve.sh --model /data/ERNIE-4.5-VL-28B-A3B-Paddle --max-model-len 32768
# The first run makes .venv and installs the pinned packages. Ctrl-C stops everything.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup_env.sh" serve
# Where the command is given from may hold folders that flags name: stay there.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${ERNIE_VENV:-$root/.venv}/bin/python" -m openai_frontend.api_server "$@"
