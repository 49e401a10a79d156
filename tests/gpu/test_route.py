"""The router against a float64 reference: choice, weights, and the pairs' stable order."""

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

# float32 sums of a few thousand terms are this good; closer calls may go either way
CLOSE = 1e-6

# (E, S, Ev, top_k, H)
TINY = (6, 2, 6, 2, 192)
REAL = (64, 2, 64, 6, 2560)
WIDE = (64, 0, 64, 8, 8192)


@pytest.fixture(scope="module")
def ctx():
    return kernels.Context()


def _route(ctx, x, gates, biases, top_k, shared, is_vision=None, norm_min=1e-12):
    give = ctx.upload
    vision = {}
    if is_vision is not None:
        vision = {
            "vision_gate": give(gates[1]),
            "vision_bias": give(biases[1]),
            "is_vision": give(is_vision),
        }
    rows = give(x, kernels.bf16)
    return kernels.moe_route(
        rows, give(gates[0]), give(biases[0]), top_k, norm_min, shared, **vision
    )


def _expected(x, gates, biases, top_k, shared, is_vision, norm_min=1e-12):
    """ids, weights and how clear each token's choice was (the smallest gap that mattered)."""
    experts = gates[0].shape[0]
    ids = np.zeros((len(x), top_k + shared), np.int32)
    weights = np.ones((len(x), top_k + shared))
    gaps = np.full(len(x), np.inf)
    logits = [x.astype(np.float64) @ gate.astype(np.float64).T for gate in gates]
    for t in range(len(x)):
        kind = int(is_vision is not None and is_vision[t] != 0)
        z = logits[kind][t]
        p = np.exp(z - z.max())
        p /= p.sum()
        score = p + biases[kind]
        order = np.argsort(-score, kind="stable")
        ranked = score[order][: top_k + 1]
        gaps[t] = np.min(ranked[:-1] - ranked[1:]) if len(ranked) > 1 else np.inf
        chosen = order[:top_k]
        ids[t] = [
            *(chosen + kind * (experts + shared)),
            *range(experts, experts + shared),
        ]
        weights[t, :top_k] = p[chosen] / max(p[chosen].sum(), norm_min)
    return ids, weights, gaps


def _assert_sorted(routing, groups):
    ids = routing.ids.numpy().ravel()
    order = np.argsort(ids, kind="stable")
    counts = np.bincount(ids, minlength=groups)
    np.testing.assert_array_equal(routing.order.numpy(), order)
    np.testing.assert_array_equal(routing.offsets.numpy(), np.concatenate([[0], np.cumsum(counts)]))


def _bf16(array):
    return torch.from_numpy(array.astype(np.float32)).bfloat16().float().numpy()


def _make(rng, tokens, sizes):
    experts, _, vision, _, hidden = sizes
    x = _bf16(rng.standard_normal((tokens, hidden)))
    scale = hidden**-0.5
    gates = [
        (rng.standard_normal((n, hidden)) * scale).astype(np.float32) for n in (experts, vision)
    ]
    biases = [(rng.standard_normal(n) * 0.01).astype(np.float32) for n in (experts, vision)]
    return x, gates, biases


@pytest.mark.parametrize("tokens", (1, 2, 8, 9, 64, 200, 512, 513, 2000))
@pytest.mark.parametrize("sizes", (TINY, REAL, WIDE), ids=("tiny", "real", "wide"))
@pytest.mark.parametrize("has_vision", (False, True), ids=("text", "mixed"))
def test_choice_weights_and_order_equal_the_reference(ctx, tokens, sizes, has_vision):
    experts, shared, vision, top_k, _ = sizes
    rng = np.random.default_rng(tokens)
    x, gates, biases = _make(rng, tokens, sizes)
    is_vision = (rng.random(tokens) < 0.5).astype(np.uint8) if has_vision else None

    routing = _route(ctx, x, gates, biases, top_k, shared, is_vision)

    ids, weights, gaps = _expected(x, gates, biases, top_k, shared, is_vision)
    clear = gaps > CLOSE
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(routing.ids.numpy()[clear], ids[clear])
    np.testing.assert_allclose(routing.weights.numpy()[clear], weights[clear], rtol=2e-5, atol=1e-7)
    _assert_sorted(routing, experts + shared + (vision if has_vision else 0))


