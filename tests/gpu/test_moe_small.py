"""Experts of few tokens against float64, and the sum over a token's slots."""

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
# (E, S, top_k, H, m)
TINY = (6, 2, 2, 192, 80)
ODD = (7, 1, 3, 328, 72)
REAL = (16, 2, 6, 2560, 1536)  # the real sizes of an expert, fewer of them
TOKENS = (1, 2, 8, 9, 32, 33, 100, 256)


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


def _poison(ctx, *shape):
    block = ctx.empty(shape, kernels.bf16)
    _take(ctx, block).fill_(NAN)
    torch.cuda.synchronize()
    return block


def _choices(tokens, sizes, kind):
    experts, shared, top_k, _, _ = sizes
    scores = torch.rand(tokens, experts, device="cuda")
    if kind == "one takes all":
        scores[:, 2] = 2.0
    if kind == "empty groups":
        scores[:, ::2] -= 2.0
    ids = scores.topk(top_k, dim=1).indices
    tail = torch.arange(experts, experts + shared, device="cuda").expand(tokens, -1)
    return torch.cat([ids, tail], dim=1).int()


def _routing(ctx, ids, groups, experts, shared):
    flat = ids.flatten()
    order = torch.argsort(flat, stable=True).int()
    offsets = torch.zeros(groups + 1, dtype=torch.int32, device="cuda")
    offsets[1:] = torch.bincount(flat, minlength=groups).cumsum(0)
    weights = torch.rand(ids.shape, device="cuda")
    parts = (_give(ctx, part) for part in (ids, weights, order, offsets))
    return kernels.Routing(*parts, experts, shared), order.long(), weights


