import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from backend import shared_memory
from backend.engine.process import EXIT_FAULT, EngineLoop
from backend.engine.protocol import (
    Configure,
    Connection,
    ConnectionClosed,
    Failed,
    Heartbeat,
    Outputs,
    Ready,
    StopStream,
    Submit,
    pack_arrays,
)
from backend.errors import InternalError
from backend.request import FinishReason
from backend.wire import EngineOutput, EngineRequest, PixelHandle
from tests.unit.engine_process.fake_core import FakeCore


class Engine:
    """An EngineLoop in a thread, seen from the stub's end of the socket."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.core = FakeCore()
        self.connection = Connection(ours)
        self.error = None
        self._theirs = Connection(theirs)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            EngineLoop(self.core, self._theirs).run()
        except Exception as error:
            self.error = error
        self._theirs.close()

    def receive(self, kind):
        while True:
            message, _ = self.connection.receive()
            if isinstance(message, kind):
                return message

    def submit(self, request, prompt, positions=None):
        self.connection.send(Submit(request), pack_arrays(prompt, positions))

    def collect(self, key):
        """All outputs of a stream up to its last."""
        outputs = []
        while not outputs or not outputs[-1].is_last:
            outputs += [o for o in whole(self.receive(Outputs)) if o.stream_key == key]
        return outputs


def whole(message):
    """All outputs of one step."""
    tokens = message.tokens.items()
    return [*(EngineOutput(key, 0, token_ids=ids) for key, ids in tokens), *message.outputs]


@pytest.fixture
def engine():
    engine = Engine()
    assert engine.receive(Ready).stats["running"] == 0
    yield engine
    engine.connection.shutdown()
    engine.thread.join(5)
    assert not engine.thread.is_alive()
    engine.connection.close()


def test_a_request_is_run_to_its_end(engine, make_request, prompt):
    engine.submit(make_request(max_tokens=4), prompt)
    outputs = engine.collect("k")
    assert [token for output in outputs for token in output.token_ids] == [36, 37, 38, 39]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert engine.receive(Heartbeat).stats["running"] == 0
    assert engine.core.integrity_checks == 1


def test_arrays_and_pixels_reach_the_core(engine, make_request, prompt, shared_memory_folder):
    pixels = np.full((4, 588), 9, np.uint8)
    positions = np.arange(24, dtype=np.int32).reshape(3, 8)
    engine.submit(make_request(pixels=shared_memory.write_pixels(pixels)), prompt, positions)
    engine.collect("k")
    _, got_prompt, got_positions, got_pixels = engine.core.received[0]
    assert np.array_equal(got_prompt, prompt)
    assert np.array_equal(got_positions, positions)
    assert np.array_equal(got_pixels, pixels)
    assert list(shared_memory_folder.iterdir()) == []


def test_pixels_do_not_wait_in_their_file_for_the_end_of_a_step(
    engine, make_request, prompt, shared_memory_folder, until
):
    is_begun, may_end = threading.Event(), threading.Event()

    def before_step():
        is_begun.set()
        may_end.wait(20)

    engine.core.before_step = before_step
    engine.submit(make_request("first", max_tokens=1), prompt)
    is_begun.wait(10)
    pixels = np.full((4, 588), 9, np.uint8)
    engine.submit(make_request(pixels=shared_memory.write_pixels(pixels)), prompt)
    until(lambda: not list(shared_memory_folder.iterdir()))
    may_end.set()
    engine.collect("k")
    assert np.array_equal(engine.core.received[1][3], pixels)


def test_a_refused_request_gets_an_error_and_others_go_on(engine, make_request, prompt):
    engine.submit(make_request("long"), np.ones(101, np.int32))
    engine.submit(make_request("good"), prompt)
    [refusal] = engine.collect("long")
    assert (refusal.error.status, refusal.error.code) == (400, "context_length_exceeded")
    assert engine.collect("good")[-1].finish_reason is FinishReason.LENGTH


def test_pixels_that_are_gone_are_one_requests_error(engine, make_request, prompt):
    handle = PixelHandle(name=f"ernie-pixels-1-{'0' * 16}", num_rows=1, row_size=588)
    engine.submit(make_request(pixels=handle), prompt)
    [refusal] = engine.collect("k")
    assert refusal.error.status == 400


def test_a_stream_is_stopped_while_it_runs(engine, make_request, prompt):
    engine.submit(make_request(max_tokens=10**6), prompt)
    engine.receive(Outputs)
    engine.connection.send(StopStream("k"))
    engine.connection.send(StopStream("unknown"))
    while (output := whole(engine.receive(Outputs))[0]).finish_reason is None:
        pass
    assert output.finish_reason is FinishReason.ABORT


def test_heartbeats_come_when_there_is_nothing_to_do(engine):
    for _ in range(2):
        assert engine.receive(Heartbeat).stats["engine_steps"] == 0


def test_a_failed_integrity_check_is_reported(engine, make_request, prompt):
    engine.core.integrity_error = "free 3 + held 4 != total 8"
    engine.submit(make_request(), prompt)
    engine.collect("k")
    assert engine.receive(Heartbeat).stats["integrity_failures"] == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), InternalError("blocks may hold NaN")])
def test_a_broken_core_ends_the_process(make_request, prompt, error):
    engine = Engine()
    engine.core.step_error = error
    engine.submit(make_request(), prompt)
    engine.thread.join(5)
    assert engine.error is error
    engine.connection.close()


def start_process(settings, **fields):
    from backend.engine.supervisor import engine_command

    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        engine_command(theirs.fileno()), pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
    )
    theirs.close()
    connection = Connection(ours)
    connection.send(Configure({"model": str(settings.model), "executor": "paced", **fields}))
    return process, connection


def test_a_core_that_fails_ends_the_process_whatever_its_teardown_does(tmp_path):
    """Such as a device that has lost its context, whose libraries wait for it at exit."""
    root = Path(__file__).parents[3]
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import atexit, time\n"
        "from backend.engine import process\n"
        "from tests.unit.engine_process.fake_core import FakeCore\n"
        "atexit.register(time.sleep, 60)\n"
        "def load_core(settings):\n"
        "    core = FakeCore()\n"
        "    core.step_error = RuntimeError('cudaGraphLaunch: an illegal memory access')\n"
        "    return core\n"
        "process.load_core = load_core\n"
        "process.end(process.main(sys.argv[1:]))\n"
    )
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, str(script), str(theirs.fileno()), str(os.getpid())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        theirs.close()
        connection = Connection(ours)
        connection.send(Configure({"model": "any"}))
        while not isinstance(connection.receive()[0], Ready):
            pass
        request = EngineRequest(stream_key="k")
        connection.send(Submit(request), pack_arrays(np.arange(3, dtype=np.int32), None))
        with pytest.raises(ConnectionClosed):
            while True:
                connection.receive()
        assert child.wait(10) == EXIT_FAULT
        assert "an illegal memory access" in child.stderr.read()
        connection.close()


def test_the_real_process_serves_and_ends_with_its_connection(settings, make_request, prompt):
    process, connection = start_process(settings, tokens_per_s=1000.0)
    while not isinstance(connection.receive()[0], Ready):
        pass
    assert Path(f"/proc/{process.pid}/comm").read_text() == "ernie-engine\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    connection.send(Submit(make_request(max_tokens=3)), pack_arrays(prompt, None))
    num_tokens = 0
    while num_tokens < 3:
        message, _ = connection.receive()
        if isinstance(message, Outputs):
            num_tokens += sum(len(output.token_ids) for output in whole(message))
    connection.close()
    assert process.wait(5) == 0
    process.stderr.close()


def test_what_prevents_loading_is_told_in_its_own_words(settings):
    process, connection = start_process(settings, num_wheels=4)
    while not isinstance(message := connection.receive()[0], Failed):
        pass
    assert "num_wheels" in message.error.message
    with pytest.raises(ConnectionClosed):
        connection.receive()
    assert process.wait(5) == 3
    connection.close()
    process.stderr.close()


def test_the_process_dies_with_the_one_that_started_it(settings, tmp_path, until, is_alive):
    script = tmp_path / "parent.py"
    root = Path(__file__).parents[3]
    script.write_text(
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import socket, subprocess, time\n"
        "from backend.engine.supervisor import engine_command\n"
        "ours, theirs = socket.socketpair()\n"
        "child = subprocess.Popen(engine_command(theirs.fileno()), pass_fds=[theirs.fileno(),\n"
        "                         ours.fileno()])\n"  # the child keeps its own connection open
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        comm = Path(f"/proc/{pid}/comm")
        until(lambda: comm.read_text() == "ernie-engine\n")
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not is_alive(pid) or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
