"""When a tritonserver is replaced, and when it is left alone; what its log shows."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from backend.errors import EngineUnavailableError
from openai_frontend.launch.fault_detector import FaultDetector
from openai_frontend.launch.triton_log import TritonLog
from openai_frontend.triton_client import MODEL_UNAVAILABLE

DEAD = EngineUnavailableError("a model is dead", code=MODEL_UNAVAILABLE)


class Server:
    """Process and client in one; tests set what they want it to do."""

    is_running = True
    returncode: int | None = None
    is_answering = True
    state = "ready"
    stats_error: Exception | None = None
    probe_error: Exception | None = None

    def __init__(self) -> None:
        self.num_checks = 0

    async def is_live(self, timeout_s: float) -> bool:
        self.num_checks += 1
        return self.is_answering

    async def stats(self) -> dict[str, Any]:
        if self.stats_error is not None:
            raise self.stats_error
        return {"state": self.state}

    async def probe(self) -> None:
        if self.probe_error is not None:
            raise self.probe_error


async def fault_of(server: Server) -> str:
    detector = FaultDetector(server, server, poll_s=0.01, check_s=0.005)
    return await asyncio.wait_for(detector.wait(), 2)


async def assert_left_alone(server: Server) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(FaultDetector(server, server, 0.01, 0.005).wait(), 0.2)
    assert server.num_checks > 10


async def test_a_healthy_server_is_left_alone():
    await assert_left_alone(Server())


@pytest.mark.parametrize(("status", "words"), [(-9, "SIGKILL"), (1, "status 1")])
async def test_an_ended_process_is_a_fault(status, words):
    server = Server()
    server.is_running, server.returncode = False, status
    assert words in await fault_of(server)


async def test_a_server_that_does_not_answer_three_times_is_a_fault():
    server = Server()
    server.is_answering = False
    assert "does not answer" in await fault_of(server)
    assert server.num_checks == 3


async def test_one_missed_answer_is_no_fault():
    server = Server()

    async def is_live(timeout_s: float) -> bool:
        server.num_checks += 1
        return server.num_checks % 3 != 0

    server.is_live = is_live
    await assert_left_alone(server)


async def test_an_engine_that_gave_up_is_a_fault():
    server = Server()
    server.state = "failed"
    assert "engine" in await fault_of(server)


async def test_an_engine_that_restarts_or_is_slow_is_no_fault():
    server = Server()
    server.state = "restarting"
    await assert_left_alone(server)
    server.stats_error = EngineUnavailableError("the engine did not answer")
    await assert_left_alone(server)


@pytest.mark.parametrize("where", ["stats_error", "probe_error"])
async def test_a_dead_model_is_a_fault(where):
    server = Server()
    setattr(server, where, DEAD)
    assert "dead" in await fault_of(server)


def shown(lines: list[str], is_terminal: bool = False, expects_gpu: bool = False) -> str:
    target = io.StringIO()
    target.isatty = lambda: is_terminal  # type: ignore[method-assign]
    log = TritonLog(target, expects_gpu)
    for line in lines:
        log.write(line)
    return target.getvalue()


def test_the_log_shows_errors_and_our_own_lines_only():
    lines = [
        "I1122 10:00:00.123456 17 server.cc:604] \n",
        "+------------------+---------+\n",
        "| Model | Version | Status |\n",
        "W1122 10:00:00.1 17 metrics.cc:1] no GPU\n",
        "\n",
        "E1122 10:00:00.1 17 model.cc:1] failed to load\n",
        "backend.engine: loaded in 3 s\n",
    ]
    assert shown(lines) == (
        "E1122 10:00:00.1 17 model.cc:1] failed to load\nbackend.engine: loaded in 3 s\n"
    )


def test_missing_cuda_is_told_only_where_a_gpu_was_asked_for():
    line = 'E1122 10:00:00.1 17 x.cc:1] "CUDA driver version is insufficient for CUDA runtime"\n'
    assert shown([line]) == ""
    assert shown([line], expects_gpu=True) == line


def test_the_loading_bar_stays_on_one_line_of_a_terminal():
    lines = [f"Loading Weights: {percent:3d}%|##| 1/9\n" for percent in range(0, 101, 2)]
    in_terminal = shown(lines, is_terminal=True)
    assert in_terminal.count("\n") == 1
    assert in_terminal.count("\r") == len(lines)
    assert shown(lines).count("\n") == 11
    assert shown([lines[0], "Killed\n"], is_terminal=True).endswith("\nKilled\n")
