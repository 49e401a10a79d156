"""What a worker process does: samples → chunks, without any tensor library."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from .chunk import Chunk
from .mixture import shares_at, training_sample
from .prompt import Prompter

CHUNK_SIZE = 96
_GROUPS = {
    "picture": "pictures",
    "read": "reading",
    "compare": "comparing",
    "film": "films",
    "tool": "tools",
    "chat": "chat",
    "completion": "chat",
    "unknown": "unknown",
}
GROUP_NAMES = tuple(dict.fromkeys(_GROUPS.values()))


def work(folder: Path, spool: Path, made: Any, rank: int, plan: tuple[Any, ...]) -> None:
    """Make chunk after chunk; worker `rank` of n makes chunks first + rank, + n, ..."""
    seed, number, num_workers, thinking, shares_plan = plan
    number += rank
    try:
        prompter = Prompter(folder)
        while True:
            chunk, patches = make_chunk(prompter, seed, number, thinking, shares_plan)
            path = spool / f"{number}.bin"
            patches.tofile(path)
            made.put((chunk, str(path)))
            number += num_workers
    except Exception as error:
        made.put((f"{type(error).__name__}: {error}", ""))
        time.sleep(5)  # lets the message out before the process ends


def make_chunk(
    prompter: Prompter, seed: int, number: int, thinking: float, shares_plan: str
) -> tuple[Chunk, np.ndarray]:
    """Examples number·CHUNK_SIZE … of the training stream; the chunk's patches beside it."""
    indices = range(number * CHUNK_SIZE, (number + 1) * CHUNK_SIZE)
    samples = [
        training_sample(seed, index, shares_at(shares_plan, index), thinking) for index in indices
    ]
    examples = [prompter.example(sample) for sample in samples]
    tasks = [_task_number(sample.task) for sample in samples]
    return Chunk.of(examples, tasks)


def _task_number(task: str) -> int:
    return GROUP_NAMES.index(_GROUPS[task.partition("_")[0]])
