import dataclasses
import errno
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from backend.engine import supervisor as supervisor_module
from backend.engine.protocol import Submit, pack_arrays
from backend.engine.supervisor import Supervisor, engine_command
from backend.errors import EngineUnavailableError
from backend.wire import EngineOutput

ROOT = Path(__file__).parents[3]


class FakeListener:
    def __init__(self):
        self.outputs = []
        self.errors = []
        self.is_down = threading.Event()

    def on_outputs(self, outputs):
        self.outputs += outputs

    def on_tokens(self, tokens):
        self.outputs += [EngineOutput(key, 0, token_ids=ids) for key, ids in tokens.items()]

    def on_down(self, error):
        self.errors.append(error)
        self.is_down.set()


@pytest.fixture
def listener():
    return FakeListener()


@pytest.fixture
def make(settings, listener, until):
    made = []

    def make_supervisor(command=engine_command, **changes):
        made.append(
            Supervisor(
                dataclasses.replace(settings, **changes), listener, command, min_backoff_s=0.01
            )
        )
        return made[-1]

    yield make_supervisor
    for item in made:
        pid = item.pid
        item.stop()
        until(lambda pid=pid: pid is None or not Path(f"/proc/{pid}").exists())


@pytest.fixture
def script(tmp_path):
    """A child that runs `body` with a connection instead of an engine."""

    def make_command(body):
        file = tmp_path / "child.py"
        file.write_text(
            f"import sys, os, socket, time; sys.path.insert(0, {str(ROOT)!r})\n"
            "from backend.engine.protocol import *\n"
            "connection = Connection(socket.socket(fileno=int(sys.argv[1])))\n"
            "connection.receive()\n" + body
        )
        return lambda descriptor: [sys.executable, str(file), str(descriptor)]

    return make_command


def test_start_waits_until_the_engine_serves(make, make_request, prompt, listener, until):
    supervisor = make()
    supervisor.start()
    assert supervisor.is_ready
    supervisor.send(Submit(make_request(max_tokens=3)), pack_arrays(prompt, None))
    until(lambda: listener.outputs and listener.outputs[-1].is_last)
    stats = supervisor.stats()
    assert (stats["state"], stats["engine_up"], stats["engine_restarts"]) == ("ready", 1, 0)
    assert stats["engine_pid"] == supervisor.pid


def test_a_first_load_that_fails_says_why_and_is_not_repeated(make, script):
    body = (
        "connection.send(Failed(error=ErrorInfo(500, 's', 'invalid_checkpoint',\n"
        "    'model-00001.safetensors: tensor norm.weight is missing')))\n"
        "sys.exit(3)\n"
    )
    supervisor = make(script(body))
    with pytest.raises(EngineUnavailableError, match=r"tensor norm\.weight is missing"):
        supervisor.start()
    assert supervisor.state == "failed"
    assert supervisor.num_restarts == 0


def test_a_child_that_dies_at_once_is_named_by_its_status(make, script):
    with pytest.raises(EngineUnavailableError, match="ended with status 7"):
        make(script("os._exit(7)\n")).start()


def test_a_process_that_cannot_be_made_is_a_load_that_failed(make):
    with pytest.raises(EngineUnavailableError, match=r"cannot be made: .* No such file"):
        make(lambda descriptor: ["/nowhere/python3"]).start()


def test_a_restart_that_the_system_refuses_is_tried_again(make, listener, until):
    refusals = [OSError(errno.EAGAIN, "Resource temporarily unavailable")] * 2

    def command(descriptor):
        if listener.errors and refusals:
            raise refusals.pop()
        return engine_command(descriptor)

    supervisor = make(command)
    supervisor.start()
    first = supervisor.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.is_ready and supervisor.pid != first)
    assert supervisor.num_restarts == 3
    assert "cannot be made" in listener.errors[-1].message


def test_a_killed_engine_is_reported_and_started_again(make, listener, until, make_request, prompt):
    supervisor = make()
    supervisor.start()
    first = supervisor.pid
    os.kill(first, signal.SIGKILL)
    assert listener.is_down.wait(5)
    assert listener.errors[0].code == "engine_restarting"
    assert listener.errors[0].status == 503
    assert listener.errors[0].retry_after_s > 0
    assert "SIGKILL" in listener.errors[0].message
    until(lambda: supervisor.is_ready and supervisor.pid != first)
    assert supervisor.num_restarts == 1
    supervisor.send(Submit(make_request(max_tokens=3)), pack_arrays(prompt, None))
    until(lambda: listener.outputs and listener.outputs[-1].is_last)


