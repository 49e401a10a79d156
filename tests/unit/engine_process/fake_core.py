"""A core whose answers can be computed by hand: token i of a prompt is sum(prompt) + i."""

from backend.errors import ContextLengthError, InternalError
from backend.request import FinishReason, Usage
from backend.wire import EngineOutput


class FakeCore:
    def __init__(self):
        self.running = {}
        self.received = []
        self.integrity_checks = 0
        self.integrity_error = None
        self.step_error = None
        self.before_step = lambda: None

    def add(self, request, prompt_ids, positions, pixels):
        if prompt_ids.size > 100:
            raise ContextLengthError(f"{prompt_ids.size} tokens, at most 100")
        self.received.append((request, prompt_ids, positions, pixels))
        self.running[request.stream_key] = [int(prompt_ids.sum()), 0, request, prompt_ids.size]

    def stop_stream(self, stream_key):
        if stream_key not in self.running:
            return False
        self.running[stream_key][2].sampling = None
        return True

    def has_work(self):
        return bool(self.running)

    def step(self):
        self.before_step()
        if self.step_error is not None:
            raise self.step_error
        outputs = []
        for key, state in list(self.running.items()):
            start, count, request, size = state
            if request.sampling is None:
                outputs.append(
                    EngineOutput(stream_key=key, seq=0, finish_reason=FinishReason.ABORT)
                )
                del self.running[key]
                continue
            state[1] += 1
            output = EngineOutput(stream_key=key, seq=0, token_ids=[start + count])
            if state[1] == request.sampling.max_tokens:
                output.finish_reason = FinishReason.LENGTH
                output.usage = Usage(prompt_tokens=size, completion_tokens=state[1])
                del self.running[key]
            outputs.append(output)
        return outputs

    def check_integrity(self):
        self.integrity_checks += 1
        if self.integrity_error:
            raise InternalError(self.integrity_error)

    def stats(self):
        return {"running": len(self.running), "waiting": 0}
