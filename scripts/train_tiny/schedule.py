"""How far a run is, by the clock or by steps, and what that means for its rates."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class Schedule:
    """A run of `minutes` (of training, over all its parts) or of `steps`, whichever is given.

    `spent_s` and `step` carry over when a paused run goes on.
    """

    minutes: float
    steps: int
    peak: float
    spent_s: float = 0.0
    step: int = 0
    warm_up: float = 0.02
    floor: float = 0.02
    repainting: float = 1.0
    _began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Begin counting time: what came before was preparation."""
        self._began = time.monotonic() - self.spent_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        if self.steps:
            return min(1.0, self.step / self.steps)
        return min(1.0, self.elapsed_s / (self.minutes * 60))

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to `floor` · peak."""
        progress = self.progress
        if progress < self.warm_up:
            return self.peak * max(progress, 1e-4) / self.warm_up
        rest = (progress - self.warm_up) / (1 - self.warm_up)
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * rest)))

    def balance_rate(self) -> float:
        """Step of the correction biases: constant, then down to nothing over the last quarter."""
        return 1e-3 * min(1.0, 4 * (1 - self.progress))

    def repainting_weight(self) -> float:
        """`repainting` at first, nothing from a third of the run on."""
        return self.repainting * max(0.0, 1 - 3 * self.progress)