def test_while_the_engine_is_down_requests_are_refused(make, listener, make_request, prompt):
    supervisor = make()
    supervisor._min_backoff_s = 30.0
    supervisor.start()
    os.kill(supervisor.pid, signal.SIGKILL)
    assert listener.is_down.wait(5)
    with pytest.raises(EngineUnavailableError) as caught:
        supervisor.send(Submit(make_request()), pack_arrays(prompt, None))
    assert caught.value.code == "engine_restarting"
    assert caught.value.retry_after_s >= 30
    assert supervisor.stats()["engine_up"] == 0


def test_a_hanging_engine_is_killed_and_started_again(make, listener, until):
    supervisor = make(hang_timeout_s=0.8)
    supervisor.start()
    first = supervisor.pid
    supervisor.check()
    os.kill(first, signal.SIGSTOP)
    until(lambda: supervisor.check() or listener.errors)
    assert "gave no sign of life" in listener.errors[0].message
    until(lambda: supervisor.is_ready and supervisor.pid != first)


def test_a_time_in_which_nobody_looked_is_no_hang(make, listener, until):
    """As after the whole container was frozen: the watchdog may wake up before the engine."""
    supervisor = make(hang_timeout_s=0.8)
    supervisor.start()
    os.kill(supervisor.pid, signal.SIGSTOP)
    until(lambda: supervisor.stats()["heartbeat_age_s"] > 1.0)
    supervisor.check()
    os.kill(supervisor.pid, signal.SIGCONT)
    until(lambda: supervisor.check() or supervisor.stats()["heartbeat_age_s"] < 0.5)
    assert (supervisor.num_restarts, listener.errors) == (0, [])


def test_a_slow_load_is_no_hang(make, script):
    body = (
        "connection.send(Heartbeat()); time.sleep(0.6)\n"
        "connection.send(Heartbeat()); time.sleep(0.6)\n"
        "connection.send(Ready(stats={})); connection.receive()\n"
    )
    supervisor = make(script(body), hang_timeout_s=1.0)
    checker = threading.Event()

    def check():
        while not checker.wait(0.05):
            supervisor.check()

    thread = threading.Thread(target=check)
    thread.start()
    supervisor.start()
    checker.set()
    thread.join()
    assert supervisor.is_ready


def test_an_engine_that_keeps_dying_is_given_up(make, script, listener, until):
    supervisor = make(script("connection.send(Ready(stats={})); os._exit(9)\n"))
    supervisor.start()
    until(lambda: listener.errors and listener.errors[-1].code == "engine_failed")
    assert supervisor.state == "failed"
    assert supervisor.num_restarts == supervisor_module.MAX_RESTARTS
    assert "6 times in 10 minutes" in listener.errors[-1].message
    assert "status 9" in listener.errors[-1].message


def test_what_is_no_frame_ends_the_process(make, script, listener, until):
    supervisor = make(
        script("connection.send(Ready(stats={})); connection._socket.sendall(b'x' * 64)\n")
    )
    supervisor.start()
    assert listener.is_down.wait(10)


def test_stop_ends_the_process_and_nothing_restarts_it(make, listener, is_alive, until):
    supervisor = make()
    supervisor.start()
    pid = supervisor.pid
    supervisor.stop()
    until(lambda: not is_alive(pid))
    assert supervisor.unavailable().code == "shutting_down"
    assert listener.errors == []


def test_stop_ends_a_process_that_does_not_listen(make, is_alive, until, monkeypatch):
    monkeypatch.setattr(supervisor_module, "SHUTDOWN_GRACE_S", 0.2)
    supervisor = make()
    supervisor.start()
    os.kill(supervisor.pid, signal.SIGSTOP)
    supervisor.stop()
    until(lambda: not is_alive(supervisor.pid))


def test_stop_during_the_wait_before_a_restart_returns_at_once(make, listener):
    supervisor = make()
    supervisor._min_backoff_s = 60.0
    supervisor.start()
    os.kill(supervisor.pid, signal.SIGKILL)
    assert listener.is_down.wait(5)
    supervisor.stop()
    assert supervisor.state == "stopped"
