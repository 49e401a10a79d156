"""Attention inside segments of image patches against float64 on the same bf16 inputs."""

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


def _inputs(heads, head, segments):
    patches = sum(segments)
    qkv = torch.randn(patches, 3 * heads * head, device="cuda").bfloat16()
    angles = torch.rand(patches, head // 2, device="cuda") * 60
    return qkv, angles.cos(), angles.sin()


def _attend(ctx, qkv, cos, sin, segments, heads):
    """The result, computed into memory that held NaN before."""
    starts = torch.tensor([0, *segments], device="cuda").cumsum(0).int()
    arguments = [_give(ctx, t) for t in (qkv, cos, sin, starts)] + [max(segments), heads]
    _take(ctx, kernels.vision_attention(*arguments)).fill_(NAN)
    torch.cuda.synchronize()
    return _take(ctx, kernels.vision_attention(*arguments)).clone()


def _turned(qkv, cos, sin, heads):
    """q, k, v [heads, N, d] in the dtype of the angles, q and k turned."""
    q, k, v = qkv.to(cos.dtype).unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
    half = q.shape[2] // 2

    def turn(x):
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    return turn(q), turn(k), v


def _relative_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize(("heads", "head"), [(4, 32), (16, 64), (16, 72), (16, 80), (3, 96)])
@pytest.mark.parametrize(
    "segments", [[1], [300], [128, 1, 127, 0, 129, 64, 65], [1024], [37] * 50], ids=str
)
def test_patches_see_their_segment_as_exactly_as_with_torch(ctx, heads, head, segments):
    qkv, cos, sin = _inputs(heads, head, segments)
    out = _attend(ctx, qkv, cos, sin, segments, heads).unflatten(1, (heads, head))
    assert torch.isfinite(out).all()
    exact = _turned(qkv, cos.double(), sin.double(), heads)
    rounded = [x.bfloat16() for x in _turned(qkv, cos, sin, heads)]
    start = 0
    for size in segments:
        if size == 0:
            continue
        part = slice(start, start + size)
        q, k, v = (x[:, part] for x in exact)
        reference = ((q @ k.mT * head**-0.5).softmax(-1) @ v).transpose(0, 1)
        theirs = torch.nn.functional.scaled_dot_product_attention(
            *(x[None, :, part].contiguous() for x in rounded)
        )[0].transpose(0, 1)
        ours = _relative_error(out[part], reference)
        limit = 2 * _relative_error(theirs, reference)
        assert ours <= limit, f"segment of {size}: error {ours:.2e}, limit {limit:.2e}"
        start += size


def test_a_whole_picture(ctx):
    segments = [4960]
    qkv, cos, sin = _inputs(16, 80, segments)
    out = _attend(ctx, qkv, cos, sin, segments, 16).unflatten(1, (16, 80))
    q, k, v = _turned(qkv, cos.double(), sin.double(), 16)
    rows = torch.arange(0, 4960, 31, device="cuda")
    reference = ((q[:, rows] @ k.mT * 80**-0.5).softmax(-1) @ v).transpose(0, 1)
    q, k, v = (x.bfloat16() for x in _turned(qkv, cos, sin, 16))
    theirs = torch.nn.functional.scaled_dot_product_attention(q[None, :, rows], k[None], v[None])
    limit = 2 * _relative_error(theirs[0].transpose(0, 1), reference)
    assert _relative_error(out[rows], reference) <= limit


@pytest.mark.parametrize("head", [32, 80])
def test_a_segment_of_nan_stays_with_itself(ctx, head):
    segments = [100, 200, 150]
    qkv, cos, sin = _inputs(4, head, segments)
    clean = _attend(ctx, qkv, cos, sin, segments, 4)
    qkv[100:300] = NAN
    out = _attend(ctx, qkv, cos, sin, segments, 4)
    assert torch.equal(out[:100], clean[:100])
    assert torch.equal(out[300:], clean[300:])
    assert torch.isnan(out[100:300]).all()


def test_arguments_that_do_not_fit_are_named(ctx):
    table = ctx.empty((5, 16), kernels.f32)
    starts = ctx.empty((2,), kernels.i32)
    with pytest.raises(ValueError, match="qkv"):
        kernels.vision_attention(ctx.empty((5, 100), kernels.bf16), table, table, starts, 5, 4)
    with pytest.raises(ValueError, match="cos"):
        kernels.vision_attention(ctx.empty((5, 480), kernels.bf16), table, table, starts, 5, 4)
