"""The loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_loss_curve(log: list[dict[str, Any]], path: Path) -> bool:
    """Write a PNG of loss and next-token accuracy over steps; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), dpi=110)
    steps = [entry["step"] for entry in log]
    left.plot(steps, [entry["loss"] for entry in log], color="black", label="all")
    names = list(log[-1]["groups"]) if log else []
    for name in names:
        known = [entry for entry in log if name in entry["groups"]]
        shown = [entry["step"] for entry in known]
        left.plot(
            shown, [entry["groups"][name]["loss"] for entry in known], linewidth=0.8, label=name
        )
        right.plot(
            shown, [entry["groups"][name]["accuracy"] for entry in known], linewidth=0.8, label=name
        )
    left.set(xlabel="step", ylabel="loss per answer token (nats)", yscale="log")
    right.set(xlabel="step", ylabel="next-token accuracy", ylim=(0.5, 1.002))
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return True