@pytest.mark.parametrize("tokens", (1, 70, 600))
def test_equal_scores_go_to_the_lower_index(ctx, tokens):
    rng = np.random.default_rng(1)
    x, gates, biases = _make(rng, tokens, REAL)
    gates[0][:] = gates[0][0]
    biases[0][:] = 0.0
    biases[0][40:] = 1.0

    routing = _route(ctx, x, gates, biases, 6, 2)

    expected = np.broadcast_to([40, 41, 42, 43, 44, 45, 64, 65], (tokens, 8))
    np.testing.assert_array_equal(routing.ids.numpy(), expected)
    np.testing.assert_allclose(routing.weights.numpy()[:, :6], 1 / 6, rtol=1e-5)
    _assert_sorted(routing, 66)


@pytest.mark.parametrize("tokens", (1, 8, 300, 700))
def test_the_bias_decides_the_choice_but_not_the_weight(ctx, tokens):
    rng = np.random.default_rng(2)
    x, gates, biases = _make(rng, tokens, REAL)
    biases[0][:] = 0.0
    biases[0][[3, 9, 11, 30, 31, 63]] = [6, 5, 4, 3, 2, 1.5]

    routing = _route(ctx, x, gates, biases, 6, 0)

    ids, weights, _ = _expected(x, gates, biases, 6, 0, None)
    assert (ids == [3, 9, 11, 30, 31, 63]).all()
    np.testing.assert_array_equal(routing.ids.numpy(), ids)
    np.testing.assert_allclose(routing.weights.numpy(), weights, rtol=2e-5)


def test_norm_min_bounds_the_divisor(ctx):
    rng = np.random.default_rng(3)
    x, gates, biases = _make(rng, 4, TINY)

    routing = _route(ctx, x, gates, biases, 2, 2, norm_min=10.0)

    _, weights, _ = _expected(x, gates, biases, 2, 2, None, norm_min=10.0)
    np.testing.assert_allclose(routing.weights.numpy(), weights, rtol=2e-5)
    assert (routing.weights.numpy()[:, :2].sum(axis=1) < 0.1 + 1e-6).all()


def test_vision_tokens_alone_leave_text_experts_empty(ctx):
    rng = np.random.default_rng(4)
    x, gates, biases = _make(rng, 100, REAL)

    routing = _route(ctx, x, gates, biases, 6, 2, np.ones(100, np.uint8))

    offsets = routing.offsets.numpy()
    assert offsets[64] == 0
    assert offsets[65] == 100
    assert offsets[66] == 200
    assert offsets[-1] == 800
    _assert_sorted(routing, 130)


def test_eight_thousand_tokens_are_sorted(ctx):
    rng = np.random.default_rng(5)
    x, gates, biases = _make(rng, 8191, REAL)

    routing = _route(ctx, x, gates, biases, 6, 2)

    _assert_sorted(routing, 66)
    ids, _, gaps = _expected(x[:500], gates, biases, 6, 2, None)
    np.testing.assert_array_equal(routing.ids.numpy()[:500][gaps > CLOSE], ids[gaps > CLOSE])


def test_arguments_that_do_not_fit_are_named(ctx):
    x = ctx.empty((2, 64), kernels.bf16)
    gate, bias = ctx.empty((4, 64), kernels.f32), ctx.empty((4,), kernels.f32)
    with pytest.raises(ValueError, match="top_k is 5"):
        kernels.moe_route(x, gate, bias, 5, 1e-12, 0)
    with pytest.raises(ValueError, match="together"):
        kernels.moe_route(x, gate, bias, 2, 1e-12, 0, vision_gate=gate)
    with pytest.raises(ValueError, match="bias"):
        kernels.moe_route(x, gate, ctx.empty((5,), kernels.f32), 2, 1e-12, 0)
