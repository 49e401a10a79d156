"""CPU time of the service by process, from /proc: what one event costs, and where.

Unlike latency it hardly depends on what else runs on the machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_MODELS = ("multimodal_preprocessor", "ernie_engine", "response_postprocessor")


class CpuMeter:
    """CPU seconds that `pid`, its descendants and this process used since the meter was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._read()
        self._own_began = time.process_time()

    def used(self) -> dict[str, float]:
        """Seconds by role: frontend, tritonserver, the models' stubs, engine, client."""
        seconds: dict[str, float] = {}
        for pid, (role, now) in self._read().items():
            before = self._began.get(pid, (role, 0.0))[1]
            seconds[role] = seconds.get(role, 0.0) + now - before
        return {**seconds, "client": time.process_time() - self._own_began}

    def _read(self) -> dict[int, tuple[str, float]]:
        found = {}
        for pid in _descendants(self._pid):
            try:
                # The name in parentheses may hold spaces: fields are counted from behind it.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            except OSError:
                continue  # it has just ended
            role = "frontend" if pid == self._pid else _role(command)
            found[pid] = (role, (int(fields[11]) + int(fields[12])) * _TICK_S)
        return found


def _role(command: str) -> str:
    if "backend.engine.process" in command:
        return "engine process"
    for model in _MODELS:
        if f"/{model}/" in command:
            return f"stub of {model}"
    return Path(command.partition("\0")[0]).name


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found
