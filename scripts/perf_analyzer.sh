#!/usr/bin/env bash
# Triton's perf_analyzer against a running ernie_chat. Arguments go to perf_analyzer.
#   scripts/perf_analyzer.sh -u 127.0.0.1:8001                          8 at a time, 50 requests
#   scripts/perf_analyzer.sh -u 127.0.0.1:8001 --concurrency-range 16
#   scripts/perf_analyzer.sh -u 127.0.0.1:8001 --input-data mine.json   {"data": [{"REQUEST": ["{...}"]}]}
# The binary is the one in the wheel of tritonclient 2.51.0, the last that runs on Debian 12; it is
# fetched once into ERNIE_CACHE (default ~/.cache/ernie-triton). Latency in its table is that of
# the first response; response throughput counts EVENTs, which carry several tokens under load.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${ERNIE_VENV:-$root/.venv}/bin/python
cache=${ERNIE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/ernie-triton}/perf_analyzer-2.51.0

if [ ! -x "$cache/perf_analyzer" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$python" -m pip download --quiet --no-deps --dest "$work" tritonclient==2.51.0
    "$python" - "$work" <<'PYTHON'
import sys, zipfile
from pathlib import Path

import pytriton

work = Path(sys.argv[1])
[wheel] = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    name = "tritonclient-2.51.0.data/data/bin/perf_analyzer"
    (work / "perf_analyzer").write_bytes(archive.read(name))
(work / "perf_analyzer").chmod(0o755)
wheel.unlink()
# It wants two libraries that the nvidia-pytriton wheel carries under names with a hash.
libraries = Path(pytriton.__file__).parents[1] / "nvidia_pytriton.libs"
for wanted, pattern in (("libb64.so.0d", "libb64-*.so.0d"), ("libcudart.so.12", "libcudart-*.so.12*")):
    [library] = libraries.glob(pattern)
    (work / wanted).symlink_to(library)
PYTHON
    mkdir -p "$cache"
    mv -f "$work"/* "$cache"
fi

defaults=()
has() { printf '%s\n' "${arguments[@]}" | grep -q -x -e "$1" -e "$1=.*"; }
arguments=("$@")
if ! has --input-data; then
    data=$cache/input.json
    printf '%s\n' '{"data": [{"REQUEST": ["{\"messages\": [{\"role\": \"user\", \"content\": \"Introduce yourself.\"}], \"max_tokens\": 64, \"stream\": true}"]}]}' >"$data"
    defaults+=(--input-data "$data")
fi
has --concurrency-range || has --request-rate-range || defaults+=(--concurrency-range 8)
has --request-count || has --measurement-mode ||
    defaults+=(--measurement-mode count_windows --measurement-request-count 50)
has --stability-percentage || defaults+=(--stability-percentage 999)
LD_LIBRARY_PATH=$cache${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$cache/perf_analyzer" \
    -m ernie_chat -i grpc --streaming --async "${defaults[@]}" "$@"
