import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from openai_frontend.tritonserver import TritonProcess
from tests.serving_settings import serving_settings
from tests.triton.triton_chat import TritonChat

ROOT = Path(__file__).parents[2]
READY_TIMEOUT_S = 120.0


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A VL checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_tiny_checkpoint.py", folder],
        check=True,
        timeout=120,
    )
    return folder


@pytest.fixture(scope="session")
def start_server(checkpoint):
    """Start a tritonserver with settings of the three models; the caller stops it."""

    def start(repository=ROOT / "model_repository", args=(), env=None, **settings):
        server = TritonProcess()
        server.start(
            [
                f"--model-repository={repository}",
                "--disable-auto-complete-config",
                "--exit-timeout-secs=10",
                *args,
            ],
            {
                "ERNIE_MODEL": str(checkpoint),
                "ERNIE_SERVING": json.dumps(serving_settings(**{"kv_cache_gib": 0.05, **settings})),
                **(env or {}),
            },
        )
        return server

    return start


def stop_cleanly(server):
    """Stop an idle server; nothing of it may be left, neither in Triton nor in the system."""
    pids = [child.pid for child in psutil.Process(server.pid).children(recursive=True)]
    assert server.stop(grace_s=20) == 0, server.log()
    assert "Found 0 model versions that have in-flight inferences" in server.log()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    files = [item.name for item in Path("/dev/shm").iterdir()]
    assert [
        name
        for name in files
        for pid in pids
        if name.startswith((f"ernie-pixels-{pid}-", f"ernie-credit-{pid}-"))
    ] == []


@pytest.fixture(scope="session")
def server(start_server):
    """The server most tests share: the real engine on a small checkpoint."""
    server = start_server()
    try:
        server.wait_ready(READY_TIMEOUT_S)
        yield server
        stop_cleanly(server)
    finally:
        server.stop()


@pytest.fixture
def chat(server):
    chat = TritonChat(server)
    yield chat
    chat.until_stats(lambda stats: stats["open_streams"] == 0 and stats["running"] == 0)


@pytest.fixture(scope="session")
def paced_server(start_server):
    """No model: tokens come at a fixed pace, so timing can be tested."""
    server = start_server(executor="paced", tokens_per_s=50, max_num_seqs=64)
    try:
        server.wait_ready(READY_TIMEOUT_S)
        yield server
        stop_cleanly(server)
    finally:
        server.stop()


@pytest.fixture
def paced_chat(paced_server):
    chat = TritonChat(paced_server)
    yield chat
    chat.until_stats(lambda stats: stats["open_streams"] == 0 and stats["running"] == 0)
