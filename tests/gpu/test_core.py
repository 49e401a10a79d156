"""Tensors, memory, transfers, graphs and the exchange with other libraries."""

import gc
import os
import time

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

DTYPES = {
    "f32": np.float32,
    "f16": np.float16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "i8": np.int8,
    "u16": np.uint16,
    "bool": np.bool_,
}


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_of_every_dtype_come_back_as_they_went(ctx, name):
    array = np.random.default_rng(0).integers(0, 100, (3, 5, 7)).astype(DTYPES[name])
    tensor = ctx.upload(array)
    assert tensor.dtype == getattr(kernels, name)
    assert tensor.shape == (3, 5, 7)
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_floats_become_bf16_by_rounding_to_nearest_even(ctx):
    values = np.random.default_rng(1).standard_normal(10_001).astype(np.float32)
    values[:4] = [np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8]
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(ctx.upload(values, kernels.bf16).numpy(), expected)
    assert np.isnan(ctx.upload(np.array([np.nan], np.float32), kernels.bf16).numpy()).all()


def test_uint16_given_as_bf16_are_bits(ctx):
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    np.testing.assert_array_equal(ctx.upload(bits, kernels.bf16).numpy(), [1.0, -2.0, np.inf])


def test_integers_that_do_not_fit_are_refused(ctx):
    with pytest.raises(ValueError, match="do not fit into i32"):
        ctx.upload(np.array([2**31]), kernels.i32)
    np.testing.assert_array_equal(ctx.upload(np.array([7]), kernels.i32).numpy(), [7])


def test_uploads_larger_than_the_ring_arrive_whole(ctx):
    array = np.random.default_rng(2).integers(0, 2**31, 60 << 20, dtype=np.int32)  # 240 MB
    tensor = ctx.upload(array)
    np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("rest", [1, 2, 3, 4095, 4097])
def test_uploads_that_threads_share_arrive_to_the_last_byte(ctx, rest):
    array = np.full((4 << 20) + rest, 7, np.uint8)
    np.testing.assert_array_equal(ctx.upload(array).numpy(), array)


def test_many_small_uploads_do_not_overtake_each_other(ctx):
    target = ctx.empty([300_000], kernels.i32)
    readbacks = []
    for i in range(400):  # 480 MB through a ring of 64
        target.copy_from(np.full(300_000, i, np.int32))
        readbacks.append(ctx.read_later(target.slice(i, i + 1)))
    assert [int(r.numpy()[0]) for r in readbacks] == list(range(400))


def test_read_later_gives_the_contents_of_its_moment(ctx):
    tensor = ctx.upload(np.arange(1000, dtype=np.int32))
    before = ctx.read_later(tensor)
    tensor.copy_from(np.zeros(1000, np.int32))
    np.testing.assert_array_equal(before.numpy(), np.arange(1000))
    assert before.ready()
    np.testing.assert_array_equal(tensor.numpy(), 0)


@pytest.mark.parametrize("dtype", ["i32", "u8", "f32", "i64"])
def test_memory_of_the_host_is_a_tensor_and_an_array(ctx, dtype):
    tensor, array = ctx.host_array([3, 8], getattr(kernels, dtype))
    assert (array.shape, array.dtype) == ((3, 8), tensor.numpy().dtype)
    assert array.ctypes.data == tensor.address and not array.any()
    tensor.slice(1, 2).copy_from(np.full((1, 8), 5, array.dtype))
    event = ctx.event(sleeps=True)
    event.record()
    event.synchronize()
    assert event.ready()
    assert array.tolist() == [[0] * 8, [5] * 8, [0] * 8]
    array[2] = 9
    np.testing.assert_array_equal(tensor.numpy(), array)
    tensor.zero()
    ctx.synchronize()
    assert not array.any()


def test_memory_of_the_host_lives_as_long_as_its_array(ctx):
    array = ctx.host_array([1000], kernels.i32)[1]
    others = [ctx.host_array([1000], kernels.i32)[1] for _ in range(20)]
    array[:] = 3
    assert not any(other.any() for other in others)
    del others
    assert array.sum() == 3000


