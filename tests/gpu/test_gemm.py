"""The dense product that stands in where cuBLASLt is absent."""

import pytest

import kernels

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        kernels.unavailable_reason() is not None, reason=str(kernels.unavailable_reason())
    ),
]

SHAPES = [  # T, N, K
    (1, 8, 8),
    (3, 192, 192),
    (70, 1712, 192),
    (65, 40, 80),
    (129, 264, 72),
    (127, 328, 200),
    (1, 3584, 2560),
    (300, 2560, 2560),
    (1000, 3840, 1280),
    (4960, 1280, 5120),
    (2048, 3584, 2560),
    (257, 103424, 2560),
]


@pytest.fixture(scope="module")
def ctx():
    return kernels.Context()


def _give(ctx, tensor):
    torch.cuda.synchronize()
    return None if tensor is None else kernels.from_dlpack(ctx, tensor)


def _take(ctx, tensor):
    ctx.synchronize()
    return torch.from_dlpack(tensor)


def _normal(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def _gemm(ctx, x, w, bias=None, activation="", residual=None, out_dtype=None):
    """The result, computed into memory that held NaN before."""
    arguments = [_give(ctx, x), _give(ctx, w), _give(ctx, bias), activation, _give(ctx, residual)]
    arguments.append(kernels.bf16 if out_dtype is None else out_dtype)
    _take(ctx, kernels.gemm(*arguments)).fill_(float("nan"))
    torch.cuda.synchronize()
    return _take(ctx, kernels.gemm(*arguments)).clone()


def _linear(x, w, bias, activation, residual):
    y = torch.nn.functional.linear(x, w, bias)
    if activation == "gelu":
        y = torch.nn.functional.gelu(y)
    if activation == "quick_gelu":
        y = y * torch.sigmoid(1.702 * y)
    return y if residual is None else y + residual


def _relative_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


def _assert_as_good_as_torch(actual, inputs):
    doubles = [t.double() if isinstance(t, torch.Tensor) else t for t in inputs]
    exact = _linear(*doubles)
    assert torch.isfinite(actual).all()
    ours, theirs = _relative_error(actual, exact), _relative_error(_linear(*inputs), exact)
    assert ours <= 2 * theirs, f"error {ours:.2e}, torch in bf16 {theirs:.2e}"


@pytest.mark.parametrize(("t", "n", "k"), SHAPES)
def test_product_is_as_exact_as_torch(ctx, t, n, k):
    x, w = _normal(t, k), _normal(n, k, scale=k**-0.5)
    _assert_as_good_as_torch(_gemm(ctx, x, w), (x, w, None, "", None))


@pytest.mark.parametrize(("t", "n", "k"), [(70, 40, 80), (257, 1288, 328)])
@pytest.mark.parametrize("activation", ["", "gelu", "quick_gelu"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_epilogue_is_as_exact_as_torch(ctx, t, n, k, activation, with_residual):
    x, w, bias = _normal(t, k), _normal(n, k, scale=k**-0.5), _normal(n)
    residual = _normal(t, n) if with_residual else None
    actual = _gemm(ctx, x, w, bias, activation, residual)
    _assert_as_good_as_torch(actual, (x, w, bias, activation, residual))


@pytest.mark.parametrize(("t", "n", "k"), [(5, 40, 80), (130, 1712, 192), (64, 103424, 1024)])
def test_float32_results_are_not_rounded(ctx, t, n, k):
    x, w = _normal(t, k), _normal(n, k, scale=k**-0.5)
    actual = _gemm(ctx, x, w, out_dtype=kernels.f32)
    assert actual.dtype == torch.float32
    assert _relative_error(actual, x.double() @ w.double().T) < 1e-5


def test_a_row_alone_gets_the_bits_it_gets_in_a_batch(ctx):
    x, w = _normal(400, 512), _normal(768, 512, scale=0.05)
    together = _gemm(ctx, x, w)
    for row in (0, 77, 399):
        assert torch.equal(together[row], _gemm(ctx, x[row : row + 1].contiguous(), w)[0])


def test_no_rows_give_no_rows(ctx):
    y = kernels.gemm(ctx.empty((0, 64), kernels.bf16), _give(ctx, _normal(72, 64)))
    assert tuple(y.shape) == (0, 72)


def test_bad_arguments_are_named(ctx):
    x, w = _give(ctx, _normal(4, 64)), _give(ctx, _normal(72, 64))
    with pytest.raises(ValueError, match="w"):
        kernels.gemm(x, _give(ctx, _normal(72, 56)))
    with pytest.raises(ValueError, match="multiples of 8"):
        kernels.gemm(x, _give(ctx, _normal(71, 64)))
    with pytest.raises(ValueError, match='activation: "relu"'):
        kernels.gemm(x, w, activation="relu")
    with pytest.raises(ValueError, match="bias"):
        kernels.gemm(x, w, bias=_give(ctx, _normal(64)))
    with pytest.raises(ValueError, match="out_dtype"):
        kernels.gemm(x, w, out_dtype=kernels.f16)
    with pytest.raises(ValueError, match="neither bias"):
        kernels.gemm(x, w, activation="gelu", out_dtype=kernels.f32)
