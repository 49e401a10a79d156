"""Norms, activations and row movements against torch in float64, and torch's own bf16."""

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
SHAPES = [
    (1, 8),
    (3, 192),
    (7, 1024),
    (1, 2560),
    (257, 2560),
    (33, 5120),
    (5, 8192),
    (2, 8200),
    (3, 32768),
    (4096, 1280),
]


def _normal(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def _rms_norm(x, weight, eps):
    """As the models define it: normalised in float32, rounded, then times the weight."""
    x = x.float()
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normed.bfloat16() * weight


def _rms_norm_exact(x, weight, eps):
    x = x.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm(give, take, poison, assert_accurate, shape):
    x, weight = _normal(*shape, scale=3.0), _normal(shape[1])
    poison(2 * x.numel())
    ours = take(kernels.rms_norm(give(x), give(weight), 1e-5))
    assert_accurate(ours, _rms_norm(x, weight, 1e-5), _rms_norm_exact(x, weight, 1e-5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm_gives_the_sum_too(give, take, poison, assert_accurate, shape):
    x, residual, weight = _normal(*shape), _normal(*shape, scale=5.0), _normal(shape[1])
    poison(2 * x.numel())
    normed, total = kernels.add_rms_norm(give(x), give(residual), give(weight), 1e-6)
    expected = x + residual
    torch.testing.assert_close(take(total), expected, rtol=0, atol=0)
    assert_accurate(
        take(normed), _rms_norm(expected, weight, 1e-6), _rms_norm_exact(expected, weight, 1e-6)
    )


def test_add_rms_norm_without_a_residual_passes_x_on(give, take):
    x, weight = _normal(4, 192), _normal(192)
    ours = give(x)
    normed, total = kernels.add_rms_norm(ours, None, give(weight), 1e-5)
    assert total.address == ours.address
    assert torch.equal(take(normed), take(kernels.rms_norm(ours, give(weight), 1e-5)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_norm(give, take, poison, assert_accurate, shape):
    x, weight, bias = _normal(*shape) + 2.0, _normal(shape[1]), _normal(shape[1])
    poison(2 * x.numel())
    ours = take(kernels.layer_norm(give(x), give(weight), give(bias), 1e-6))
    theirs = F.layer_norm(x, (shape[1],), weight, bias, 1e-6)
    exact = F.layer_norm(x.double(), (shape[1],), weight.double(), bias.double(), 1e-6)
    assert_accurate(ours, theirs, exact)


@pytest.mark.parametrize("shape", [(1, 16), (3, 160), (65, 3072), (1, 24576), (4097, 80)], ids=str)
def test_swiglu(give, take, poison, assert_accurate, shape):
    x = _normal(*shape, scale=4.0)
    poison(x.numel())
    ours = take(kernels.swiglu(give(x)))
    gate, up = x.chunk(2, dim=1)
    assert_accurate(ours, F.silu(gate) * up, F.silu(gate.double()) * up.double())


ACTIVATIONS = {
    "": lambda t: t,
    "gelu": F.gelu,
    "quick_gelu": lambda t: t * torch.sigmoid(1.702 * t),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (5, 384), (4960, 5120)], ids=str)
def test_bias_activation(give, take, poison, assert_accurate, shape, with_bias, name):
    x, bias = _normal(*shape, scale=3.0), _normal(shape[1]) if with_bias else None
    poison(2 * x.numel())
    ours = take(kernels.bias_activation(give(x), give(bias), name))
    apply = ACTIVATIONS[name]
    theirs = apply(x if bias is None else x + bias)
    exact = apply(x.double() if bias is None else x.double() + bias.double())
    assert_accurate(ours, theirs, exact)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (13, 5), (257, 2560), (3, 4, 5)], ids=str)
def test_add_of_any_shape_is_exact(give, take, poison, shape):
    a, b = _normal(*shape), _normal(*shape, scale=0.1)
    poison(2 * a.numel())
    assert torch.equal(take(kernels.add(give(a), give(b))), a + b)


@pytest.mark.parametrize("count", [1, 7, 8, 100_003])
def test_casts_round_as_torch_does(give, take, poison, count):
    x = torch.randn(count, device="cuda") * 100
    poison(4 * count)
    narrow = take(kernels.cast(give(x), kernels.bf16))
    assert torch.equal(narrow, x.bfloat16())
    assert torch.equal(take(kernels.cast(give(narrow), kernels.f32)), narrow.float())


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("width", "dtype"),
    [
        (2560, torch.bfloat16),
        (5, torch.bfloat16),
        (3, torch.uint8),
        (1, torch.int64),
        (294, torch.float32),
    ],
)
def test_gather_rows_of_any_width(give, take, poison, width, dtype, index):
    x = torch.randint(0, 200, (301, width), device="cuda").to(dtype)
    rows = torch.randint(0, 301, (1000,), device="cuda").to(index)
    poison(1000 * width * x.element_size())
    assert torch.equal(take(kernels.gather_rows(give(x), give(rows))), x[rows.long()])


def test_rows_outside_give_zeros(give, take, poison):
    x = _normal(10, 64)
    poison(4 * 128)
    rows = torch.tensor([-1, 3, 10, 2**30], device="cuda", dtype=torch.int32)
    ours = take(kernels.gather_rows(give(x), give(rows)))
    assert torch.equal(ours[1], x[3])
    assert not ours[[0, 2, 3]].any()


def test_embedding_reads_the_tokens_that_sampling_left(ctx, give, take):
    table = _normal(1712, 192)
    ids = torch.tensor([5, 1711, -1, -3, 0], device="cuda", dtype=torch.int32)
    latest = torch.tensor([100, 200, 300], device="cuda", dtype=torch.int32)
    ours = take(kernels.embedding(give(table), give(ids), give(latest)))
    assert torch.equal(ours, table[[5, 1711, 100, 300, 0]])
    plain = take(kernels.embedding(give(table), give(ids)))
    assert torch.equal(plain[[0, 1, 4]], table[[5, 1711, 0]]) and not plain[2:4].any()


@pytest.mark.parametrize("count", [0, 1, 300])
def test_replace_rows_leaves_its_input_alone(give, take, poison, count):
    x, values = _normal(1000, 200), _normal(count, 200)
    rows = torch.randperm(1000, device="cuda")[:count].int()
    before = x.clone()
    poison(2 * x.numel())
    ours = take(kernels.replace_rows(give(x), give(rows), give(values)))
    expected = x.clone()
    expected[rows.long()] = values
    assert torch.equal(ours, expected)
    assert torch.equal(x, before)


def test_concat_and_pair_rows(give, take):
    a, b = _normal(3, 40), _normal(5, 40)
    assert torch.equal(take(kernels.concat_rows([give(a), give(b)])), torch.cat([a, b]))
    first = torch.tensor([4, 0, 2], device="cuda", dtype=torch.int32)
    second = torch.tensor([1, 1, 3], device="cuda", dtype=torch.int32)
    expected = torch.cat([b[first.long()], b[second.long()]], dim=1)
    assert torch.equal(take(kernels.pair_rows(give(b), give(first), give(second))), expected)


@pytest.mark.parametrize("shape", [(1, 588), (4960, 588), (3, 13)], ids=str)
def test_patches_are_normalised_as_numpy_does(ctx, poison, shape):
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, shape, dtype=np.uint8)
    mean = rng.random(shape[1], dtype=np.float32)
    std = rng.random(shape[1], dtype=np.float32) + np.float32(0.1)
    poison(2 * patches.size)
    ours = kernels.normalize_patches(ctx.upload(patches), ctx.upload(mean), ctx.upload(std)).numpy()
    expected = (patches.astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(ours, torch.from_numpy(expected).bfloat16().float().numpy())


@pytest.mark.parametrize("shape", [(1, 1), (33, 65), (2, 2560, 3584), (4, 40, 72)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_transpose(give, take, poison, shape, dtype):
    x = torch.randn(*shape, device="cuda").to(dtype)
    poison(x.numel() * x.element_size())
    assert torch.equal(take(kernels.transpose(give(x))), x.transpose(-1, -2))


def test_empty_inputs_give_empty_outputs(ctx):
    none = ctx.empty([0, 64], kernels.bf16)
    weight = ctx.zeros([64], kernels.bf16)
    assert kernels.rms_norm(none, weight, 1e-5).shape == (0, 64)
    assert kernels.swiglu(none).shape == (0, 32)
    assert kernels.add(none, none).shape == (0, 64)
    rows = ctx.empty([0], kernels.i32)
    assert kernels.gather_rows(weight.view([8, 8]), rows).numpy().shape == (0, 8)


def test_bad_arguments_are_named(ctx):
    x, weight = ctx.zeros([2, 8], kernels.bf16), ctx.zeros([8], kernels.bf16)
    with pytest.raises(ValueError, match=r"x: expected bf16 \[\*, \*\], found f32 \[2, 8\]"):
        kernels.rms_norm(ctx.zeros([2, 8], kernels.f32), weight, 0.1)
    with pytest.raises(ValueError, match=r"weight: expected bf16 \[8\], found bf16 \[9\]"):
        kernels.rms_norm(x, ctx.zeros([9], kernels.bf16), 0.1)
    with pytest.raises(ValueError, match="x: rows of 12 values; expected a multiple of 8"):
        kernels.rms_norm(ctx.zeros([2, 12], kernels.bf16), ctx.zeros([12], kernels.bf16), 0.1)
    shifted = ctx.zeros([20], kernels.bf16).slice(1, 17).view([1, 16])
    with pytest.raises(ValueError, match="x: must start at a multiple of 16 bytes"):
        kernels.swiglu(shifted)
    with pytest.raises(ValueError, match="activation: 'relu' is not"):
        kernels.bias_activation(x, None, "relu")


def test_tensors_of_another_context_are_refused(ctx):
    ours, theirs = ctx.zeros([8], kernels.bf16), kernels.Context().zeros([8], kernels.bf16)
    with pytest.raises(ValueError, match="b: belongs to another context"):
        kernels.add(ours, theirs)
