"""Keeps a tritonserver running: starts one, replaces it after a fault, gives up in the end."""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import time
from pathlib import Path

from backend.errors import ConfigError, EngineUnavailableError
from openai_frontend.launch.fault_detector import FaultDetector
from openai_frontend.launch.options import Options
from openai_frontend.launch.triton_log import TritonLog
from openai_frontend.triton_client import TritonClient
from openai_frontend.tritonserver import TritonProcess

logger = logging.getLogger(__name__)

# A checkpoint of hundreds of gigabytes on a slow disk loads for a long time; progress is shown.
LOAD_TIMEOUT_S = 6 * 3600.0
MAX_FAULTS = 5
FAULT_WINDOW_S = 600.0
MIN_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0


class TritonSupervisor:
    def __init__(
        self, options: Options, checkpoint: Path, repository: Path, client: TritonClient
    ) -> None:
        self._options = options
        self._arguments = [
            f"--model-repository={repository}",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=5",
        ]
        self._environment = {
            "ERNIE_MODEL": str(checkpoint),
            "ERNIE_SERVING": json.dumps(options.serving),
        }
        self._client = client
        self._process: TritonProcess | None = None
        self._faults: collections.deque[float] = collections.deque()

    @property
    def process(self) -> TritonProcess:
        if self._process is None:
            raise EngineUnavailableError("tritonserver was not started")
        return self._process

    def start(self) -> None:
        """Start a server. Call from the main thread: the server ends with the one that started it.

        Raises ConfigError when none can run here.
        """
        self._process = TritonProcess(
            grpc_port=self._options.triton_grpc_port,
            http_port=self._options.triton_http_port,
            metrics_port=self._options.triton_metrics_port,
            echo=TritonLog(expects_gpu=self._options.serving.get("device", "").startswith("gpu")),
        )
        self._process.start(self._arguments, self._environment)

    async def wait_ready(self) -> None:
        """Raises EngineUnavailableError with the reason when the server ends instead."""
        await asyncio.to_thread(self.process.wait_ready, LOAD_TIMEOUT_S)
        self._client.connect(self.process.grpc_url)

    async def watch(self) -> str:
        """Replace the server after every fault; returns why when there were too many."""
        while True:
            fault: str | None = await FaultDetector(self.process, self._client).wait()
            while fault is not None:
                logger.error("%s", fault)
                if self._has_too_many_faults():
                    return f"{MAX_FAULTS} faults within {FAULT_WINDOW_S:.0f} s, the last: {fault}"
                fault = await self._replace()

    async def stop(self, grace_s: float) -> None:
        """End the server, by force after `grace_s`."""
        if self._process is not None:
            await asyncio.to_thread(self._process.stop, grace_s)

    async def _replace(self) -> str | None:
        """Stop what is left, wait, start anew. Returns what went wrong, None if nothing."""
        await self.stop(grace_s=1.0)
        backoff_s = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2.0 ** (len(self._faults) - 1))
        logger.warning("starting tritonserver again in %.0f s", backoff_s)
        await asyncio.sleep(backoff_s)
        try:
            self.start()
            await self.wait_ready()
        except (ConfigError, EngineUnavailableError) as error:
            return error.message
        logger.warning("tritonserver is back")
        return None

    def _has_too_many_faults(self) -> bool:
        now = time.monotonic()
        self._faults.append(now)
        while self._faults[0] < now - FAULT_WINDOW_S:
            self._faults.popleft()
        return len(self._faults) >= MAX_FAULTS
