"""Questions to the preprocessor: answered without pixels, and without the engine."""

from __future__ import annotations

import queue

import numpy as np
import pytest

from backend import shared_memory, wire
from backend.engine.submission import check_request
from backend.errors import InvalidRequestError
from backend.preprocess import PreparedRequest
from backend.stub.preprocess_pool import Job, PreprocessPool


class FakePreprocessor:
    def prepare(self, request, media, request_id):
        ids = np.arange(5, dtype=np.int32)
        pixels = np.zeros((4, 588), np.uint8) if media else None
        engine = wire.EngineRequest(stream_key="k", request_id=request_id)
        return PreparedRequest(engine, ids, np.tile(ids, (3, 1)), pixels)

    def detokenize(self, request):
        if request.prompt is None:
            raise InvalidRequestError("tokens is missing", param="tokens")
        return f"{len(request.prompt)} tokens"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    pool = PreprocessPool(FakePreprocessor(), media_threads=1)

    def submit(body, media=()):
        answers = queue.Queue()
        pool.submit(Job(body=body, media=media, request_id="id", reply=answers.put))
        return answers.get(timeout=10)

    yield submit
    pool.close()


def test_tokenize_answers_the_ids_and_writes_no_pixels(ask, tmp_path):
    answer = ask(b'{"op": "tokenize", "prompt": "a"}', [b"picture"])
    assert answer.request.op == "tokens"
    assert answer.request.pixels is None
    assert answer.prompt_ids.tolist() == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


def test_detokenize_answers_the_text_or_its_refusal(ask):
    assert ask(b'{"op": "detokenize", "prompt": [1, 2]}').request.text == "2 tokens"
    assert ask(b'{"op": "detokenize"}').request.error.param == "tokens"


def test_the_engine_refuses_the_answer_to_a_question(ask):
    answer = ask(b'{"op": "tokenize", "prompt": "a"}')
    with pytest.raises(InvalidRequestError, match="multimodal_preprocessor"):
        check_request(answer.request)
