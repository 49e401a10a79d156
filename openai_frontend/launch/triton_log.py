"""Picks out of tritonserver's output what an operator wants to see while it starts and runs.

Triton prints hundreds of lines per start; shown are its errors, whatever our own models and the
engine print, and the loading bar: in place on a terminal, every tenth of it elsewhere.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

_TRITON_CHATTER = re.compile(r"[IW]\d{4} \d\d:\d\d:|\+-|\| |Signal \(\d+\) received|\s*$")
# What a server built for GPUs complains about where there is none.
_NO_GPU = re.compile(r"CudaDriverHelper|CUDA driver version is insufficient|initialize NVML")
_TABLE_ROW = re.compile(r"\|.*\|$")
_PROGRESS = re.compile(r"(Loading [\w ]+?):\s+(\d+)%")


class TritonLog(io.StringIO):
    """A text stream for `TritonProcess(echo=...)`: one line per `write`.

    `expects_gpu` False hides Triton's complaints about missing CUDA.
    """

    def __init__(self, target: TextIO | None = None, expects_gpu: bool = False) -> None:
        super().__init__()
        self._expects_gpu = expects_gpu
        self._target = target or sys.stderr
        self._is_terminal = self._target.isatty()
        self._shown_percent: dict[str, int] = {}
        self._in_progress = False

    def write(self, line: str) -> int:
        progress = _PROGRESS.match(line)
        if progress is not None:
            self._show_progress(line.rstrip(), progress[1], int(progress[2]))
        elif self._is_worth_showing(line):
            self._end_progress()
            self._print(line if line.endswith("\n") else line + "\n")
        return len(line)

    def flush(self) -> None:
        if not self._target.closed:
            self._target.flush()

    def _is_worth_showing(self, line: str) -> bool:
        if _TRITON_CHATTER.match(line) or _TABLE_ROW.match(line.rstrip()):
            return False
        return self._expects_gpu or not _NO_GPU.search(line)

    def _show_progress(self, line: str, name: str, percent: int) -> None:
        if self._is_terminal:
            self._print("\r" + line + ("\n" if percent >= 100 else ""))
            self._in_progress = percent < 100
        elif percent // 10 > self._shown_percent.get(name, -1):
            self._shown_percent[name] = percent // 10
            self._print(line + "\n")

    def _end_progress(self) -> None:
        if self._in_progress:
            self._in_progress = False
            self._print("\n")

    def _print(self, text: str) -> None:
        self._target.write(text)
