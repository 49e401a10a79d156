"""Linear layers of every path (few rows, cuBLASLt) against float64."""

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

F = torch.nn.functional
SHAPES = [  # T, N, K
    (1, 8, 8),
    (1, 2560, 2560),
    (5, 192, 192),
    (32, 3584, 2560),
    (33, 3584, 2560),
    (64, 1712, 192),
    (77, 128, 588),
    (4960, 1280, 588),
    (100, 2560, 12288),
    (256, 384, 80),
    (1000, 3840, 1280),
    (4100, 2560, 2560),
]
ACTIVATIONS = {
    "": lambda t: t,
    "gelu": F.gelu,
    "quick_gelu": lambda t: t * torch.sigmoid(1.702 * t),
}


def _normal(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def test_the_library_is_found(ctx):
    version = kernels.cublaslt_version(ctx)
    assert version is not None and version >= 120000


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plain(give, take, poison, assert_accurate, shape):
    t, n, k = shape
    x, w = _normal(t, k), _normal(n, k, scale=k**-0.5)
    poison(2 * t * n)
    ours = take(kernels.linear(give(x), give(w)))
    assert_accurate(ours, F.linear(x, w), F.linear(x.double(), w.double()))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 384, 128), (500, 5120, 1280)], ids=str)
def test_bias_and_activation(give, take, poison, assert_accurate, shape, name):
    t, n, k = shape
    x, w, bias = _normal(t, k), _normal(n, k, scale=k**-0.5), _normal(n)
    poison(2 * t * n)
    ours = take(kernels.linear(give(x), give(w), give(bias), name))
    apply = ACTIVATIONS[name]
    theirs = apply(F.linear(x, w, bias))
    assert_accurate(ours, theirs, apply(F.linear(x.double(), w.double(), bias.double())))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 40, 700])
def test_residual(give, take, poison, assert_accurate, tokens, with_bias):
    x, w, residual = _normal(tokens, 2560), _normal(1280, 2560, scale=0.02), _normal(tokens, 1280)
    bias = _normal(1280) if with_bias else None
    before = residual.clone()
    poison(2 * residual.numel())
    ours = take(kernels.linear(give(x), give(w), give(bias), residual=give(residual)))
    wide_bias = None if bias is None else bias.double()
    exact = F.linear(x.double(), w.double(), wide_bias) + residual.double()
    assert_accurate(ours, F.linear(x, w, bias) + residual, exact)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("tokens", [1, 33, 256])
def test_logits_stay_float32(give, take, poison, assert_accurate, tokens):
    x, w = _normal(tokens, 2560), _normal(10344, 2560, scale=0.02)
    poison(4 * tokens * 10344)
    ours = take(kernels.gemm_f32out(give(x), give(w)))
    assert ours.dtype == torch.float32
    theirs = torch.mm(x, w.t(), out_dtype=torch.float32)
    assert_accurate(ours, theirs, F.linear(x.double(), w.double()))


def test_every_row_count_of_a_bucket_is_right(give, take, assert_accurate):
    """Buckets share an algorithm, which was asked for with the first row count seen."""
    w = _normal(512, 1024, scale=0.03)
    for tokens in (1025, 1087, 1088, 1089, 1026, 65, 66, 71, 72, 73):
        x = _normal(tokens, 1024)
        ours = take(kernels.linear(give(x), give(w)))
        assert_accurate(ours, F.linear(x, w), F.linear(x.double(), w.double()), str(tokens))


def test_tuning_changes_no_result(give, take, assert_accurate):
    ctx = kernels.Context()
    kernels.tune_linear(ctx, True)
    x, w, residual = _normal(300, 2560), _normal(2560, 2560, scale=0.02), _normal(300, 2560)
    torch.cuda.synchronize()
    ours = [kernels.from_dlpack(ctx, t) for t in (x, w, residual)]
    result = kernels.linear(ours[0], ours[1], residual=ours[2])
    ctx.synchronize()
    exact = F.linear(x.double(), w.double()) + residual.double()
    assert_accurate(torch.from_dlpack(result), F.linear(x, w) + residual, exact)


@pytest.mark.parametrize("tokens", [8, 200])
def test_a_captured_product_replays(ctx, tokens):
    rng = np.random.default_rng(0)
    w = ctx.upload(rng.standard_normal((384, 192)).astype(np.float32), kernels.bf16)
    x = ctx.zeros([tokens, 192], kernels.bf16)
    with ctx.capture() as graph:
        y = kernels.linear(x, w)
    x.copy_from(rng.standard_normal((tokens, 192)).astype(np.float32))
    graph.launch()
    np.testing.assert_array_equal(y.numpy(), kernels.linear(x, w).numpy())


def test_bad_arguments_are_named(ctx):
    x, w = ctx.zeros([4, 64], kernels.bf16), ctx.zeros([32, 64], kernels.bf16)
    residual = ctx.zeros([4, 32], kernels.bf16)
    with pytest.raises(ValueError, match=r"w: expected bf16 \[\*, 64\], found bf16 \[32, 32\]"):
        kernels.linear(x, ctx.zeros([32, 32], kernels.bf16))
    with pytest.raises(ValueError, match="residual: not together with an activation"):
        kernels.linear(x, w, activation="gelu", residual=residual)
    with pytest.raises(ValueError, match="f32 results have neither"):
        kernels.linear(x, w, residual=residual, out_dtype=kernels.f32)