def test_memory_of_the_host_that_cannot_be_made_is_refused(ctx):
    with pytest.raises(ValueError, match="NumPy has no bf16"):
        ctx.host_array([4], kernels.bf16)
    with pytest.raises(ValueError, match="extent -1 is negative"):
        ctx.host_array([4, -1], kernels.i32)
    with pytest.raises(ValueError, match="host_array: not possible while a graph is captured"):
        with ctx.capture():
            ctx.host_array([4], kernels.i32)


def test_views_and_slices_share_memory(ctx):
    tensor = ctx.zeros([4, 6], kernels.f32)
    tensor.slice(1, 3).view([12]).copy_from(np.arange(12, dtype=np.float32))
    expected = np.zeros((4, 6), np.float32)
    expected[1:3] = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(tensor.view([-1, 3]).numpy(), expected.reshape(8, 3))
    bytes_seen = tensor.view([4, 24], kernels.u8).numpy()
    np.testing.assert_array_equal(bytes_seen.view(np.float32), expected)
    with pytest.raises(ValueError, match=r"f32 \[4, 6\] does not fit into \[5, 5\]"):
        tensor.view([5, 5])
    with pytest.raises(ValueError, match=r"slice: \[3, 5\) is outside of f32 \[4, 6\]"):
        tensor.slice(3, 5)


def test_torch_tensors_are_shared_both_ways(ctx, give, take):
    theirs = torch.randn(5, 8, device="cuda").bfloat16()
    ours = give(theirs)
    assert ours.dtype == kernels.bf16 and ours.shape == (5, 8)
    assert ours.address == theirs.data_ptr()
    theirs.fill_(3.0)
    torch.cuda.synchronize()
    assert (ours.numpy() == 3.0).all()
    back = take(kernels.add(ours, ours))
    assert back.dtype == torch.bfloat16 and bool((back == 6.0).all())
    strided = give(torch.randn(6, 8, device="cuda").t())
    assert strided.strides == (1, 8)
    with pytest.raises(ValueError, match="x: must be contiguous"):
        kernels.rms_norm(give(torch.randn(8, 6, device="cuda").bfloat16().t()), ours, 1e-5)


def test_numpy_arrays_and_host_tensors_are_copied_in(ctx):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(kernels.from_dlpack(ctx, array).numpy(), array)
    host = torch.randn(3, 4).bfloat16()
    np.testing.assert_array_equal(kernels.from_dlpack(ctx, host).numpy(), host.float().numpy())


def test_an_exported_tensor_outlives_its_owner(ctx, take):
    ours = ctx.upload(np.full(1 << 20, 7, np.int32))
    theirs = take(ours)
    del ours
    gc.collect()
    for _ in range(4):  # would be handed the memory if it were free
        ctx.upload(np.zeros(1 << 20, np.int32))
    ctx.synchronize()
    assert bool((theirs == 7).all())


def test_memory_given_up_is_used_again(ctx):
    first = ctx.empty([1 << 20], kernels.f32)
    address, reserved = first.address, ctx.pool_bytes()[0]
    del first
    second = ctx.empty([1 << 20], kernels.f32)
    assert second.address == address
    assert ctx.pool_bytes()[0] == reserved


def test_idle_memory_goes_back_to_the_device_on_request():
    ctx = kernels.Context()
    tensor = ctx.empty([256 << 20], kernels.u8)
    free = ctx.memory()[0]
    del tensor
    assert ctx.trim() >= 256 << 20
    assert ctx.memory()[0] >= free + (256 << 20)
    assert ctx.pool_bytes() == (0, 0, 256 << 20)


