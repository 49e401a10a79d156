import threading
import time
from pathlib import Path

import numpy as np
import pytest

from backend import shared_memory
from backend.config.serving import EngineSettings
from backend.wire import EngineRequest


@pytest.fixture(autouse=True)
def shared_memory_folder(tmp_path, monkeypatch):
    """No test leaves a file behind, whatever the code does."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(shared_memory, "FOLDER", folder)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def settings(tmp_path):
    return EngineSettings(
        model=tmp_path, executor="paced", tokens_per_s=200.0, max_num_seqs=4, max_num_waiting=4
    )


class FakeResponder:
    """Keeps what a client would get. `gate` holds back sends until it is set."""

    def __init__(self):
        self.outputs = []
        self.is_complete = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.cancelled = False
        self.num_asked = 0
        self.error = None

    def send(self, output):
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        assert not self.is_complete.is_set(), "an output after the last one"
        self.outputs.append(output)
        if output.is_last:
            self.is_complete.set()

    def is_cancelled(self):
        assert not self.is_complete.is_set(), "asked after the last output"
        self.num_asked += 1
        return self.cancelled

    @property
    def token_ids(self):
        return [token_id for output in self.outputs for token_id in output.token_ids]

    def wait(self, timeout_s=10.0):
        assert self.is_complete.wait(timeout_s), f"no last output, only {self.outputs}"
        return self.outputs[-1]


@pytest.fixture
def responder():
    return FakeResponder()


@pytest.fixture
def make_responder():
    return FakeResponder


@pytest.fixture
def make_request():
    def make(key="k", **fields):
        sampling = {"max_tokens": fields.pop("max_tokens", 5)}
        from backend.request import SamplingParams

        return EngineRequest(stream_key=key, sampling=SamplingParams(**sampling), **fields)

    return make


@pytest.fixture
def prompt():
    return np.arange(1, 9, dtype=np.int32)


@pytest.fixture
def until():
    """Wait for something another thread or process will do."""

    def wait(condition, timeout_s=10.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            time.sleep(0.005)

    return wait


@pytest.fixture
def is_alive():
    return lambda pid: Path(f"/proc/{pid}").exists()
