"""Servers of the fault tests are their own: what they survive must not touch other tests."""

import psutil
import pytest

from tests.triton.conftest import (  # noqa: F401
    READY_TIMEOUT_S,
    checkpoint,
    start_server,
    stop_cleanly,
)
from tests.triton.triton_chat import TritonChat


@pytest.fixture(scope="module")
def fragile_server(start_server):  # noqa: F811
    server = start_server(hang_timeout_s=3)
    try:
        server.wait_ready(READY_TIMEOUT_S)
        yield server
        stop_cleanly(server)
    finally:
        server.stop()


@pytest.fixture
def chat(fragile_server):
    chat = TritonChat(fragile_server)
    chat.until_stats(lambda stats: stats["state"] == "ready")
    return chat


@pytest.fixture
def engine_process(chat):
    return psutil.Process(chat.stats()["engine_pid"])
