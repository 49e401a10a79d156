"""Shared by the GPU tests: a context, tensors in and out of torch, and the measure of accuracy."""

import pytest

import kernels


@pytest.fixture(scope="session")
def ctx():
    reason = kernels.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    return kernels.Context()


@pytest.fixture(scope="session")
def give(ctx):
    """A torch tensor on the GPU, or None, as one of ours that shares its memory."""
    import torch

    def share(tensor):
        torch.cuda.synchronize()
        return None if tensor is None else kernels.from_dlpack(ctx, tensor)

    return share


@pytest.fixture(scope="session")
def take(ctx):
    """One of our tensors as torch's."""
    import torch

    def share(tensor):
        ctx.synchronize()
        return torch.from_dlpack(tensor)

    return share


@pytest.fixture
def poison(ctx, take):
    """Fill the pool's idle memory with NaNs, so that what a kernel does not write shows."""
    import torch

    def fill(nbytes):
        for size in {512, nbytes, 2 * nbytes, 3 * nbytes}:
            take(ctx.empty([max(1, size // 4)], kernels.f32)).fill_(float("nan"))
        torch.cuda.synchronize()

    return fill


@pytest.fixture(scope="session")
def assert_accurate():
    """Our error is at most twice that of torch's own bf16 result, both against a float64 one."""

    def error(result, reference):
        reference = reference.double()
        return float((result.double() - reference).norm() / reference.norm().clamp_min(1e-30))

    def check(ours, theirs, reference, what=""):
        assert ours.shape == reference.shape, what
        assert bool(ours.isfinite().all()), f"{what}: not finite"
        ours_error, theirs_error = error(ours, reference), error(theirs, reference)
        limit = 2 * theirs_error + 1e-7
        assert ours_error <= limit, f"{what}: error {ours_error:.2e}, torch's {theirs_error:.2e}"

    return check
