"""Limits of prompts with pictures: the vision experts' share of the work is theirs."""

import pytest

from scripts.engine_bench import limits
from scripts.engine_bench.shapes import SHAPES

VL = SHAPES["vl-28b-a3b"]
CEILINGS = limits.Ceilings(bytes_per_s=4e12, flops_per_s=800e12)


def test_tokens_of_a_picture_cost_the_products_of_their_narrower_experts():
    """With so many tokens all classes are limited by arithmetic: 27 layers, 6 experts a token."""
    num_tokens = 100_000
    text = limits.prefill_seconds(VL, num_tokens, CEILINGS)
    picture = limits.prefill_seconds(VL, num_tokens, CEILINGS, num_vision_tokens=num_tokens)
    saved_flops = 2 * 27 * 6 * 3 * 2560 * (1536 - 512) * num_tokens
    assert text - picture == pytest.approx(saved_flops / 800e12)


def test_a_few_tokens_of_both_kinds_read_both_kinds_of_experts():
    """A second router in float32 and an expert of vision for each of the six choices."""
    both = limits.prefill_seconds(VL, 2, CEILINGS, num_vision_tokens=1)
    alone = limits.prefill_seconds(VL, 1, CEILINGS)
    expert_bytes, router_bytes = 2 * 6 * 3 * 2560 * 512, 4 * 64 * 2560
    assert both - alone == pytest.approx(27 * (expert_bytes + router_bytes) / 4e12, rel=2e-3)


def test_experts_that_no_token_chose_are_not_read():
    balanced = limits.prefill_seconds(VL, 290, CEILINGS, num_vision_tokens=258)
    known = limits.prefill_seconds(VL, 290, CEILINGS, num_vision_tokens=258, distinct=(10.0, 20.0))
    chosen = 64 * (1 - (58 / 64) ** 32)
    not_read = (chosen - 10) * 1536 + (64 - 20) * 512
    assert balanced - known == pytest.approx(27 * 2 * 3 * 2560 * not_read / 4e12, rel=1e-3)
