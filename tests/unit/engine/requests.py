"""EngineRequests, an engine around the fake model, and what its streams brought."""

from pathlib import Path

import numpy as np

from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.media.positions import rotary_positions
from backend.request import SamplingParams
from backend.runner import ModelRunner
from backend.runner.runner import Computed
from backend.sampler import SampledToken
from backend.scheduler.request import PENDING_ID
from backend.wire import EngineRequest, MediaSpan
from tests.unit.engine import fake_model as fake

SETTINGS = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 16,
    "max_num_waiting": 8,
    "block_size": 4,
    "num_kv_blocks": 64,
    "max_model_len": 128,
}


RUNNER_TYPES = [ModelRunner]
"""The last one is used; see the fixture each_runner."""


class AheadRunner(ModelRunner):
    """Submits a step before the tokens of the one before are known to the engine, as a device does
    that feeds its own tokens back; it alone remembers them."""

    runs_ahead = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._tokens = {}

    def may_run_ahead(self, request):
        return request.sampling.control is None and not request.sampling.params.bad_words

    def submit(self, chunks):
        kept = [(chunk.request, list(chunk.request.output_ids)) for chunk in chunks]
        for request, output_ids in kept:
            known = self._tokens.setdefault(request, [])
            for place, token_id in enumerate(output_ids):
                if token_id == PENDING_ID:  # after a failure, the engine does not know of it yet
                    token_id = known[place] if place < len(known) else 0
                request.output_ids[place] = token_id
        results = self.run(chunks)
        for chunk, result in zip(chunks, results, strict=True):
            if isinstance(result, SampledToken):
                known = self._tokens[chunk.request]
                known[:] = [*chunk.request.output_ids, result.token_id]
        for request, output_ids in kept:
            request.output_ids[:] = output_ids
        return Computed(results)


def make_core(model=None, config=fake.CONFIG, **settings):
    return EngineCore(
        model or fake.FakeModel(),
        config,
        EngineSettings(model=Path("none"), **{**SETTINGS, **settings}),
        eos_token_ids=[fake.EOS_ID],
        num_token_ids=fake.VOCAB_SIZE,
        make_runner=RUNNER_TYPES[-1],
    )


def make_request(key="a", request_id="", media=(), priority=0, cache_salt="", **sampling):
    sampling = {"temperature": 0.0, **sampling}
    return EngineRequest(
        stream_key=key,
        request_id=request_id or f"id-{key}",
        sampling=SamplingParams(**sampling),
        media=tuple(media),
        priority=priority,
        cache_salt=cache_salt,
    )


def ids_of(tokens):
    return np.array(tokens, dtype=np.int32)


class Prompt:
    """Text tokens and pictures in order, with all that belongs to them.

    `Prompt(5, picture(2, 4, value=7), 6)`: START, placeholders and END stand around each picture.
    """

    def __init__(self, *parts):
        ids, spans, pixels, values = [], [], [], []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                values.append(part)
                continue
            grid, patches = part
            embedded = fake.embedding_values(patches, grid)
            kind = "image" if grid[0] == 1 else "video"
            first_row = sum(len(rows) for rows in pixels)
            offset = len(ids) + 1
            spans.append(MediaSpan(kind, offset, len(embedded), grid, first_row, "00"))
            ids += [fake.START_ID, *[fake.IMAGE_ID] * len(embedded), fake.END_ID]
            values += [fake.START_ID, *embedded, fake.END_ID]
            pixels.append(patches)
        self.ids = ids_of(ids)
        self.media = tuple(spans)
        self.pixels = np.concatenate(pixels) if pixels else None
        merged = [
            (s.offset, (max(1, s.grid[0] // 2), s.grid[1] // 2, s.grid[2] // 2)) for s in spans
        ]
        self.positions = rotary_positions(len(ids), merged)
        self.is_vision = self.ids >= fake.IMAGE_ID
        self.values = values

    def answer(self, max_tokens, stop_ids=(fake.EOS_ID,)):
        return fake.answer(self.values, max_tokens, self.positions, self.is_vision, stop_ids)


def picture(height, width, value=1, frames=1):
    """(grid, patches) with growing values from `value`."""
    grid = (frames, height, width)
    rows = np.zeros((frames * height * width, fake.PATCH_DIM), dtype=np.uint8)
    rows[:, 0] = (value + np.arange(len(rows))) % 200
    return grid, rows


class Streams:
    """Runs a core and keeps what came, by stream key."""

    def __init__(self, core):
        self.core = core
        self.outputs = {}

    def add(self, key, prompt, request_id="", **sampling):
        if not isinstance(prompt, Prompt):
            prompt = Prompt(*prompt)
        request = make_request(key, request_id, media=prompt.media, **sampling)
        self.core.add(request, prompt.ids, prompt.positions, prompt.pixels)

    def step(self):
        outputs = self.core.step()
        for output in outputs:
            stream = self.outputs.setdefault(output.stream_key, [])
            assert not (stream and stream[-1].is_last), "an output after the last"
            stream.append(output)
        return outputs

    def run(self, max_steps=3000):
        for _ in range(max_steps):
            if not self.core.has_work():
                self.core.check_integrity()
                return self
            self.step()
        raise AssertionError("the engine does not end")

    def tokens(self, key):
        return [token for output in self.outputs[key] for token in output.token_ids]

    def last(self, key):
        assert self.outputs[key][-1].is_last
        return self.outputs[key][-1]


def run_one(prompt, core=None, **sampling):
    """(tokens, last output) of one request."""
    streams = Streams(core or make_core())
    streams.add("a", prompt, **sampling)
    streams.run()
    return streams.tokens("a"), streams.last("a")
