#!/usr/bin/env bash
# Build kernels/_kernels*.so for the Python in $PYTHON (default: .venv's, else python3).
#   scripts/build_kernels.sh                   nothing to do when sources and flags are unchanged
#   scripts/build_kernels.sh --resources       … and print each kernel's registers and spills
#   scripts/build_kernels.sh --arch "90a"      only Hopper; default "90a;80-virtual", where newer or
#                                              older devices compile the sm_80 code at start
#   scripts/build_kernels.sh --clean           forget earlier objects first
# Needs nvcc 12.8 or newer (on PATH, in $CUDACXX or in /usr/local/cuda), cmake >= 3.24, ninja, and
# the Python package pybind11 (scripts/requirements/kernels.txt).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archs="90a;80-virtual"
optimize=3
resources=OFF
clean=
jobs=
while [ $# -gt 0 ]; do
    case $1 in
        --resources) resources=ON ;;
        --arch) archs=${2:?--arch needs a value}; shift ;;
        --optimize) optimize=${2:?--optimize needs a value}; shift ;;
        --jobs) jobs=${2:?--jobs needs a value}; shift ;;
        --clean) clean=1 ;;
        *) echo "build_kernels.sh: unknown argument '$1'" >&2; exit 2 ;;
    esac
    shift
done

fail() { echo "build_kernels.sh: $1" >&2; exit 2; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=${ERNIE_VENV:-$root/.venv}/bin/python
    [ -x "$python" ] || python=python3
fi
python=$(command -v "$python") || fail "no Python '$python'"
nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
[ -x "$nvcc" ] || fail "nvcc was not found; install the CUDA toolkit (12.8 or newer) or set CUDACXX"
command -v cmake >/dev/null || fail "cmake was not found (3.24 or newer)"
command -v ninja >/dev/null || fail "ninja was not found"
pybind11=$("$python" -m pybind11 --cmakedir 2>/dev/null) ||
    fail "$python has no pybind11; $python -m pip install -r scripts/requirements/kernels.txt"

tag=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
build=$root/build/kernels$tag
mkdir -p "$build"
# One build at a time; a second one then finds its work done.
exec 9>"$build/lock"
if command -v flock >/dev/null; then flock 9; fi
target=$build/${archs//;/_}-O$optimize  # objects of other flags stay where they are
[ -z "$clean" ] || rm -rf "$target"

# What the result depends on, by content: times change with a checkout or a copied tree.
sums=$(cd "$root/kernels" &&
    find CMakeLists.txt src binding include -type f | LC_ALL=C sort | xargs sha256sum)
want=$({
    echo "$archs $optimize $python $pybind11 $tag"
    "$nvcc" --version
    echo "$sums"
} | sha256sum | cut -d' ' -f1)
output=$root/kernels/_kernels$tag
if [ -f "$output" ] && [ "$(cat "$build/built" 2>/dev/null)" = "$want" ] && [ $resources = OFF ]; then
    echo "$output is up to date"
    exit 0
fi

# Registers and spills appear only while a kernel compiles, so --resources compiles all of them.
if [ $resources = ON ]; then
    target=$target-resources
    rm -rf "$target"
fi
log=$target/build.log
mkdir -p "$target"
# ninja goes by times, so what has other contents than at the last build gets a new one.
if [ -f "$target/sums" ]; then
    echo "$sums" | { grep -vxFf "$target/sums" || true; } | while read -r _ file; do
        touch "$root/kernels/$file"
    done
fi
{
    cmake -S "$root/kernels" -B "$target" -G Ninja -DCMAKE_BUILD_TYPE= \
        -DCMAKE_CUDA_COMPILER="$nvcc" -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$pybind11" \
        -DERNIE_ARCHS="$archs" -DERNIE_OPTIMIZE="$optimize" -DERNIE_RESOURCES=$resources
    cmake --build "$target" ${jobs:+--parallel "$jobs"}
} >"$log" 2>&1 || { tail -n 60 "$log" >&2; fail "the build failed; the whole log: $log"; }
grep -E "warning" "$log" >&2 || true
if [ $resources = ON ]; then
    awk '/Compiling entry function/ { name = $0; sub(/^.*entry function ./, "", name); sub(/. for .*/, "", name) }
         /spill/ { spill = $0; sub(/^ */, "", spill) }
         /Used [0-9]+ registers/ { used = $0; sub(/^.*Used/, "Used", used); print name ": " used "; " spill }' \
        "$log" | { command -v c++filt >/dev/null && c++filt || cat; }
fi
# Replaced in one step: a process that has the old module loaded keeps its own file.
cp "$target/_kernels$tag" "$output.new"
mv "$output.new" "$output"
echo "$sums" >"$target/sums"
echo "$want" >"$build/built"
echo "built $output"
