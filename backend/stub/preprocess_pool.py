"""Threads of the preprocessor: its `execute` returns at once, answers come when they are ready.

Requests with media have threads of their own. Media may come from a slow host, and however many
of them wait for one, text goes through. Long texts have their own too: tokenizing the 32 MiB that
a body may hold takes half a minute.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from backend import shared_memory, wire
from backend.errors import ErnieError, InternalError, OverloadedError
from backend.preprocess import PreparedRequest
from backend.wire import PixelHandle

TEXT_THREADS = 2
LONG_BODY_BYTES = 256 * 1024
MAX_WAITING = 256

log = logging.getLogger("multimodal_preprocessor")


class Preparer(Protocol):
    """backend.preprocess.Preprocessor"""

    def prepare(
        self, request: wire.GenerateRequest, media: Sequence[bytes], request_id: str
    ) -> PreparedRequest: ...

    def detokenize(self, request: wire.GenerateRequest) -> str: ...


@dataclass(frozen=True)
class EngineInput:
    """The three tensors of `ernie_engine`: uint8 JSON, int32 [n], int32 [3, n]."""

    request: wire.EngineRequest
    prompt_ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Job:
    """`reply` is called exactly once, by a thread of the pool or by `submit` itself."""

    body: bytes
    media: Sequence[bytes]
    request_id: str
    reply: Callable[[EngineInput], None]
    received_at: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def has_media(self) -> bool:
        # A text that only mentions these words waits in the wrong line: no harm.
        return bool(self.media) or b"image_url" in self.body or b"video_url" in self.body


class PreprocessPool:
    def __init__(self, preparer: Preparer, media_threads: int) -> None:
        self._preparer = preparer
        self._text = ThreadPoolExecutor(TEXT_THREADS, "preprocess-text")
        self._long = ThreadPoolExecutor(TEXT_THREADS, "preprocess-long")
        self._media = ThreadPoolExecutor(media_threads, "preprocess-media")
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._written: collections.deque[PixelHandle] = collections.deque(maxlen=MAX_WAITING)

    def submit(self, job: Job) -> None:
        """Never raises: whatever is wrong becomes an `error` request on its way to the client."""
        with self._lock:
            is_full = self._num_waiting >= MAX_WAITING
            self._num_waiting += not is_full
        if is_full:
            error = OverloadedError(
                f"{MAX_WAITING} requests wait for preprocessing, the limit", retry_after_s=1.0
            )
            self._reply(job, failed(job.request_id, error))
            return
        try:
            self._threads_for(job).submit(self._work, job)
        except RuntimeError:  # the pool was closed
            self._done()
            error = OverloadedError("the server is shutting down", code="shutting_down")
            self._reply(job, failed(job.request_id, error))

    def close(self) -> None:
        """Jobs that run are finished, jobs that wait are not begun. No pixels stay behind."""
        for pool in (self._text, self._long, self._media):
            pool.shutdown(wait=True, cancel_futures=True)
        for handle in self._written:
            shared_memory.discard_pixels(handle)

    def _threads_for(self, job: Job) -> ThreadPoolExecutor:
        if job.has_media:
            return self._media
        return self._long if len(job.body) > LONG_BODY_BYTES else self._text

    def _work(self, job: Job) -> None:
        self._done()
        try:
            result = self._prepare(job)
        except ErnieError as error:
            result = failed(job.request_id, error)
        except Exception as error:
            log.exception("request %r", job.request_id)
            reason = InternalError(f"{type(error).__name__} in the preprocessor")
            result = failed(job.request_id, reason)
        self._reply(job, result)

    def _prepare(self, job: Job) -> EngineInput:
        request = wire.decode(job.body, wire.GenerateRequest)
        if request.op == "detokenize":
            return tokens_answer(job.request_id, text=self._preparer.detokenize(request))
        prepared = self._preparer.prepare(request, job.media, job.request_id)
        if request.op == "tokenize":  # of its media only the placeholders are wanted
            return tokens_answer(job.request_id, prepared.prompt_ids)
        engine = prepared.engine
        engine.acknowledged = True
        engine.received_at = job.received_at
        if prepared.pixels is not None:
            engine.pixels = shared_memory.write_pixels(prepared.pixels)
            self._written.append(engine.pixels)
        return EngineInput(engine, prepared.prompt_ids, prepared.positions)

    def _reply(self, job: Job, result: EngineInput) -> None:
        try:
            job.reply(result)
        except Exception as error:
            # Triton will not take it: the request is gone, and the pixels would stay.
            log.warning("request %r: cannot answer: %s", job.request_id, error)
            shared_memory.discard_pixels(result.request.pixels)

    def _done(self) -> None:
        with self._lock:
            self._num_waiting -= 1


def tokens_answer(
    request_id: str, token_ids: npt.NDArray[np.int32] | None = None, text: str = ""
) -> EngineInput:
    """What answers `tokenize` and `detokenize`."""
    ids = np.zeros(0, np.int32) if token_ids is None else token_ids
    request = wire.EngineRequest(op="tokens", request_id=request_id, text=text)
    return EngineInput(request, ids, np.zeros((3, 0), np.int32))


def failed(request_id: str, error: ErnieError) -> EngineInput:
    """What travels through the engine to the client in place of a request."""
    request = wire.EngineRequest(
        op="error", stream_key=uuid.uuid4().hex, request_id=request_id, error=error.info()
    )
    return EngineInput(request, np.zeros(0, np.int32), np.zeros((3, 0), np.int32))
