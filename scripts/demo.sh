#!/usr/bin/env bash
# Talk to the shipped checkpoint: a picture, a video, a tool, streamed answers.
#   scripts/demo.sh                        starts a server if none answers on port 8180
#   scripts/demo.sh --url http://host:80   asks another one
#   scripts/demo.sh --record docs/demo.txt also writes the conversation down
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup_env.sh" serve
exec "${ERNIE_VENV:-$root/.venv}/bin/python" "$root/scripts/demo.py" "$@"
