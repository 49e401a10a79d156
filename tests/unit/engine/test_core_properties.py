"""Long random lives of the whole engine: every answer equals that of a request alone."""

import random

import pytest

from backend.errors import OverloadedError
from backend.request import FinishReason
from tests.unit.engine import fake_model as fake
from tests.unit.engine.requests import Prompt, Streams, make_core, picture

pytestmark = pytest.mark.usefixtures("each_runner")


def random_prompt(choose):
    """Few beginnings, so that prefixes meet; text, pictures and videos behind them."""
    parts = [[20, 21, 22, 23, 24], [20, 21, 22], [30]][choose.randrange(3)][:]
    for _ in range(choose.randrange(4)):
        kind = choose.random()
        if kind < 0.5:
            parts += [choose.randrange(3, 60) for _ in range(choose.randrange(1, 8))]
        elif kind < 0.8:
            parts.append(picture(2, choose.choice([2, 4]), value=choose.randrange(2)))
        else:
            parts.append(picture(2, 2, value=7, frames=choose.choice([2, 4])))
    return Prompt(*parts)


@pytest.mark.parametrize("seed", range(25))
def test_answers_do_not_depend_on_company(seed):
    choose = random.Random(seed)
    core = make_core(
        num_kv_blocks=choose.randint(14, 20),
        max_model_len=56,
        max_num_seqs=choose.randint(2, 6),
        max_num_batched_tokens=choose.choice([6, 7, 9, 16, 30]),
        enable_prefix_caching=seed % 3 != 0,
        encoder_cache_gib=choose.choice([0.0, 1.0]),
    )
    streams = Streams(core)
    prompts, aborted, poisoned = {}, set(), set()
    for n in range(120):
        action = choose.random()
        if action < 0.4:
            key = f"r{n}"
            prompt = random_prompt(choose)
            if choose.random() < 0.05:
                prompt = Prompt(20, 21, 22, 23, 24, fake.NAN_ID, 25)
                poisoned.add(key)
            try:
                streams.add(
                    key,
                    prompt,
                    max_tokens=choose.randint(1, 30),
                    priority=choose.choice([0, 0, 0, -1, 1]),
                    cache_salt=choose.choice(["", "", "mine", "yours"]),
                )
                prompts[key] = (prompt, core._generations[key].request.max_tokens)
            except OverloadedError:
                poisoned.discard(key)
        elif action < 0.45 and prompts:
            key = choose.choice(list(prompts))
            if core.stop_stream(key):
                aborted.add(key)
        else:
            streams.step()
        core.check_integrity()
    streams.run()
    for key, (prompt, max_tokens) in prompts.items():
        last = streams.last(key)
        if key in aborted:
            assert last.finish_reason is FinishReason.ABORT
            continue
        if key in poisoned:
            assert last.error.code == "numerical_error"
            continue
        expected = prompt.answer(max_tokens)
        assert last.usage.completion_tokens == len(expected)
        if expected[-1] == fake.EOS_ID:
            assert last.finish_reason is FinishReason.STOP
            expected.pop()
        else:
            assert last.finish_reason is FinishReason.LENGTH
        assert streams.tokens(key) == expected
    stats = core.stats()
    assert stats["kv_blocks_held"] == stats["pixel_bytes"] == 0
    assert stats["requests_added_total"] == len(prompts)
