"""Notices that a running tritonserver must be replaced.

A fault is one of: the process ended; its own endpoint does not answer (hang); a model's process is
dead (Triton restarts none and, in the embedded version, stays "ready"); the engine has given up
restarting itself. A slow model is no fault: the preprocessor may be busy fetching.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Protocol

from backend.errors import EngineUnavailableError
from openai_frontend.triton_client import MODEL_UNAVAILABLE

POLL_S = 0.2
CHECK_S = 1.0
CHECKS_PER_PROBE = 2
TIMEOUT_S = 3.0
MAX_MISSES = 3
MAX_DEAD_ANSWERS = 2


class ServerProcess(Protocol):
    @property
    def is_running(self) -> bool: ...

    @property
    def returncode(self) -> int | None: ...


class ServerClient(Protocol):
    async def is_live(self, timeout_s: float) -> bool: ...

    async def stats(self) -> dict[str, Any]: ...

    async def probe(self) -> None: ...


class FaultDetector:
    def __init__(
        self,
        process: ServerProcess,
        client: ServerClient,
        poll_s: float = POLL_S,
        check_s: float = CHECK_S,
    ) -> None:
        self._process = process
        self._client = client
        self._poll_s = poll_s
        self._check_s = check_s

    async def wait(self) -> str:
        """Return when there is a fault, with a sentence about it."""
        checks = asyncio.create_task(self._check_answers())
        try:
            while True:
                if not self._process.is_running:
                    return f"tritonserver {_ending(self._process.returncode)}"
                done, _ = await asyncio.wait({checks}, timeout=self._poll_s)
                if done:
                    return checks.result()
        finally:
            checks.cancel()

    async def _check_answers(self) -> str:
        misses = dead_answers = number = 0
        while True:
            await asyncio.sleep(self._check_s)
            number += 1
            if not await self._client.is_live(TIMEOUT_S):
                misses += 1
                if misses >= MAX_MISSES:
                    return "tritonserver does not answer"
                continue
            misses = 0
            try:
                if (await self._stats()).get("state") == "failed":
                    return "the engine could not be restarted"
                if dead_answers or number % CHECKS_PER_PROBE == 0:
                    await self._client.probe()
                dead_answers = 0
            except EngineUnavailableError as error:
                dead_answers += error.code == MODEL_UNAVAILABLE
                if dead_answers >= MAX_DEAD_ANSWERS:
                    return "the process of a model is dead"

    async def _stats(self) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(self._client.stats(), TIMEOUT_S)
        except asyncio.TimeoutError:
            return {}


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
