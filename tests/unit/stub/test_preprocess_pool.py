import threading

import numpy as np
import pytest

from backend import shared_memory, wire
from backend.errors import MediaError
from backend.preprocess import PreparedRequest
from backend.stub import preprocess_pool as pool_module
from backend.stub.preprocess_pool import Job, PreprocessPool

TEXT = b'{"prompt": "hi"}'
PICTURE = b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}'


class FakePreprocessor:
    """`gate` holds back requests with media, as a slow host would, and chats."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def prepare(self, request, media, request_id):
        if request.messages or media:
            self.gate.wait(10)
        if self.error is not None:
            raise self.error
        pixels = np.zeros((4, 588), np.uint8) if media else None
        engine = wire.EngineRequest(stream_key="k", request_id=request_id)
        ids = np.arange(3, dtype=np.int32)
        return PreparedRequest(engine, ids, np.tile(ids, (3, 1)), pixels)


class Reply:
    def __init__(self, error=None):
        self.results = []
        self.error = error
        self.came = threading.Event()

    def __call__(self, result):
        self.results.append(result)
        self.came.set()
        if self.error is not None:
            raise self.error

    def wait(self):
        assert self.came.wait(10)
        [result] = self.results
        return result


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def preprocessor():
    return FakePreprocessor()


@pytest.fixture
def pool(preprocessor):
    pool = PreprocessPool(preprocessor, media_threads=2)
    yield pool
    preprocessor.gate.set()
    pool.close()


@pytest.fixture
def submit(pool):
    def submit_job(body=TEXT, media=(), error=None):
        reply = Reply(error)
        pool.submit(Job(body=body, media=media, request_id="id", reply=reply))
        return reply

    return submit_job


def test_a_request_is_made_ready_for_the_engine(submit):
    result = submit().wait()
    assert (result.request.op, result.request.request_id) == ("generate", "id")
    assert result.request.acknowledged
    assert result.request.received_at > 0
    assert (result.prompt_ids.shape, result.positions.shape) == ((3,), (3, 3))


def test_pixels_go_through_shared_memory(submit):
    handle = submit(media=[b"png"]).wait().request.pixels
    assert shared_memory.read_pixels(handle).shape == (4, 588)


@pytest.mark.parametrize(
    ("body", "code"), [(b"", "invalid_json"), (b'{"prompt": {}}', "invalid_value")]
)
def test_a_body_that_cannot_be_read_is_an_error_on_its_way(submit, body, code):
    result = submit(body).wait()
    assert (result.request.op, result.request.error.code) == ("error", code)
    assert result.request.stream_key
    assert (result.prompt_ids.shape, result.positions.shape) == ((0,), (3, 0))


def test_a_mistake_of_the_client_is_an_error_on_its_way(submit, preprocessor):
    preprocessor.error = MediaError("image 0 is no picture")
    assert submit().wait().request.error.message == "image 0 is no picture"


def test_a_mistake_of_ours_says_no_more_than_its_kind(submit, preprocessor):
    preprocessor.error = KeyError("/secret/path")
    error = submit().wait().request.error
    assert (error.status, error.message) == (500, "KeyError in the preprocessor")


def test_text_goes_through_however_many_media_are_slow(submit, preprocessor):
    preprocessor.gate.clear()
    slow = [submit(PICTURE) for _ in range(5)]
    assert submit().wait().request.op == "generate"
    assert not any(reply.came.is_set() for reply in slow)
    preprocessor.gate.set()
    for reply in slow:
        assert reply.wait().request.op == "generate"


def test_short_texts_go_through_however_many_long_ones_are_read(submit, preprocessor):
    preprocessor.gate.clear()
    words = b"word " * (pool_module.LONG_BODY_BYTES // 5)
    long = b'{"messages": [{"role": "user", "content": "' + words + b'"}]}'
    slow = [submit(long) for _ in range(5)]
    assert submit().wait().request.op == "generate"
    assert not any(reply.came.is_set() for reply in slow)
    preprocessor.gate.set()
    for reply in slow:
        assert reply.wait().request.op == "generate"


def test_more_than_the_limit_is_refused_at_once(submit, preprocessor, monkeypatch):
    monkeypatch.setattr(pool_module, "MAX_WAITING", 3)
    preprocessor.gate.clear()
    running = [submit(PICTURE) for _ in range(2)]
    for reply in running:
        assert not reply.came.is_set()
    waiting = []
    while not (waiting and waiting[-1].came.is_set()):
        assert len(waiting) < 10
        waiting.append(submit(PICTURE))
    assert waiting[-1].results[0].request.error.status == 429
    preprocessor.gate.set()
    for reply in [*running, *waiting[:-1]]:
        assert reply.wait().request.op == "generate"


def test_pixels_of_a_request_triton_no_longer_takes_are_removed(submit, pool, folder):
    submit(media=[b"png"], error=RuntimeError("gone")).wait()
    pool.close()
    assert list(folder.iterdir()) == []


def test_nothing_is_left_of_pixels_that_nobody_fetched(submit, pool, folder):
    submit(media=[b"png"]).wait()
    assert len(list(folder.iterdir())) == 1
    pool.close()
    assert list(folder.iterdir()) == []


def test_a_closed_pool_refuses(submit, pool):
    pool.close()
    assert submit().wait().request.error.code == "shutting_down"
