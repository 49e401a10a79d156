"""Requests in one line, and a runner that keeps what a KV cache would: who wrote which slot."""

import numpy as np

from backend.kv_cache import BlockPool, root_hash
from backend.request import SamplingParams
from backend.sampler import SamplingState, seed_key
from backend.scheduler import MediaPiece, Request, Scheduler, SchedulerLimits

BLOCK_SIZE = 4


def make_piece(offset, num_tokens, digest=b"d" * 32):
    pixels = np.zeros((num_tokens * 4, 588), dtype=np.uint8)
    return MediaPiece(offset, num_tokens, (1, 2, num_tokens * 2), digest, pixels)


def make_request(prompt, max_tokens=4, arrival=0, media=(), priority=0, salt=""):
    prompt_ids = np.array(prompt, dtype=np.int32)
    is_vision = np.zeros(len(prompt_ids), dtype=bool)
    for piece in media:
        is_vision[piece.offset : piece.end] = True
    return Request(
        stream_key=f"request-{arrival}",
        arrival=arrival,
        prompt_ids=prompt_ids,
        positions=np.tile(np.arange(len(prompt_ids), dtype=np.int32), (3, 1)),
        is_vision=is_vision,
        media=media,
        sampling=SamplingState(SamplingParams(), seed_key(0), prompt_ids, []),
        max_tokens=max_tokens,
        block_size=BLOCK_SIZE,
        priority=priority,
        root_hash=root_hash(salt),
    )


def make_scheduler(num_blocks=32, **limits):
    defaults = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_num_waiting": 8}
    return Scheduler(BlockPool(num_blocks), BLOCK_SIZE, SchedulerLimits(**{**defaults, **limits}))


def next_token(request):
    """What the fake model says after all tokens known so far: (3 · sum + length) mod 101."""
    tokens = request.token_ids(0, request.num_tokens)
    return int((3 * tokens.sum() + len(tokens)) % 101)


class FakeRunner:
    """Writes each computed token's whole prefix at its slot, and checks what it reads."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.memory = {}

    def step(self):
        """One engine step. Returns its SchedulerOutput; requests at max_tokens are finished."""
        output = self.scheduler.schedule()
        for chunk in output.chunks:
            self.compute(chunk)
        for chunk in output.chunks:
            request = chunk.request
            self.scheduler.commit(chunk, next_token(request) if chunk.is_last else None)
            if len(request.output_ids) == request.max_tokens:
                self.scheduler.finish(request)
        return output

    def compute(self, chunk):
        request = chunk.request
        prefix = self._contents(request, chunk.stop)
        slots = request.block_table.slots(0, chunk.stop).tolist()
        for index in range(chunk.start, chunk.stop):
            self.memory[slots[index]] = prefix[index]
        for slot, expected in zip(slots, prefix, strict=True):
            assert self.memory[slot] == expected, "a request reads another's K/V"

    @staticmethod
    def _contents(request, length):
        """Per token, everything its K/V depends on."""
        media = {}
        for piece in request.media:
            for row in range(piece.num_tokens):
                media[piece.offset + row] = (piece.digest, row)
        tokens = request.token_ids(0, length).tolist()
        items = [(token, media.get(index)) for index, token in enumerate(tokens)]
        return [tuple(items[: index + 1]) for index in range(length)]

    def run_until_done(self, max_steps=2000):
        for _ in range(max_steps):
            if not len(self.scheduler):
                return
            self.step()
        raise AssertionError(f"{len(self.scheduler)} requests did not end in {max_steps} steps")


def solo_output(prompt, max_tokens, media=()):
    """Tokens of a request that has the engine to itself."""
    request = make_request(prompt, max_tokens, media=media)
    for _ in range(max_tokens):
        request.output_ids.append(next_token(request))
    return request.output_ids
