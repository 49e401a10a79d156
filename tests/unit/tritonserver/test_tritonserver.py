"""TritonProcess with a small script in the server's place."""

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from backend.errors import ConfigError, EngineUnavailableError
from openai_frontend import tritonserver
from openai_frontend.triton_installation import TritonInstallation
from openai_frontend.tritonserver import TritonProcess, free_port

READY = """
import http.server, os, signal, subprocess, sys
options = dict(item[2:].split("=", 1) for item in sys.argv[1:] if "=" in item)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *arguments):
        pass
def stop(number, frame):
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
prefix = options["backend-config"].partition("shm-region-prefix-name=")[2]
open("/dev/shm/" + prefix + "x", "w").close()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("model", os.environ["ERNIE_MODEL"], "child", child.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(options["http-port"])), Handler).serve_forever()
"""

FAILED = """
print('E1122 x.cc:1] "failed to load \\'ernie_engine\\' version 1: Internal: '
      'TritonModelException: norm.weight is missing\\\\n\\\\nAt:\\\\n  /x/model.py(3)\\\\n"')
print('E1122 x.cc:1] "failed to load \\'other\\' version 1: Internal: ImportError: av\\\\n"')
raise SystemExit(1)
"""


@pytest.fixture
def make(tmp_path):
    made = []

    def make_process(script):
        file = tmp_path / "tritonserver"
        file.write_text(f"#!{sys.executable}\n{script}")
        file.chmod(0o755)
        made.append(TritonProcess(installation=TritonInstallation(file, None)))
        return made[-1]

    yield make_process
    for process in made:
        process.stop(grace_s=0)


def child_of(server):
    return psutil.Process(int(server.log().split()[-1]))


def test_a_server_is_started_watched_and_stopped_with_all_it_had(make):
    server = make(READY)
    assert (server.pid, server.returncode, server.is_running) == (None, None, False)
    server.start(["--exit-timeout-secs=3"], {"ERNIE_MODEL": "checkpoint"})
    server.wait_ready(20)
    assert server.is_running
    assert "model checkpoint child" in server.log()
    child = child_of(server)
    assert server.stop(grace_s=5) == 0
    assert child not in psutil.process_iter() or child.status() == psutil.STATUS_ZOMBIE
    assert list(Path("/dev/shm").glob(f"{server._shm_prefix}*")) == []
    assert not server.is_ready()


def test_a_server_that_does_not_listen_is_killed(make):
    server = make(READY.replace("sys.exit(0)", "pass"))
    server.start([], {"ERNIE_MODEL": "checkpoint"})
    server.wait_ready(20)
    assert server.stop(grace_s=0.2) == -signal.SIGKILL
    assert list(Path("/dev/shm").glob(f"{server._shm_prefix}*")) == []


def test_a_server_that_ends_says_why_by_model(make):
    server = make(FAILED)
    server.start([])
    with pytest.raises(EngineUnavailableError) as caught:
        server.wait_ready(20)
    assert caught.value.message == (
        "tritonserver ended with status 1: ernie_engine: norm.weight is missing; "
        "other: ImportError: av"
    )


def test_a_server_that_never_gets_ready_runs_out_of_time(make):
    server = make("import time; time.sleep(600)")
    server.start([])
    with pytest.raises(EngineUnavailableError, match="not ready within 0 s"):
        server.wait_ready(0.3)


def test_a_process_is_started_only_once(make):
    server = make(FAILED)
    server.start([])
    with pytest.raises(ConfigError, match="make a new TritonProcess"):
        server.start([])


def test_stop_before_start_and_twice_does_nothing(make):
    server = make(FAILED)
    assert server.stop() is None
    server.start([])
    status = server.stop(5)
    assert status in (1, -signal.SIGTERM)
    assert server.stop(5) == status


def test_the_environments_own_python_comes_first_on_path(make):
    server = make("import os; print(os.environ['PATH'])")
    server.start([])
    server.wait(10)
    server.stop()
    assert server.log().split(os.pathsep)[0] == str(Path(sys.prefix, "bin"))


def test_too_small_a_shared_memory_is_told_before_anything_starts(make, monkeypatch):
    monkeypatch.setattr(tritonserver, "MIN_SHARED_MEMORY_BYTES", 2**60)
    server = make(READY)
    with pytest.raises(ConfigError, match="--shm-size"):
        server.start([])
    assert server.pid is None


def test_free_ports_are_free_and_not_of_the_kernels_range():
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(20):
        port = free_port()
        assert port < low
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_folders_of_dead_launchers_are_removed(make, tmp_path, monkeypatch):
    monkeypatch.setattr(tritonserver.tempfile, "gettempdir", lambda: str(tmp_path))
    dead = tmp_path / "ernie-tritonserver-4194999-abc"
    alive = tmp_path / f"ernie-tritonserver-{os.getpid()}-abc"
    dead.mkdir()
    alive.mkdir()
    make(FAILED).start([])
    assert not dead.exists()
    assert alive.exists()
