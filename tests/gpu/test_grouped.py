"""Experts of large batches: gathered up product with SwiGLU, scattered down product."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Sizes:
    """T tokens, E experts of which each token takes `top_k`, then S shared ones; K in, m wide."""

    tokens: int
    experts: int
    top_k: int
    shared: int
    k: int
    m: int

    @property
    def slots(self):
        return self.top_k + self.shared

    @property
    def groups(self):
        return self.experts + self.shared


def _choices(sizes, kind):
    """ids [T, slots]: the experts of each token, shared ones last."""
    scores = torch.rand(sizes.tokens, sizes.experts, device="cuda")
    if kind == "one takes all":
        scores[:, 0] = 2.0
    if kind == "empty groups":
        scores[:, ::2] -= 2.0
    ids = scores.topk(sizes.top_k, dim=1).indices
    shared = torch.arange(sizes.experts, sizes.groups, device="cuda").expand(sizes.tokens, -1)
    return torch.cat([ids, shared], dim=1).int()


def _sorted_pairs(ids, groups):
    flat = ids.flatten()
    order = torch.argsort(flat, stable=True).int()
    counts = torch.bincount(flat, minlength=groups)
    offsets = torch.zeros(groups + 1, dtype=torch.int32, device="cuda")
    offsets[1:] = counts.cumsum(0)
    return order, offsets


def _give(ctx, tensor):
    torch.cuda.synchronize()
    return kernels.from_dlpack(ctx, tensor)


def _take(ctx, tensor):
    ctx.synchronize()
    return torch.from_dlpack(tensor)


def _routing(ctx, sizes, ids):
    order, offsets = _sorted_pairs(ids, sizes.groups)
    weights = torch.ones(ids.shape, device="cuda")
    routing = kernels.Routing(
        *(_give(ctx, t) for t in (ids, weights, order, offsets)), sizes.experts, sizes.shared
    )
    return routing, order.long(), offsets.tolist()


def _normal(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def _relative_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def _assert_as_good_as_torch(actual, torch_bf16, exact):
    assert torch.isfinite(actual).all()
    ours, theirs = _relative_error(actual, exact), _relative_error(torch_bf16, exact)
    assert ours <= 2 * theirs, f"error {ours:.2e}, torch in bf16 {theirs:.2e}"


def _up(x, weight):
    gate, up = (x @ weight.T).chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _run_up(ctx, sizes, x, routing, weight, first_group, num_groups):
    """The result, computed into memory that held NaN before."""
    arguments = (_give(ctx, x), routing, _give(ctx, weight), first_group, num_groups, sizes.slots)
    _take(ctx, kernels.moe_up_large(*arguments)).fill_(NAN)
    torch.cuda.synchronize()
    return _take(ctx, kernels.moe_up_large(*arguments)).clone()


CASES = [
    (Sizes(1, 6, 2, 2, 192, 80), "balanced"),
    (Sizes(70, 6, 2, 2, 192, 40), "balanced"),
    (Sizes(500, 6, 2, 0, 40, 24), "empty groups"),
    (Sizes(16, 6, 2, 2, 192, 80), "empty groups"),
    (Sizes(333, 5, 2, 1, 200, 136), "balanced"),
    (Sizes(333, 5, 1, 0, 200, 136), "one takes all"),
    (Sizes(1, 64, 6, 2, 2560, 1536), "balanced"),
    (Sizes(24, 64, 6, 2, 2560, 1536), "balanced"),
    (Sizes(300, 64, 6, 2, 2560, 1536), "empty groups"),
    (Sizes(2048, 64, 6, 2, 2560, 1536), "balanced"),
    (Sizes(2000, 64, 6, 2, 2560, 512), "one takes all"),
    (Sizes(1024, 8, 2, 0, 1024, 3584), "balanced"),
    (Sizes(16384, 16, 2, 1, 2560, 1536), "balanced"),
]
cases = pytest.mark.parametrize(("sizes", "kind"), CASES, ids=str)


@cases
def test_up_is_as_exact_as_torch(ctx, sizes, kind):
    routing, order, offsets = _routing(ctx, sizes, _choices(sizes, kind))
    x = _normal(sizes.tokens, sizes.k)
    weight = _normal(sizes.groups, 2 * sizes.m, sizes.k, scale=sizes.k**-0.5)
    h = _run_up(ctx, sizes, x, routing, weight, 0, sizes.groups)
    rows = x[order // sizes.slots]
    for group in range(sizes.groups):
        part = slice(offsets[group], offsets[group + 1])
        if part.start < part.stop:
            exact = _up(rows[part].double(), weight[group].double())
            _assert_as_good_as_torch(h[part], _up(rows[part], weight[group]), exact)


@cases
def test_down_is_as_exact_as_torch(ctx, sizes, kind):
    routing, order, offsets = _routing(ctx, sizes, _choices(sizes, kind))
    h = _normal(sizes.tokens * sizes.slots, sizes.m)
    weight = _normal(sizes.groups, sizes.k, sizes.m, scale=sizes.m**-0.5)
    y = torch.full((sizes.tokens * sizes.slots, sizes.k), NAN, device="cuda").bfloat16()
    kernels.moe_down_large(
        _give(ctx, h), routing, _give(ctx, weight), 0, sizes.groups, _give(ctx, y)
    )
    ctx.synchronize()
    for group in range(sizes.groups):
        part = slice(offsets[group], offsets[group + 1])
        if part.start < part.stop:
            exact = h[part].double() @ weight[group].double().T
            _assert_as_good_as_torch(y[order[part]], h[part] @ weight[group].T, exact)


@pytest.mark.parametrize("m", [512, 40])
def test_two_tables_share_one_numbering_and_leave_each_other_alone(ctx, m):
    sizes = Sizes(400, 12, 3, 0, 256, m)
    routing, order, offsets = _routing(ctx, sizes, _choices(sizes, "balanced"))
    x = _normal(sizes.tokens, sizes.k)
    first, count = 7, 4
    up = _normal(count, 2 * m, sizes.k, scale=0.1)
    down = _normal(count, sizes.k, m, scale=0.1)
    h = kernels.moe_up_large(_give(ctx, x), routing, _give(ctx, up), first, count, sizes.slots)
    y = torch.full((sizes.tokens * sizes.slots, sizes.k), NAN, device="cuda").bfloat16()
    kernels.moe_down_large(h, routing, _give(ctx, down), first, count, _give(ctx, y))
    h = _take(ctx, h)
    mine = order[offsets[first] : offsets[first + count]]
    others = torch.ones(len(y), dtype=torch.bool, device="cuda")
    others[mine] = False
    assert torch.isnan(y[others]).all()
    assert torch.isfinite(y[mine]).all()
    for e in range(count):
        part = slice(offsets[first + e], offsets[first + e + 1])
        rows = x[order[part] // sizes.slots]
        _assert_as_good_as_torch(h[part], _up(rows, up[e]), _up(rows.double(), up[e].double()))
        _assert_as_good_as_torch(
            y[order[part]], h[part] @ down[e].T, h[part].double() @ down[e].double().T
        )


def test_a_token_alone_gets_the_bits_it_gets_in_a_batch(ctx):
    sizes = Sizes(700, 8, 2, 1, 512, 256)
    ids = _choices(sizes, "balanced")
    x = _normal(sizes.tokens, sizes.k)
    weight = _normal(sizes.groups, 2 * sizes.m, sizes.k, scale=0.05)
    routing, order, _ = _routing(ctx, sizes, ids)
    together = _run_up(ctx, sizes, x, routing, weight, 0, sizes.groups)
    for token in (0, 123, 699):
        one = Sizes(1, 8, 2, 1, 512, 256)
        alone_routing, alone_order, _ = _routing(ctx, one, ids[token : token + 1].clone())
        alone = _run_up(
            ctx, one, x[token : token + 1].clone(), alone_routing, weight, 0, one.groups
        )
        for slot in range(sizes.slots):
            row = (order == token * sizes.slots + slot).nonzero().item()
            alone_row = (alone_order == slot).nonzero().item()
            assert torch.equal(together[row], alone[alone_row])


def test_a_captured_graph_follows_a_new_routing(ctx):
    sizes = Sizes(600, 10, 2, 1, 320, 192)
    x = _normal(sizes.tokens, sizes.k)
    up = _normal(sizes.groups, 2 * sizes.m, sizes.k, scale=0.05)
    down = _normal(sizes.groups, sizes.k, sizes.m, scale=0.05)
    y = torch.empty(sizes.tokens * sizes.slots, sizes.k, device="cuda").bfloat16()
    ids = _choices(sizes, "balanced")
    order, offsets = _sorted_pairs(ids, sizes.groups)
    routing = kernels.Routing(
        *(_give(ctx, t) for t in (ids, torch.ones(ids.shape, device="cuda"), order, offsets)),
        sizes.experts,
        sizes.shared,
    )
    given = [_give(ctx, t) for t in (x, up, down, y)]
    with ctx.capture() as graph:
        h = kernels.moe_up_large(given[0], routing, given[1], 0, sizes.groups, sizes.slots)
        kernels.moe_down_large(h, routing, given[2], 0, sizes.groups, given[3])
    for kind in ("one takes all", "empty groups"):
        new_order, new_offsets = _sorted_pairs(_choices(sizes, kind), sizes.groups)
        order.copy_(new_order)
        offsets.copy_(new_offsets)
        y.fill_(NAN)
        torch.cuda.synchronize()
        graph.launch()
        ctx.synchronize()
        starts = new_offsets.tolist()
        for group in range(sizes.groups):
            pairs = new_order.long()[starts[group] : starts[group + 1]]
            if len(pairs):
                rows = x[pairs // sizes.slots]
                exact = _up(rows.double(), up[group].double()) @ down[group].double().T
                _assert_as_good_as_torch(y[pairs], _up(rows, up[group]) @ down[group].T, exact)


def test_few_pairs_are_streamed_and_more_are_grouped(ctx):
    row = ctx.empty((1, 2560), kernels.bf16)
    narrow = ctx.empty((1, 40), kernels.bf16)

    assert kernels.moe_prefers_small(row, 64, 1536)
    assert kernels.moe_prefers_small(row, 512, 1536) == (ctx.capability != (9, 0))
    assert kernels.moe_prefers_small(narrow, 512, 1536)  # no tile of wgmma is full
    assert not kernels.moe_prefers_small(narrow, kernels.SMALL_PAIRS + 1, 1536)


def test_bad_arguments_are_named(ctx):
    sizes = Sizes(4, 4, 2, 0, 64, 64)
    routing, _, _ = _routing(ctx, sizes, _choices(sizes, "balanced"))
    x = _give(ctx, _normal(4, 64))
    weight = _give(ctx, _normal(4, 128, 64))
    with pytest.raises(ValueError, match=r"num_groups 4 .* routing's 4 groups"):
        kernels.moe_up_large(x, routing, weight, 1, 4, 2)
    with pytest.raises(ValueError, match="slots"):
        kernels.moe_up_large(x, routing, weight, 0, 4, 3)
    with pytest.raises(ValueError, match="up_gate"):
        kernels.moe_up_large(x, routing, _give(ctx, _normal(4, 128, 72)), 0, 4, 2)
    with pytest.raises(ValueError, match="multiples of 8"):
        kernels.moe_up_large(x, routing, _give(ctx, _normal(4, 120, 64)), 0, 4, 2)
    with pytest.raises(ValueError, match="y"):
        kernels.moe_down_large(
            _give(ctx, _normal(8, 64)), routing, weight, 0, 4, _give(ctx, _normal(8, 64))
        )