def test_blocks_are_split_and_joined_without_overlap(ctx):
    rng = np.random.default_rng(3)
    held = []
    for step in range(min(600, int(os.environ.get("ERNIE_TEST_DRAWS", "600")))):
        if held and rng.random() < 0.45:
            tensor, value = held.pop(int(rng.integers(len(held))))
            assert (tensor.numpy() == value).all()
        else:
            tensor = ctx.empty([int(rng.integers(1, 3 << 20)) // 4 + 1], kernels.i32)
            kernels.fill(tensor, step)
            held.append((tensor, step))
    for tensor, value in held:
        assert (tensor.numpy() == value).all()


def test_out_of_memory_is_named_with_its_figures(ctx):
    total = ctx.memory()[1]
    with pytest.raises(
        kernels.OutOfMemoryError, match=rf"asked for {2 * total} bytes; device 0 has"
    ):
        ctx.empty([2 * total], kernels.u8)
    assert issubclass(kernels.OutOfMemoryError, kernels.CudaError)
    np.testing.assert_array_equal(ctx.zeros([3], kernels.i32).numpy(), 0)  # and it goes on


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="device: 99 is not one of the"):
        kernels.Context(99)


def test_a_graph_replays_on_new_contents(ctx):
    a = ctx.zeros([64], kernels.bf16)
    with ctx.capture() as graph:
        doubled = kernels.add(a, a)
        result = kernels.add(doubled, a)
    assert graph.num_nodes == 2
    for value in (1.0, 5.0, -3.0):
        a.copy_from(np.full(64, value, np.float32))
        graph.launch()
        np.testing.assert_array_equal(result.numpy(), np.full(64, 3 * value))


def test_a_graphs_memory_is_its_own(ctx):
    a = ctx.upload(np.ones(1 << 18, np.float32), kernels.bf16)
    with ctx.capture() as graph:
        kept = kernels.add(kernels.add(a, a), a)
    graph.launch()
    others = [ctx.upload(np.full(1 << 18, 9, np.float32), kernels.bf16) for _ in range(8)]
    assert (kept.numpy() == 3).all()
    graph.launch()
    assert all((other.numpy() == 9).all() for other in others)


def test_graphs_can_share_idle_memory(ctx):
    a = ctx.upload(np.ones(1 << 20, np.float32), kernels.bf16)
    with ctx.capture() as first:
        kept = kernels.add(kernels.add(a, a), a)
    with ctx.capture(first) as second:
        also_kept = kernels.add(kernels.add(kept, a), a)
    assert first.pool_bytes == second.pool_bytes <= 32 << 20
    first.launch()
    second.launch()
    assert (also_kept.numpy() == 5).all()


def test_a_failed_capture_leaves_the_context_usable(ctx):
    with pytest.raises(ValueError, match="upload: not possible while a graph is captured"):
        with ctx.capture():
            ctx.upload(np.zeros(4, np.float32))
    assert not ctx.is_capturing
    with pytest.raises(ValueError, match="read_later: not possible"):
        with ctx.capture():
            ctx.zeros([4], kernels.f32).numpy()
    np.testing.assert_array_equal(ctx.upload(np.arange(4.0)).numpy(), [0, 1, 2, 3])


def test_events_measure_time(ctx):
    big = ctx.zeros([64 << 20], kernels.f32)
    start, end = ctx.event(), ctx.event()
    ctx.synchronize()
    began = time.perf_counter()
    start.record()
    for _ in range(10):
        kernels.fill(big, 1.0)
    end.record()
    end.synchronize()
    most = time.perf_counter() - began
    assert end.ready()
    assert 2.7e9 / 6e12 < start.elapsed_ms(end) / 1e3 < most  # 2.7 GB written, at most 6 TB/s


def test_chained_kernels_agree_with_unchained_ones(ctx):
    """A long dependent chain: a kernel that does not wait for the one before it shows here."""
    rng = np.random.default_rng(4)
    x = ctx.upload(rng.standard_normal((64, 2560)).astype(np.float32), kernels.bf16)
    w = ctx.upload(rng.standard_normal(2560).astype(np.float32), kernels.bf16)

    def chain():
        y, total = x, None
        for _ in range(60):
            y, total = kernels.add_rms_norm(y, total, w, 1e-5)
        return total.numpy()

    chained = chain()
    was_on, ctx.pdl = ctx.pdl, False
    try:
        unchained = chain()
    finally:
        ctx.pdl = was_on
    np.testing.assert_array_equal(chained, unchained)
