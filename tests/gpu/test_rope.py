"""Rotary tables, and the turn of q and k on the way to the paged cache."""

import numpy as np
import pytest

import kernels

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        kernels.unavailable_reason() is not None, reason=str(kernels.unavailable_reason())
    ),
]

NAN = float("nan")


@pytest.fixture(scope="module")
def ctx():
    return kernels.Context()


def _give(ctx, tensor):
    torch.cuda.synchronize()
    return kernels.from_dlpack(ctx, tensor)


def _take(ctx, tensor):
    ctx.synchronize()
    return torch.from_dlpack(tensor)


def _normal(*shape):
    return torch.randn(*shape, device="cuda").bfloat16()


@pytest.mark.parametrize("tokens", [1, 7, 3000])
def test_angles_follow_their_axes_up_to_the_longest_position(ctx, tokens):
    rng = np.random.default_rng(tokens)
    positions = rng.integers(0, 131072, (3, tokens)).astype(np.int32)
    inv_freq = (500000.0 ** (-np.arange(0, 128, 2) / 128)).astype(np.float32)
    axes = np.array([1, 2] * 22 + [0] * 20, np.int32)
    cos, sin = kernels.rope_table(ctx.upload(positions), ctx.upload(inv_freq), ctx.upload(axes))
    angles = (positions[axes].T.astype(np.float32) * inv_freq).astype(np.float64)
    assert np.abs(cos.numpy() - np.cos(angles)).max() < 3e-7
    assert np.abs(sin.numpy() - np.sin(angles)).max() < 3e-7


def _turn(x, cos, sin, interleaved):
    """Float64 reference: x [T, heads, d], cos and sin [T, d / 2]."""
    x, cos, sin = x.double(), cos.double()[:, None], sin.double()[:, None]
    half = x.shape[2] // 2
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    a, b = a * cos - b * sin, b * cos + a * sin
    return torch.stack([a, b], -1).flatten(2) if interleaved else torch.cat([a, b], -1)


def _assert_rounded_once(actual, exact):
    """Within half a unit of bf16's last place, and float32's error before the rounding."""
    assert ((actual.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    ("nq", "nkv", "head", "block_size"),
    [(20, 4, 128, 64), (6, 2, 32, 16), (16, 2, 128, 64), (3, 3, 72, 16), (4, 2, 80, 48)],
)
@pytest.mark.parametrize("tokens", [1, 5, 777])
def test_queries_turn_and_keys_and_values_go_to_their_slots(
    ctx, nq, nkv, head, block_size, tokens, interleaved
):
    blocks = tokens // block_size + 3
    qkv = _normal(tokens, (nq + 2 * nkv) * head)
    angles = torch.rand(tokens, head // 2, device="cuda") * 100
    cos, sin = angles.cos(), angles.sin()
    caches = [
        torch.full((blocks, nkv, block_size, head), NAN, device="cuda").bfloat16() for _ in range(2)
    ]
    slots = torch.randperm(blocks * block_size, device="cuda")[:tokens]
    skipped = tokens // 2
    if tokens > 1:
        slots[skipped] = -1
    arguments = [_give(ctx, t) for t in (qkv, cos, sin, slots, *caches)]
    _take(ctx, kernels.rope_kv_write(*arguments, nq, interleaved)).fill_(NAN)
    torch.cuda.synchronize()
    q = _take(ctx, kernels.rope_kv_write(*arguments, nq, interleaved))

    heads = qkv.view(tokens, nq + 2 * nkv, head)
    turned = _turn(heads[:, : nq + nkv], cos, sin, interleaved)
    _assert_rounded_once(q, turned[:, :nq])
    written = slots >= 0
    block, offset = slots[written] // block_size, slots[written] % block_size
    _assert_rounded_once(caches[0][block, :, offset], turned[written, nq:])
    assert torch.equal(caches[1][block, :, offset], heads[written, nq + nkv :])
    for cache in caches:
        filled = torch.isfinite(cache).all(-1).all(1)
        assert filled.sum() == written.sum()


def test_shapes_that_do_not_fit_are_named(ctx):
    cache = ctx.empty((2, 2, 16, 32), kernels.bf16)
    table = ctx.empty((3, 16), kernels.f32)
    slots = ctx.empty((3,), kernels.i64)
    qkv = ctx.empty((3, 9 * 32), kernels.bf16)
    with pytest.raises(ValueError, match="qkv"):
        kernels.rope_kv_write(qkv, table, table, slots, cache, cache, 6, True)
