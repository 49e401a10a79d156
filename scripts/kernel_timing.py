"""What kernels are timed with, and what a card can do at most (figures of one H200)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

PEAK_BYTES = 4.3e12
"""Bytes a second that copies reach."""

PEAK_FLOPS = 790e12
"""Operations a second of cuBLAS in bfloat16 on random data."""


def median_seconds(context: Any, calls: list[Callable[[], object]], repeats: int = 15) -> float:
    """Median time of one call, all of them one behind the other in a replayed graph."""
    for call in calls[:2]:  # kernels and their settings are loaded outside of the recording
        call()
    with context.capture() as graph:
        for call in calls:
            call()
    for _ in range(2):
        graph.launch()
    times = []
    for _ in range(repeats):
        start, end = context.event(), context.event()
        start.record()
        graph.launch()
        end.record()
        end.synchronize()
        times.append(start.elapsed_ms(end) / 1e3 / len(calls))
    return statistics.median(times)
