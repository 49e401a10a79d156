"""Linear layers of few rows against float64, and against torch's own bf16 product."""

import pytest

import kernels

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        kernels.unavailable_reason() is not None, reason=str(kernels.unavailable_reason())
    ),
]

ROWS = (1, 3, 8, 9, 17, 32, 33, 64)
# (N, K): tiny model, tails of rows and columns, few and many weight rows of real models
SHAPES = ((192, 80), (8, 8), (40, 192), (200, 1096), (3584, 2560), (2560, 1536), (12296, 1024))


@pytest.fixture(scope="module")
def ctx():
    return kernels.Context()


def _give(ctx, tensor):
    torch.cuda.synchronize()
    return kernels.from_dlpack(ctx, tensor)


def _take(ctx, tensor):
    ctx.synchronize()
    return torch.from_dlpack(tensor)


def _random(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def _poison(ctx, numel, dtype):
    """What the next result of this size is likely to be allocated from holds NaN."""
    block = ctx.empty((numel,), dtype)
    _take(ctx, block).fill_(float("nan"))
    torch.cuda.synchronize()


def _error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def _assert_as_good_as(found, torch_found, exact):
    assert torch.isfinite(found).all()
    assert _error(found, exact) <= 2 * _error(torch_found, exact) + 1e-7


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_product_is_as_exact_as_torchs(ctx, rows, n, k):
    x, w = _random(rows, k), _random(n, k, scale=k**-0.5)
    gx, gw = _give(ctx, x), _give(ctx, w)
    _poison(ctx, rows * n, kernels.bf16)

    y = kernels.skinny_linear(gx, gw)

    _assert_as_good_as(_take(ctx, y), x @ w.T, x.double() @ w.double().T)


@pytest.mark.parametrize("rows", (1, 8, 20, 64))
@pytest.mark.parametrize(("n", "k"), ((40, 192), (2560, 1024)))
def test_bias_and_residual_join_before_the_rounding(ctx, rows, n, k):
    x, w = _random(rows, k), _random(n, k, scale=k**-0.5)
    bias, residual = _random(n), _random(rows, n)

    y = kernels.skinny_linear(
        _give(ctx, x), _give(ctx, w), bias=_give(ctx, bias), residual=_give(ctx, residual)
    )

    exact = x.double() @ w.double().T + bias.double() + residual.double()
    assert _error(_take(ctx, y), exact) <= 1.05 * _error(exact.bfloat16(), exact)


@pytest.mark.parametrize("rows", (1, 7, 32, 64))
def test_float32_results_keep_the_sums(ctx, rows):
    x, w = _random(rows, 2560), _random(1712, 2560, scale=0.02)

    y = kernels.skinny_linear(_give(ctx, x), _give(ctx, w), out_dtype=kernels.f32)

    assert _error(_take(ctx, y), x.double() @ w.double().T) < 2e-6


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("m", "k"), ((40, 192), (384, 192), (72, 1096), (3072, 1024)))
def test_swiglu_is_as_exact_as_torchs(ctx, rows, m, k):
    x, w = _random(rows, k), _random(2 * m, k, scale=2 * k**-0.5)
    gx, gw = _give(ctx, x), _give(ctx, w)
    _poison(ctx, rows * m, kernels.bf16)

    y = kernels.skinny_linear_swiglu(gx, gw)

    gate, up = (x.double() @ w.double().T).split(m, dim=1)
    torch_gate, torch_up = (x @ w.T).split(m, dim=1)
    _assert_as_good_as(
        _take(ctx, y),
        torch.nn.functional.silu(torch_gate) * torch_up,
        torch.nn.functional.silu(gate) * up,
    )


@pytest.mark.parametrize(
    ("rows", "tile_rows"), [(6, 16), (6, 32), (30, 32), (30, 64), (60, 64), (60, 128)]
)
def test_every_tile_gives_the_same_result(ctx, rows, tile_rows):
    x, w = _random(rows, 1096), _random(200, 1096)

    y = kernels.skinny_linear(
        _give(ctx, x), _give(ctx, w), out_dtype=kernels.f32, tile_rows=tile_rows
    )

    assert _error(_take(ctx, y), x.double() @ w.double().T) < 2e-6


def test_a_row_does_not_depend_on_its_neighbours(ctx):
    x, w = _random(8, 2560), _give(ctx, _random(3584, 2560, scale=0.02))
    alone = _take(ctx, kernels.skinny_linear(_give(ctx, x[:1].contiguous()), w))
    x[1:] = float("nan")

    among_others = _take(ctx, kernels.skinny_linear(_give(ctx, x), w))

    assert torch.equal(alone[0], among_others[0])


def test_the_same_call_gives_the_same_bits(ctx):
    x, w = _give(ctx, _random(20, 2560)), _give(ctx, _random(2560, 2560))

    first = _take(ctx, kernels.skinny_linear(x, w)).clone()

    for _ in range(10):
        assert torch.equal(first, _take(ctx, kernels.skinny_linear(x, w)))


def test_a_chain_of_launches_sees_each_others_results(ctx):
    """Launches overlap; a product must not read its rows before the one before wrote them."""
    w = _random(1024, 1024, scale=1024**-0.5)
    x = _random(1, 1024)
    gw, y = _give(ctx, w), _give(ctx, x)
    for _ in range(64):
        y = kernels.skinny_linear(y, gw)
    expected = x
    for _ in range(64):
        expected = (expected.float() @ w.float().T).bfloat16()

    difference = (_take(ctx, y).float() - expected.float()).norm() / expected.float().norm()
    assert difference < 0.1  # rounding of each step, amplified; a stale read gives about 1.4


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        ((65, 64), (64, 64), "65 rows"),
        ((0, 64), (64, 64), "0 rows"),
        ((2, 60), (64, 60), r"x\.shape\[1\] is 60"),
        ((2, 64), (60, 64), r"w\.shape\[0\] is 60"),
        ((2, 64), (64, 72), "w"),
    ],
)
def test_shapes_that_do_not_fit_are_named(ctx, x, w, message):
    with pytest.raises(ValueError, match=message):
        kernels.skinny_linear(ctx.empty(x, kernels.bf16), ctx.empty(w, kernels.bf16))
