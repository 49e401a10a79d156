"""Worker processes that make examples, and a thread that turns them into batches."""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .forward import Step
from .pool import Limits, Pool
from .worker import work

_QUEUE_PER_WORKER = 2


class Feed:
    """Batches without end: `next()` never waits once the pool holds `warm_up` examples.

    Example i of `seed` is always the same; which batch it is in depends on the machine's speed.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        seed: int,
        num_workers: int,
        limits: Limits,
        warm_up: int,
        first_chunk: int = 0,
        thinking: float = 0.45,
        plan: str = "first",
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._warm_up = warm_up
        self._random = np.random.default_rng([seed, first_chunk, 9])
        self._spool = Path(tempfile.mkdtemp(prefix="train-tiny-", dir=_fast_folder()))
        context = multiprocessing.get_context("spawn")
        self._made: Any = context.Queue(num_workers * _QUEUE_PER_WORKER)
        orders = (seed, first_chunk, num_workers, thinking, plan)
        self._workers = [
            context.Process(
                target=work, args=(folder, self._spool, self._made, rank, orders), daemon=True
            )
            for rank in range(num_workers)
        ]
        self._batches: queue.Queue[Step | BaseException] = queue.Queue(3)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), daemon=True)
            for loop in (self._take_chunks, self._draw_batches)
        ]
        self.num_waits = 0

    def start_workers(self) -> None:
        for worker in self._workers:
            worker.start()

    def start(self) -> None:
        """Begin to move examples to the device: nothing else may prepare it any more."""
        for thread in self._threads:
            thread.start()

    def next(self) -> Step:
        """A batch in host memory. Raises what broke the feed."""
        if self._batches.empty():
            self.num_waits += 1
        batch = self._batches.get()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self) -> None:
        # The threads end before the workers do: one would wait for ever for the rest of a message
        # that a killed worker has begun.
        self._closing.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join(10)
        self._made.cancel_join_thread()
        shutil.rmtree(self._spool, ignore_errors=True)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # handed to the trainer, which stops
            self._put(error)

    def _take_chunks(self) -> None:
        """Move what the workers made into the pool."""
        while not self._closing.is_set():
            try:
                chunk, path = self._made.get(timeout=0.5)
            except queue.Empty:
                self._check_workers()
                continue
            if isinstance(chunk, str):
                raise RuntimeError(f"a worker failed: {chunk}")
            self._pool.add(chunk, path)
            os.unlink(path)

    def _draw_batches(self) -> None:
        while self._pool.num_examples < self._warm_up and not self._closing.is_set():
            time.sleep(0.05)
        while not self._closing.is_set():
            self._put(self._pool.draw(self._random, self._limits))

    def _check_workers(self) -> None:
        dead = [worker for worker in self._workers if not worker.is_alive()]
        if dead and not self._closing.is_set():
            raise RuntimeError(f"worker ended with exit code {dead[0].exitcode}")

    def _put(self, batch: Any) -> None:
        while not self._closing.is_set():
            try:
                self._batches.put(batch, timeout=0.2)
                return
            except queue.Full:
                continue


def _fast_folder() -> str | None:
    shared = Path("/dev/shm")  # noqa: S108 - a memory-backed folder, removed in close()
    if shared.is_dir() and shutil.disk_usage(shared).free > 2**32:
        return str(shared)
    return None
