"""Leaving, stopping, breaking: the whole service with an engine that only keeps time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.openai.service_process import ROOT, ServiceProcess, stream_lines

pytestmark = pytest.mark.triton

LONG = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": 4000}
SHORT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


def chat(service: ServiceProcess, body=SHORT, **options) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60, **options)


def health(service: ServiceProcess) -> int:
    try:
        return httpx.get(f"{service.url}/health", timeout=10).status_code
    except httpx.HTTPError:
        return 0


class Running(threading.Thread):
    """A streamed request in the background; `chunks` grow as they come."""

    def __init__(self, service: ServiceProcess, body) -> None:
        super().__init__(daemon=True)
        self.chunks: list[str] = []
        self._service, self._body = service, body
        self.start()
        service.wait_for(lambda: len(self.chunks) > 2)

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError):  # a test may kill the server
            for line in stream_lines(self._service, self._body):
                self.chunks.append(line)

    def end(self, timeout_s: float = 20) -> list[str]:
        self.join(timeout_s)
        assert not self.is_alive(), "the stream did not end"
        return self.chunks


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_stops_generation_within_a_second(paced, engine_stats, stream):
    if stream:
        lines = stream_lines(paced, LONG)
        next(lines)
        paced.wait_for(lambda: engine_stats(paced)["running"] == 1)
        lines.close()
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{paced.url}/v1/chat/completions", json=LONG, timeout=1)
    # The stub's count of streams is exact; the engine tells its own every so often.
    assert paced.wait_for(lambda: engine_stats(paced)["open_streams"] == 0, 5) < 1.0
    paced.wait_for(lambda: engine_stats(paced)["running"] == 0, 5)


@pytest.mark.parametrize("way", ["SIGTERM", "Ctrl-C"])
def test_a_signal_drains_and_leaves_nothing_behind(paced, way):
    running = Running(paced, {**LONG, "max_tokens": 120})
    if way == "SIGTERM":
        paced.send_signal(signal.SIGTERM)
    else:
        paced.press_ctrl_c()
    paced.wait_for(lambda: health(paced) == 503)
    refused = chat(paced)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    chunks = running.end()
    assert chunks[-1] == "[DONE]"
    assert json.loads(chunks[-2])["choices"][0]["finish_reason"] == "length"
    assert paced.wait_exit(30) == 0, paced.log()
    paced.assert_nothing_is_left()


def test_a_second_signal_ends_everything_at_once(paced):
    running = Running(paced, LONG)
    paced.send_signal(signal.SIGINT)
    paced.wait_for(lambda: health(paced) == 503)
    start = time.monotonic()
    paced.send_signal(signal.SIGINT)
    assert paced.wait_exit(20) == 130
    assert time.monotonic() - start < 8
    running.end()
    paced.assert_nothing_is_left()


def test_what_is_left_after_the_drain_time_gets_an_error(checkpoint):
    flags = ("--model", checkpoint, "--executor", "paced", "--drain-timeout", "0.5")
    with ServiceProcess(*flags, tokens_per_s=50) as service:
        running = Running(service.wait_ready(), LONG)
        service.send_signal(signal.SIGTERM)
        chunks = running.end()
        assert json.loads(chunks[-2])["error"]["code"] == "shutting_down"
        assert service.wait_exit(30) == 0
        service.assert_nothing_is_left()


def test_a_signal_while_loading_ends_the_start(checkpoint):
    with ServiceProcess("--model", checkpoint, "--executor", "paced") as service:
        service.wait_for(lambda: "Loading" in service.log())
        service.note_children()
        service.send_signal(signal.SIGTERM)
        assert service.wait_exit(20) == 143
        service.assert_nothing_is_left()


def test_a_killed_tritonserver_is_replaced(paced):
    running = Running(paced, LONG)
    first = paced.child("bin/tritonserver")
    first.kill()
    paced.wait_for(lambda: health(paced) == 503, 5)
    chunks = running.end()
    assert json.loads(chunks[-2])["error"]["type"] == "server_error"
    reply = chat(paced)
    assert reply.status_code == 503
    assert "retry-after" in reply.headers
    paced.wait_for(lambda: health(paced) == 200, 60)
    assert chat(paced).status_code == 200
    assert paced.child("bin/tritonserver").pid != first.pid
    assert "SIGKILL" in paced.log()
    paced.send_signal(signal.SIGTERM)
    assert paced.wait_exit(30) == 0
    paced.assert_nothing_is_left()


def test_a_stopped_tritonserver_is_found_and_replaced(paced):
    server = paced.child("bin/tritonserver")
    os.kill(server.pid, signal.SIGSTOP)
    paced.wait_for(lambda: health(paced) == 503, 10)
    paced.wait_for(lambda: not server.is_running(), 40)
    paced.wait_for(lambda: health(paced) == 200, 60)
    assert chat(paced).status_code == 200


@pytest.mark.parametrize("model", ["multimodal_preprocessor", "response_postprocessor"])
def test_a_dead_model_process_is_found_and_replaced(paced, model):
    stub = paced.child(f"{model}/")
    stub.kill()
    paced.wait_for(lambda: "starting tritonserver again" in paced.log(), 40)
    paced.wait_for(lambda: "tritonserver is back" in paced.log(), 60)
    paced.wait_for(lambda: health(paced) == 200, 10)
    assert chat(paced).status_code == 200


def test_metrics_may_have_a_port_of_their_own(checkpoint):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ("--model", checkpoint, "--executor", "paced", "--metrics-port", str(port))
    with ServiceProcess(*flags) as service:
        service.wait_ready()
        assert f"Launching metrics service at http://127.0.0.1:{port}/metrics" in service.log()
        assert "fastdeploy:" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert httpx.get(f"{service.url}/metrics").status_code == 404
        service.send_signal(signal.SIGTERM)
        assert service.wait_exit(30) == 0


def test_a_busy_port_is_told_before_anything_starts(checkpoint):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "openai_frontend.api_server", "--model", checkpoint),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 2
    assert f"--port: cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_checkpoint_that_cannot_be_loaded_ends_the_start_with_its_reason(checkpoint, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in os.scandir(checkpoint):
        if file.name != "tokenizer.model":
            (broken / file.name).symlink_to(file.path)
    with ServiceProcess("--model", str(broken), "--executor", "paced") as service:
        service.note_children()
        assert service.wait_exit(60) == 1
        assert "tokenizer.model" in service.log()
        service.assert_nothing_is_left()