def _error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def _swiglu(rows, table):
    gate, up = (rows @ table.T).split(table.shape[0] // 2, dim=1)
    return torch.nn.functional.silu(gate) * up


def _grouped(rows, tables, groups, function):
    """function(rows of a group, its table), in the rows' places."""
    parts = [(groups == g).nonzero().flatten() for g in range(len(tables))]
    out = None
    for g, places in enumerate(parts):
        if len(places):
            part = function(rows[places], tables[g])
            if out is None:
                out = torch.full((len(rows), part.shape[1]), NAN, dtype=part.dtype, device="cuda")
            out[places] = part
    return out


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("sizes", (TINY, ODD, REAL), ids=("tiny", "odd", "real"))
@pytest.mark.parametrize("kind", ("balanced", "empty groups", "one takes all"))
def test_experts_are_as_exact_as_torchs(ctx, tokens, sizes, kind):
    experts, shared, top_k, hidden, m = sizes
    groups, slots = experts + shared, top_k + shared
    ids = _choices(tokens, sizes, kind)
    x = _random(tokens, hidden)
    up_gate = _random(groups, 2 * m, hidden, scale=hidden**-0.5)
    down = _random(groups, hidden, m, scale=m**-0.5)
    routing, order, _ = _routing(ctx, ids, groups, experts, shared)
    gx, gup, gdown = (_give(ctx, tensor) for tensor in (x, up_gate, down))
    y = _poison(ctx, tokens * slots, hidden)
    _poison(ctx, tokens * slots, m)

    h = kernels.moe_up_small(gx, routing, gup, 0, groups, slots)
    kernels.moe_down_small(h, routing, gdown, 0, groups, y)

    sorted_ids = ids.flatten()[order]
    rows = x[order // slots]
    found_h, found_y = _take(ctx, h), _take(ctx, y)
    exact_h = _grouped(rows.double(), up_gate.double(), sorted_ids, _swiglu)
    torch_h = _grouped(rows, up_gate, sorted_ids, _swiglu)
    assert torch.isfinite(found_h).all()
    assert _error(found_h, exact_h) <= 2 * _error(torch_h, exact_h)
    exact_y = _grouped(found_h.double(), down.double(), sorted_ids, lambda a, w: a @ w.T)
    torch_y = _grouped(found_h, down, sorted_ids, lambda a, w: a @ w.T)
    assert torch.isfinite(found_y).all()
    assert _error(found_y[order], exact_y) <= 2 * _error(torch_y, exact_y)


@pytest.mark.parametrize(
    ("tokens", "tile_rows", "stage_kb"),
    [
        *((5, rows, 16) for rows in (16, 32, 64)),
        *((20, rows, 16) for rows in (32, 64, 128)),
        *((90, rows, 16) for rows in (64, 128)),
        (20, 128, 32),
        (90, 128, 32),
    ],
)
@pytest.mark.parametrize("blocks", (1, 2))
def test_every_tile_gives_the_same_result(ctx, tokens, tile_rows, stage_kb, blocks):
    experts, shared, top_k, hidden, m = ODD
    groups, slots = experts + shared, top_k + shared
    ids = _choices(tokens, ODD, "balanced")
    x = _random(tokens, hidden)
    up_gate = _random(groups, 2 * m, hidden, scale=hidden**-0.5)
    down = _random(groups, hidden, m, scale=m**-0.5)
    routing, order, _ = _routing(ctx, ids, groups, experts, shared)
    gx, gup, gdown = (_give(ctx, tensor) for tensor in (x, up_gate, down))
    y = _poison(ctx, tokens * slots, hidden)
    tuning = kernels.ExpertTuning(tile_rows, blocks, stage_kb)

    h = kernels.moe_up_small(gx, routing, gup, 0, groups, slots, tuning)
    kernels.moe_down_small(h, routing, gdown, 0, groups, y, tuning)

    sorted_ids = ids.flatten()[order]
    inner = _grouped(x[order // slots].double(), up_gate.double(), sorted_ids, _swiglu)
    exact = _grouped(inner, down.double(), sorted_ids, lambda a, w: a @ w.T)
    assert _error(_take(ctx, h), inner) < 3e-3
    assert _error(_take(ctx, y)[order], exact) < 5e-3


def test_two_calls_share_the_rows_of_two_modalities(ctx):
    experts, shared, vision, top_k, hidden, text_m, vision_m = 6, 2, 6, 2, 192, 80, 40
    tokens, slots, groups = 40, 4, 14
    ids = _choices(tokens, TINY, "balanced")
    is_vision = torch.rand(tokens, device="cuda") < 0.5
    ids[is_vision, :top_k] += experts + shared
    x = _random(tokens, hidden)
    tables = [
        (_random(n, 2 * m, hidden, scale=hidden**-0.5), _random(n, hidden, m, scale=m**-0.5))
        for n, m in ((experts + shared, text_m), (vision, vision_m))
    ]
    routing, _, _ = _routing(ctx, ids, groups, experts, shared)
    gx = _give(ctx, x)
    y = _poison(ctx, tokens * slots, hidden)
    for (up, down), first in zip(tables, (0, experts + shared), strict=True):
        gup, gdown = _give(ctx, up), _give(ctx, down)
        h = kernels.moe_up_small(gx, routing, gup, first, len(up), slots)
        kernels.moe_down_small(h, routing, gdown, first, len(up), y)

    flat = ids.flatten()
    rows = x.repeat_interleave(slots, dim=0)
    found = _take(ctx, y)
    assert torch.isfinite(found).all()
    for (up, down), first in zip(tables, (0, experts + shared), strict=True):
        mine = (flat >= first) & (flat < first + len(up))
        inner = _grouped(rows[mine].double(), up.double(), flat[mine] - first, _swiglu)
        exact = _grouped(inner, down.double(), flat[mine] - first, lambda a, w: a @ w.T)
        assert _error(found[mine], exact) < 6e-3


def test_the_router_and_the_experts_run_in_a_replayed_graph(ctx):
    """Replays with other tokens route anew, and the work counters start from zero each time."""
    experts, shared, top_k, hidden, m = REAL
    groups, slots, tokens = experts + shared, top_k + shared, 5
    up_gate = _random(groups, 2 * m, hidden, scale=hidden**-0.5)
    down = _random(groups, hidden, m, scale=m**-0.5)
    gate = torch.randn(experts, hidden, device="cuda") * hidden**-0.5
    bias = torch.zeros(experts, device="cuda")
    residual, norm = _random(tokens, hidden), _random(hidden)
    gup, gdown, ggate, gbias = (_give(ctx, tensor) for tensor in (up_gate, down, gate, bias))
    gresidual, gnorm = _give(ctx, residual), _give(ctx, norm)
    x = ctx.empty((tokens, hidden), kernels.bf16)

    def layer():
        routing = kernels.moe_route(x, ggate, gbias, top_k, 1e-12, shared)
        y = ctx.empty((tokens * slots, hidden), kernels.bf16)
        h = kernels.moe_up_small(x, routing, gup, 0, groups, slots)
        kernels.moe_down_small(h, routing, gdown, 0, groups, y)
        return kernels.moe_combine_add_rms_norm(y, routing.weights, gresidual, gnorm, 1e-5)

    layer()
    with ctx.capture() as graph:
        normed, total = layer()
    for _ in range(3):
        rows = _random(tokens, hidden)
        torch.cuda.synchronize()
        x.copy_from(rows.float().cpu().numpy())
        graph.launch()
        p = torch.softmax(rows.double() @ gate.double().T, dim=1)
        top = p.topk(top_k, dim=1)
        exact = residual.double()
        for t in range(tokens):
            weights = top.values[t] / top.values[t].sum()
            chosen = [*zip(top.indices[t].tolist(), weights.tolist(), strict=True)]
            for g, weight in [*chosen, *((experts + s, 1.0) for s in range(shared))]:
                inner = _swiglu(rows[t : t + 1].double(), up_gate[g].double())
                exact[t] += weight * (inner @ down[g].double().T)[0]
        exact_norm = exact * torch.rsqrt(exact.square().mean(dim=1, keepdim=True) + 1e-5)
        assert _error(_take(ctx, total), exact) < 6e-3
        assert _error(_take(ctx, normed), exact_norm * norm.double()) < 6e-3


@pytest.mark.parametrize("tokens", (1, 7, 256))
@pytest.mark.parametrize(("slots", "hidden"), ((4, 192), (8, 2560), (8, 8192), (1, 8), (12, 4104)))
def test_combine_sums_slots_by_weight(ctx, tokens, slots, hidden):
    y, weights = _random(tokens * slots, hidden), torch.rand(tokens, slots, device="cuda")
    residual, norm = _random(tokens, hidden), _random(hidden)
    gy, gw = _give(ctx, y), _give(ctx, weights)
    for _ in range(2):
        _poison(ctx, tokens, hidden)

    plain = _take(ctx, kernels.moe_combine(gy, gw))
    normed, total = (
        _take(ctx, part)
        for part in kernels.moe_combine_add_rms_norm(
            gy, gw, _give(ctx, residual), _give(ctx, norm), 1e-5
        )
    )

    exact = (y.double().view(tokens, slots, hidden) * weights.double()[:, :, None]).sum(dim=1)
    assert _error(plain, exact) <= 1.05 * _error(exact.bfloat16(), exact)
    exact_total = exact + residual.double()
    assert _error(total, exact_total) <= 1.05 * _error(exact_total.bfloat16(), exact_total)
    scale = torch.rsqrt(total.double().square().mean(dim=1, keepdim=True) + 1e-5)
    exact_normed = total.double() * scale * norm.double()
    assert _error(normed, exact_normed) <= 1.05 * _error(exact_normed.bfloat16(), exact_normed)


def test_tables_that_do_not_fit_are_named(ctx):
    routing, _, _ = _routing(ctx, _choices(2, TINY, "balanced"), 8, 6, 2)
    x = ctx.empty((2, 192), kernels.bf16)
    with pytest.raises(ValueError, match="up_gate"):
        kernels.moe_up_small(x, routing, ctx.empty((7, 160, 192), kernels.bf16), 0, 8)
    with pytest.raises(ValueError, match="groups 1 \\+ 8"):
        kernels.moe_up_small(x, routing, ctx.empty((8, 160, 192), kernels.bf16), 1, 8)
    with pytest.raises(ValueError, match="slots is 3"):
        kernels.moe_up_small(x, routing, ctx.empty((8, 160, 192), kernels.bf16), 0, 8, 3)
