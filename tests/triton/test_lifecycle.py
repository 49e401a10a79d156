"""Starting, failing to start, and ending a server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backend.errors import EngineUnavailableError
from openai_frontend.tritonserver import free_port
from tests.serving_settings import serving_settings
from tests.triton.conftest import READY_TIMEOUT_S, ROOT, stop_cleanly
from tests.triton.triton_chat import TritonChat, is_last

pytestmark = pytest.mark.triton

QUESTION = {"prompt": "hello", "max_tokens": 4, "stream": True}


@pytest.fixture
def start(start_server):
    servers = []

    def start_one(**fields):
        servers.append(start_server(**fields))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


def test_a_repository_elsewhere_finds_the_package_by_ernie_home(start, tmp_path):
    repository = tmp_path / "models"
    shutil.copytree(
        ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__")
    )
    server = start(repository=repository, env={"ERNIE_HOME": str(ROOT)}, executor="paced")
    server.wait_ready(READY_TIMEOUT_S)
    assert is_last(TritonChat(server).events(QUESTION)[-1])
    stop_cleanly(server)


def test_a_linked_repository_finds_the_package_by_itself(start, tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "model_repository")
    server = start(repository=tmp_path / "models", executor="paced")
    server.wait_ready(READY_TIMEOUT_S)
    stop_cleanly(server)


def test_parameters_come_from_the_config_files(start, tmp_path, checkpoint):
    repository = tmp_path / "models"
    shutil.copytree(
        ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("multimodal_preprocessor", "ernie_engine", "response_postprocessor"):
        config = repository / name / "config.pbtxt"
        text = config.read_text().replace(
            'key: "model" value { string_value: "" }',
            f'key: "model" value {{ string_value: "{checkpoint}" }}',
        )
        config.write_text(text.replace('"paddle"', '"paced"'))
    env = {"ERNIE_HOME": str(ROOT), "ERNIE_MODEL": "", "ERNIE_SERVING": ""}
    server = start(repository=repository, env=env)
    server.wait_ready(READY_TIMEOUT_S)
    assert is_last(TritonChat(server).events(QUESTION)[-1])
    stop_cleanly(server)


@pytest.mark.parametrize(
    ("env", "settings", "words"),
    [
        ({"ERNIE_MODEL": ""}, {}, "set the environment variable ERNIE_MODEL"),
        ({"ERNIE_MODEL": "/nowhere"}, {}, "/nowhere/config.json"),
        ({"ERNIE_SERVING": "{"}, {}, "ERNIE_SERVING is not valid JSON"),
        ({}, {"max_num_seqs": "many"}, "max_num_seqs"),
        ({}, {"device": "gpu:99"}, "gpu:99"),
    ],
)
def test_a_server_that_cannot_start_says_why(start, env, settings, words):
    server = start(env=env, **settings)
    with pytest.raises(EngineUnavailableError, match=words):
        server.wait_ready(READY_TIMEOUT_S)
    assert server.returncode == 1


def test_a_damaged_checkpoint_is_named(start, checkpoint, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    server = start(env={"ERNIE_MODEL": str(damaged)})
    with pytest.raises(EngineUnavailableError, match=r"ernie_engine: .*model\.safetensors"):
        server.wait_ready(READY_TIMEOUT_S)


def test_a_busy_port_is_an_error(start):
    with socket.socket() as busy:
        port = free_port()
        busy.bind(("127.0.0.1", port))
        busy.listen()
        server = start(args=[f"--http-port={port}"], executor="paced")
        assert server.wait(READY_TIMEOUT_S) == 1
        assert str(port) in server.failure_reason()


def test_a_second_stop_and_a_stop_of_a_dead_server_leave_nothing(start):
    server = start(executor="paced")
    server.wait_ready(READY_TIMEOUT_S)
    children = psutil.Process(server.pid).children(recursive=True)
    prefix = server._shm_prefix
    os.kill(server.pid, signal.SIGKILL)
    server.wait(10)
    server.stop()
    server.stop()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert list(Path("/dev/shm").glob(f"{prefix}*")) == []


def test_the_server_dies_with_the_process_that_started_it(checkpoint, tmp_path):
    script = tmp_path / "launcher.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from openai_frontend.tritonserver import TritonProcess\n"
        "server = TritonProcess()\n"
        f"server.start(['--model-repository={ROOT}/model_repository'],\n"
        "    {'ERNIE_MODEL': sys.argv[1], 'ERNIE_SERVING': '{\"executor\": \"paced\"}'})\n"
        "server.wait_ready(60)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, script, checkpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout.readline() == "ready\n"
        children = psutil.Process(launcher.pid).children(recursive=True)
        assert len(children) == 5  # tritonserver, three stubs, the engine
        launcher.kill()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert alive == []
    pids = [process.pid for process in children]
    names = [item.name for item in Path("/dev/shm").glob("ernie-*")]
    assert [name for name in names for pid in pids if f"-{pid}-" in name] == []


def test_plain_tritonserver_runs_the_repository_in_the_foreground(checkpoint):
    port = [free_port() for _ in range(3)]
    serving = json.dumps(serving_settings())
    environ = {**os.environ, "ERNIE_MODEL": str(checkpoint), "ERNIE_SERVING": serving}
    command = [
        *(sys.executable, "-m", "openai_frontend.tritonserver"),
        f"--model-repository={ROOT / 'model_repository'}",
        *(f"--http-port={port[0]}", f"--grpc-port={port[1]}", f"--metrics-port={port[2]}"),
    ]
    with subprocess.Popen(
        command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        log = []
        for line in process.stdout:
            log.append(line)
            if "Started Metrics Service" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(30) == 0, "".join(log) + rest
    assert "Found 0 model versions that have in-flight inferences" in rest
