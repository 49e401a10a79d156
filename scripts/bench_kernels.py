"""Time the CUDA kernels against what the memory and the matrix units can do.

    python scripts/bench_kernels.py             every area
    python scripts/bench_kernels.py core decode only these; an area is a file of bench_kernels/
    python scripts/bench_kernels.py decode:paths    only a part of an area

Each area prints a line per kernel and size: microseconds from replayed CUDA graphs over buffers
that rotate past the L2, TB/s or TFLOP/s, and the share of 4.3 TB/s (copies measured on one H200)
or of 790 TFLOP/s (cuBLAS in bf16 on random data).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AREAS = {path.stem: path for path in sorted(Path(__file__).with_suffix("").glob("*.py"))}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name.partition(":")[0] not in AREAS]
    if unknown:
        print(f"unknown area {unknown[0]!r}; there are {', '.join(AREAS)}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    import kernels

    reason = kernels.unavailable_reason()
    if reason is not None:
        print(f"nothing to time here: {reason}", file=sys.stderr)
        return 1
    for name in names or AREAS:
        print(f"== {name}", flush=True)
        area, _, part = name.partition(":")
        sys.argv = [str(AREAS[area]), *([part] if part else [])]
        runpy.run_path(str(AREAS[area]), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
