"""The engine's child process on the GPU with all of the pipeline but Triton: preprocessor, client,
supervisor, sender, postprocessor."""

import importlib.util
import os
import queue
import signal
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kernels
from backend import shared_memory, wire
from backend.config.serving import EngineSettings, PostprocessorSettings, PreprocessorSettings
from backend.engine.client import EngineClient
from backend.postprocess import Postprocessor
from backend.preprocess import Preprocessor
from backend.request import FinishReason
from scripts.train_tiny.asking import request_body
from scripts.train_tiny.judging import Reply, judge, parse_call
from scripts.train_tiny.processing import CHECKPOINT
from tests.unit.trained.questions import QUOTAS, questions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        kernels.unavailable_reason() is not None, reason=str(kernels.unavailable_reason())
    ),
]

ROOT = Path(__file__).parents[2]
EXECUTOR, DEVICE = "cuda", "gpu:0"


def _command(descriptor):
    """Like the service's own, but finding packages wherever this process does."""
    code = f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n" + (
        "import runpy; runpy.run_module('backend.engine.process', run_name='__main__', "
        "alter_sys=True)"
    )
    return [sys.executable, "-c", code, str(descriptor), str(os.getpid())]


class Responder:
    """Hands outputs to whoever reads the service's queue."""

    def __init__(self, outputs):
        self._outputs = outputs

    def send(self, output):
        self._outputs.put(output)

    def is_cancelled(self):
        return False


class Service:
    def __init__(self):
        self.client = EngineClient(
            EngineSettings(
                CHECKPOINT,
                executor=EXECUTOR,
                device=DEVICE,
                block_size=64,
                gpu_memory_utilization=0.2,
                hang_timeout_s=20.0,
            ),
            _command,
            min_backoff_s=0.05,
        )
        self._preprocessor = Preprocessor(PreprocessorSettings(CHECKPOINT))
        self._postprocessor = Postprocessor(
            PostprocessorSettings(CHECKPOINT, "ernie-45-vl", "ernie-45-vl-thinking")
        )
        self._outputs = queue.SimpleQueue()
        self._num_asked = 0

    def close(self):
        self.client.close()
        self._preprocessor.close()

    def ask(self, body):
        """Submit a chat request: its stream key."""
        self._num_asked += 1
        request = wire.decode(msgspec.json.encode(body), wire.GenerateRequest)
        prepared = self._preprocessor.prepare(request, (), f"request-{self._num_asked}")
        if prepared.pixels is not None:
            prepared.engine.pixels = shared_memory.write_pixels(prepared.pixels)
        self.client.submit(
            prepared.engine, prepared.prompt_ids, prepared.positions, Responder(self._outputs)
        )
        return prepared.engine.stream_key

    def stop(self, key):
        """Stop a stream; its last event comes all the same."""
        ignored = Responder(queue.SimpleQueue())
        request = wire.EngineRequest(stream_key=key, op="stop")
        self.client.submit(request, None, None, ignored)

    def next_event(self, key, timeout_s=60.0):
        """The next event of this stream, the only open one."""
        deadline = time.monotonic() + timeout_s
        event = None
        while event is None:
            output = self._outputs.get(timeout=deadline - time.monotonic())
            assert output.stream_key == key
            event = self._postprocessor.process(output)
        return event

    def events(self, keys, timeout_s=60.0):
        """All events of these streams, until each has its last."""
        events = {key: [] for key in keys}
        deadline = time.monotonic() + timeout_s
        while not all(mine and mine[-1].is_last for mine in events.values()):
            output = self._outputs.get(timeout=deadline - time.monotonic())
            event = self._postprocessor.process(output)
            if event is not None:
                events[output.stream_key].append(event)
        return events

    def until(self, condition, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.client.stats()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def service():
    service = Service()
    try:
        began = time.monotonic()
        service.client.start()
        print(f"the engine started in {time.monotonic() - began:.1f} s")
        yield service
    finally:
        service.close()


def _reply(events):
    content = "".join(event.delta.content for event in events)
    reasoning = "".join(event.delta.reasoning for event in events)
    calls = [call for event in events for call in event.delta.tool_calls]
    call = None
    if calls:
        name = "".join(call.name or "" for call in calls)
        arguments = "".join(call.arguments for call in calls)
        call = parse_call(f'{{"name": "{name}", "arguments": {arguments}}}')
    return Reply(reasoning.strip(), content.strip(), call)


def _assert_whole(events):
    """A stream's events in order, the last of which ends it, hold every token that was counted, but
    for the one that ends an answer, which is not shown."""
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]
    is_ended = last.finish_reason in (FinishReason.STOP, FinishReason.TOOL_CALLS)
    num_tokens = sum(len(event.token_ids) for event in events) + is_ended
    assert num_tokens == last.usage.completion_tokens > is_ended


def _body(text, **changes):
    return {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 60,
        "stream": True,
        "metadata": {"enable_thinking": False},
        **changes,
    }


def test_the_trained_questions_are_answered_through_the_child_process(service):
    has_av = importlib.util.find_spec("av") is not None
    cases = [case for case in questions() if has_av or case.skill != "films"]
    changes = {"stream": True, "return_token_ids": True}
    keys = [service.ask({**request_body(case.sample), **changes}) for case in cases]
    events = service.events(keys)
    right = {}
    for case, key in zip(cases, keys, strict=True):
        assert events[key][-1].error is None
        _assert_whole(events[key])
        verdict = judge(case, _reply(events[key]))
        right.setdefault(case.sample.task, []).append(verdict.right)
    shares = {task: float(np.mean(verdicts)) for task, verdicts in right.items()}
    print(shares)
    assert all(share >= QUOTAS[task].required for task, share in shares.items()), shares
    # What waits to be sent merges, so a reply of a few tokens may come at once, but not most.
    share_streamed = float(np.mean([len(events[key]) > 1 for key in keys]))
    print(f"{share_streamed:.0%} of the replies came in several events")
    assert share_streamed > 0.5, [len(events[key]) for key in keys]


def test_a_reply_begins_long_before_it_ends(service):
    """What comes is stopped at its first event: a reply that is kept until it is whole has all of
    its tokens by then, thousands of steps later."""
    key = service.ask(_body("Hello!", max_tokens=3000, ignore_eos=True, return_token_ids=True))
    first = service.next_event(key)
    assert first.error is None
    assert not first.is_last, "nothing was streamed"
    service.stop(key)
    (rest,) = service.events([key]).values()
    _assert_whole([first, *rest])
    assert rest[-1].finish_reason is FinishReason.ABORT
    assert rest[-1].usage.completion_tokens < 3000


def test_a_killed_gpu_process_is_restarted_and_answers_as_before(service):
    (before,) = service.events([service.ask(_body("Hello!"))]).values()
    long = service.ask(_body("Hello!", max_tokens=3000, ignore_eos=True))
    process = service.client.stats()["engine_pid"]
    os.kill(process, signal.SIGKILL)
    (events,) = service.events([long]).values()
    assert (events[-1].error.status, events[-1].error.code) == (503, "engine_restarting")
    began = time.monotonic()
    service.until(lambda: service.client.is_ready and service.client.stats()["engine_pid"])
    print(f"restarted in {time.monotonic() - began:.1f} s")
    assert service.client.stats()["engine_pid"] != process
    (after,) = service.events([service.ask(_body("Hello!"))]).values()
    assert _reply(after) == _reply(before)
    assert after[-1].finish_reason is FinishReason.STOP
