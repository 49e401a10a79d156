"""A stub dies. Triton 24.10 does not notice; nothing may be left when the server is stopped."""

import signal
import time

import psutil
import pytest

from tests.triton.conftest import READY_TIMEOUT_S
from tests.triton.triton_chat import TritonChat

pytestmark = pytest.mark.triton


@pytest.fixture
def chat(start_server):
    server = start_server(executor="paced")
    try:
        server.wait_ready(READY_TIMEOUT_S)
        yield TritonChat(server)
    finally:
        server.stop(grace_s=0)


def stub_of(process):
    """The stub that is an engine process's parent."""
    return psutil.Process(process.ppid())


def is_dead(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # the system's init takes it in its time
    except psutil.NoSuchProcess:
        return True


def test_the_engine_dies_with_its_stub(chat):
    engine = psutil.Process(chat.stats()["engine_pid"])
    stub_of(engine).kill()
    deadline = time.monotonic() + 1.0
    while not is_dead(engine):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_with_a_dead_stub_can_be_stopped(chat):
    everything = psutil.Process(chat.server.pid).children(recursive=True)
    stub_of(psutil.Process(chat.stats()["engine_pid"])).kill()
    chat.server.stop(grace_s=3)
    _, alive = psutil.wait_procs(everything, timeout=5)
    assert alive == []


def test_a_stopped_server_process_can_be_stopped(chat):
    everything = psutil.Process(chat.server.pid).children(recursive=True)
    psutil.Process(chat.server.pid).send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while chat.server.is_ready(timeout_s=0.5):  # its threads do not stop all at once
        assert time.monotonic() < deadline
    chat.server.stop(grace_s=0.5)
    _, alive = psutil.wait_procs(everything, timeout=5)
    assert alive == []


def test_the_engine_goes_on_when_the_postprocessor_dies(chat):
    stubs = psutil.Process(chat.server.pid).children()
    [postprocessor] = [item for item in stubs if "response_postprocessor" in str(item.cmdline())]
    stream = chat.stream({"prompt": "hello", "stream": True, "max_tokens": 100})
    stream.next()
    postprocessor.kill()
    direct = chat.ask_engine({"sampling": {"max_tokens": 3}}, [1, 2, 3])
    assert direct["finish_reason"] == "length"
    stats = chat.until_stats(lambda stats: stats["running"] == 0 and stats["open_streams"] == 0)
    assert stats["engine_restarts"] == 0
