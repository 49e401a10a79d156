"""Decode and prefill attention over the paged cache against float64 on the same bf16 inputs."""

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


def _give(ctx, tensor):
    torch.cuda.synchronize()
    return kernels.from_dlpack(ctx, tensor)


def _take(ctx, tensor):
    ctx.synchronize()
    return torch.from_dlpack(tensor)


def _normal(*shape):
    return torch.randn(*shape, device="cuda").bfloat16()


def _int32(values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")


@dataclass(frozen=True)
class Heads:
    nq: int
    nkv: int
    size: int
    block_size: int

    @property
    def scale(self):
        return self.size**-0.5


MAIN = Heads(20, 4, 128, 64)
SHAPES = [
    MAIN,
    Heads(20, 4, 128, 16),
    Heads(20, 4, 128, 32),
    Heads(20, 4, 128, 48),
    Heads(20, 4, 128, 256),
    Heads(16, 2, 128, 64),
    Heads(64, 8, 128, 64),
    Heads(16, 1, 128, 64),
    Heads(4, 4, 128, 128),
    Heads(6, 2, 32, 16),
    Heads(8, 8, 64, 64),
    Heads(9, 3, 72, 16),
    Heads(12, 4, 80, 32),
    Heads(16, 1, 96, 64),
]
shapes = pytest.mark.parametrize("heads", SHAPES, ids=str)
kinds = pytest.mark.parametrize("kind", ["few", "many", "long"])
"""On Hopper three kernels share decode attention: for few rows, for more, for many keys."""


def _launches(heads, count, kind):
    """Rows of each of the launches that together compute rows 0 ... count - 1: few ones have a
    cluster of an H200 for each KV head of each; more are made by repeating them."""
    few = 32 // heads.nkv
    if kind == "few":
        return [list(range(start, min(start + few, count))) for start in range(0, count, few)]
    return [list(range(count)) * (few // count + 1)]


class Cache:
    """Contexts scattered over shuffled blocks; everything that is not a context's is NaN."""

    def __init__(self, heads, contexts):
        self.contexts = contexts
        size = heads.block_size
        needed = [-(-length // size) for length in contexts]
        total = sum(needed) + 3
        free = (torch.randperm(total - 1) + 1).tolist()
        tables = torch.zeros(len(contexts), max(needed) + 2, dtype=torch.int32)
        self.k, self.v = (
            torch.full((total, heads.nkv, size, heads.size), NAN, device="cuda").bfloat16()
            for _ in range(2)
        )
        self.keys, self.values = [], []  # [context, nkv, d] of each sequence
        for s, length in enumerate(contexts):
            blocks = [free.pop() for _ in range(needed[s])]
            tables[s, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
            at = torch.arange(length, device="cuda")
            block = torch.tensor(blocks, device="cuda", dtype=torch.long)[at // size]
            for cache, kept in ((self.k, self.keys), (self.v, self.values)):
                rows = _normal(length, heads.nkv, heads.size)
                cache[block, :, at % size] = rows
                kept.append(rows)
        self.tables = tables.cuda()

    def arguments(self, ctx, rows=None):
        rows = list(range(len(self.contexts))) if rows is None else rows
        lens = _int32([self.contexts[row] for row in rows])
        return [_give(ctx, t) for t in (self.k, self.v, self.tables[rows].clone(), lens)]


def _exact(q, k, v, seen, scale):
    """q [L, nq, d] over the first seen[i] of keys [C, nkv, d], in float64."""
    ratio = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double(), v.double()
    hidden = torch.arange(len(k), device="cuda") >= seen[:, None]
    out = torch.empty_like(q)
    for h in range(q.shape[1]):
        scores = (q[:, h] @ k[:, h // ratio].T * scale).masked_fill(hidden, -torch.inf)
        out[:, h] = scores.softmax(-1) @ v[:, h // ratio]
    return out


def _torch_bf16(q, k, v, seen, scale):
    ratio = q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    k, v = (x.repeat_interleave(ratio, 1) for x in (k, v))
    visible = torch.arange(k.shape[2], device="cuda") < seen[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    return out[0].transpose(0, 1)


def _relative_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def _assert_as_good_as_torch(out, q, k, v, seen, heads):
    seen = torch.as_tensor(seen, device="cuda")
    exact = _exact(q, k, v, seen, heads.scale)
    out = out.view(q.shape)
    assert torch.isfinite(out).all()
    ours = _relative_error(out, exact)
    theirs = _relative_error(_torch_bf16(q, k, v, seen, heads.scale), exact)
    assert ours <= 2 * theirs, f"error {ours:.2e}, torch in bf16 {theirs:.2e}"


def _decode(ctx, heads, cache, q, kind, rows=None):
    """The result of rows in the order given, computed into memory that held NaN before."""
    rows = list(range(len(q))) if rows is None else rows
    out = []
    for launch in _launches(heads, len(rows), kind):
        taken = [rows[at] for at in launch]
        arguments = [_give(ctx, q[taken].clone()), *cache.arguments(ctx, taken), heads.scale]
        arguments.append(kind == "long")
        _take(ctx, kernels.decode_attention(*arguments)).fill_(NAN)
        torch.cuda.synchronize()
        out.append(_take(ctx, kernels.decode_attention(*arguments)).clone())
    return torch.cat(out)[: len(rows)]


def _check_decode(ctx, heads, contexts, kind):
    cache = Cache(heads, contexts)
    q = _normal(len(contexts), heads.nq, heads.size)
    out = _decode(ctx, heads, cache, q, kind)
    for s, length in enumerate(contexts):
        if length == 0:
            assert not out[s].any()
        else:
            _assert_as_good_as_torch(
                out[s : s + 1], q[s : s + 1], cache.keys[s], cache.values[s], [length], heads
            )


@kinds
@shapes
def test_decode_is_as_exact_as_torch_at_every_length(ctx, heads, kind):
    contexts = [1, 2, 15, 16, 17, 63, 64, 65, 0, 127, 128, 129, 1000, 3333, 0]
    _check_decode(ctx, heads, contexts, kind)


@kinds
def test_decode_of_one_short_context(ctx, kind):
    _check_decode(ctx, MAIN, [1], kind)


def test_decode_of_no_sequence(ctx):
    caches = [ctx.zeros((3, MAIN.nkv, MAIN.block_size, MAIN.size), kernels.bf16) for _ in range(2)]
    q = ctx.empty((0, MAIN.nq, MAIN.size), kernels.bf16)
    places = ctx.empty((0, 2), kernels.i32), ctx.empty((0,), kernels.i32)
    out = kernels.decode_attention(q, *caches, *places, MAIN.scale)
    assert out.shape == (0, MAIN.nq * MAIN.size)


@kinds
def test_decode_of_the_longest_context(ctx, kind):
    _check_decode(ctx, MAIN, [131072], kind)


@kinds
def test_decode_of_long_and_short_contexts_together(ctx, kind):
    _check_decode(ctx, MAIN, [40001, 3, 8192, 0, 70000, 100], kind)


@kinds
def test_decode_of_many_sequences(ctx, kind):
    rows = 40 if kind == "few" else 300
    _check_decode(ctx, MAIN, (torch.randperm(2000)[:rows] + 1).tolist(), kind)


_SHORT = [700, 5, 1000, 129, 1024, 0, 999, 40]


@pytest.mark.parametrize(
    ("kind", "contexts", "apart"),
    [
        ("few", _SHORT, 1),  # longer ones are cut by the number of rows, too
        ("many", [*_SHORT, 20000, 4096, *range(40, 9000, 217)], 12),
        ("long", [20000, 4096, 2049, *_SHORT, *range(40, 9000, 217)], 1),
    ],
)
def test_a_row_gets_the_same_bits_in_another_batch(ctx, kind, contexts, apart):
    cache = Cache(MAIN, contexts)
    q = _normal(len(contexts), MAIN.nq, MAIN.size)
    whole = _decode(ctx, MAIN, cache, q, kind)
    for start in range(0, len(contexts) + 1 - apart, apart)[:7]:
        rows = list(range(start, start + apart))
        assert torch.equal(_decode(ctx, MAIN, cache, q, kind, rows), whole[rows])


@kinds
def test_a_captured_decode_follows_lengths_that_change(ctx, kind):
    copies = 1 if kind == "few" else 5
    cache = Cache(MAIN, [5000, 300] * copies)
    q = _normal(2 * copies, MAIN.nq, MAIN.size)
    arguments = [_give(ctx, q), *cache.arguments(ctx)]
    kernels.decode_attention(*arguments, MAIN.scale, kind == "long")
    with ctx.capture() as graph:
        out = kernels.decode_attention(*arguments, MAIN.scale, kind == "long")
    for pair in ([5000, 300], [1, 299], [4097, 0], [5000, 300]):
        contexts = pair * copies
        arguments[-1].copy_from(_int32(contexts).cpu().numpy())
        graph.launch()
        rows = _take(ctx, out).clone()
        for s, length in enumerate(contexts):
            if length == 0:
                assert not rows[s].any()
                continue
            keys, values = cache.keys[s][:length], cache.values[s][:length]
            _assert_as_good_as_torch(rows[s : s + 1], q[s : s + 1], keys, values, [length], MAIN)


@kinds
def test_lengths_that_the_kernel_before_writes_are_followed(ctx, kind):
    """Decode begins with the lengths it finds while that kernel runs."""
    copies = 1 if kind == "few" else 3
    rows = 3 * copies
    lens = [
        lengths * copies
        for lengths in ([900, 64, 5000], [5000, 1, 0], [63, 2000, 129], [0, 0, 700])
    ]
    cache = Cache(MAIN, [5000, 2000, 5000] * copies)
    qkv = _give(ctx, _normal(rows, (MAIN.nq + 2 * MAIN.nkv) * MAIN.size))
    turns = [_give(ctx, torch.rand(rows, MAIN.size // 2, device="cuda")) for _ in range(2)]
    *caches, tables, _ = cache.arguments(ctx)
    choices, chosen = _give(ctx, _int32(lens)), _give(ctx, _int32([0]))

    def decode(lengths):
        return kernels.rope_decode_attention(
            qkv, *turns, *caches, tables, lengths, MAIN.nq, True, MAIN.scale, kind == "long"
        )

    for _ in range(2):  # the first round writes all the newest keys that the others read
        expected = [_take(ctx, decode(_give(ctx, _int32(row)))).clone() for row in lens]
    with ctx.capture() as graph:
        out = decode(kernels.gather_rows(choices, chosen).view((rows,)))
    for row in [0, 1, 2, 3] * 8:
        chosen.copy_from(_int32([row]).cpu().numpy())
        graph.launch()
        assert torch.equal(_take(ctx, out), expected[row])


@kinds
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    "heads", [MAIN, Heads(16, 2, 128, 16), Heads(16, 1, 128, 48), Heads(6, 2, 32, 16)], ids=str
)
def test_turning_in_the_same_launch_gives_the_same_bits(ctx, heads, interleaved, kind):
    contexts = [1, 2, 16, 17, 64, 65, 0, 128, 129, 1000, 5000, *range(30, 900, 19)]
    cache = Cache(heads, contexts)
    rows = len(contexts)
    qkv = _normal(rows, (heads.nq + 2 * heads.nkv) * heads.size)
    angles = torch.rand(rows, heads.size // 2, device="cuda") * 50
    turns = [_give(ctx, qkv), _give(ctx, angles.cos()), _give(ctx, angles.sin())]
    newest = [max(0, length - 1) for length in contexts]
    blocks = [cache.tables[s, at // heads.block_size].item() for s, at in enumerate(newest)]
    slots = torch.tensor(
        [
            block * heads.block_size + at % heads.block_size if length else -1
            for block, at, length in zip(blocks, newest, contexts, strict=True)
        ],
        device="cuda",
    )
    for s, at in enumerate(newest):
        if contexts[s]:
            cache.k[blocks[s], :, at % heads.block_size] = NAN
            cache.v[blocks[s], :, at % heads.block_size] = NAN
    other = [cache.k.clone(), cache.v.clone()]
    q = kernels.rope_kv_write(
        *turns, _give(ctx, slots), *cache.arguments(ctx)[:2], heads.nq, interleaved
    )
    apart, together = [], []
    for launch in _launches(heads, rows, kind):
        k, v, *places = cache.arguments(ctx, launch)
        turned = _give(ctx, _take(ctx, q)[launch].clone())
        out = kernels.decode_attention(turned, k, v, *places, heads.scale, kind == "long")
        apart.append(_take(ctx, out).clone())
        copies = [_give(ctx, t) for t in other]
        raw = [_give(ctx, t[launch].clone()) for t in (qkv, angles.cos(), angles.sin())]
        out = kernels.rope_decode_attention(
            *raw, *copies, *places, heads.nq, interleaved, heads.scale, kind == "long"
        )
        together.append(_take(ctx, out).clone())
    apart, together = torch.cat(apart), torch.cat(together)
    assert torch.isfinite(together).all()
    assert torch.equal(together, apart)
    for ours, theirs in zip(other, (cache.k, cache.v), strict=True):
        assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16))


def _prefill(ctx, heads, cache, q, lens):
    """The result, computed into memory that held NaN before."""
    starts = [0, *torch.tensor(lens).cumsum(0).tolist()]
    arguments = [_give(ctx, q), *cache.arguments(ctx), _give(ctx, _int32(starts))]
    arguments += [max(lens), heads.scale]
    _take(ctx, kernels.prefill_attention(*arguments)).fill_(NAN)
    torch.cuda.synchronize()
    return _take(ctx, kernels.prefill_attention(*arguments)).clone()


def _check_prefill(ctx, heads, chunks, checked=None):
    """chunks: (context, queries) of each sequence; of long ones `checked` rows are checked."""
    contexts, lens = map(list, zip(*chunks, strict=True))
    cache = Cache(heads, contexts)
    q = _normal(sum(lens), heads.nq, heads.size)
    out = _prefill(ctx, heads, cache, q, lens)
    assert torch.isfinite(out).all()
    start = 0
    for s, (context, queries) in enumerate(chunks):
        rows = torch.arange(queries, device="cuda")
        if checked is not None and queries > checked:
            rows = torch.linspace(0, queries - 1, checked, device="cuda").long()
        _assert_as_good_as_torch(
            out[start + rows],
            q[start + rows],
            cache.keys[s],
            cache.values[s],
            context - queries + 1 + rows,
            heads,
        )
        start += queries


@shapes
def test_prefill_is_as_exact_as_torch(ctx, heads):
    chunks = [(300, 300), (1, 1), (1000, 257), (64, 64), (129, 1), (700, 130), (128, 127), (777, 3)]
    _check_prefill(ctx, heads, chunks)


@shapes
def test_prefill_of_short_chunks(ctx, heads):
    _check_prefill(ctx, heads, [(500, 7), (33, 2), (4, 4), (1000, 1)])


@pytest.mark.parametrize("heads", [MAIN, Heads(6, 2, 32, 16)], ids=str)
def test_prefill_of_one_prompt(ctx, heads):
    _check_prefill(ctx, heads, [(2048, 2048)])


def test_prefill_of_a_long_chunk_behind_a_long_context(ctx):
    _check_prefill(ctx, MAIN, [(30000, 8192)], checked=300)


def test_prefill_of_many_prompts(ctx):
    lens = (torch.randperm(200)[:70] + 1).tolist()
    _check_prefill(ctx, MAIN, [(n + 31 * i, n) for i, n in enumerate(lens)])


@pytest.mark.parametrize("heads", [MAIN, Heads(6, 2, 32, 16)], ids=str)
def test_chunks_give_the_bits_that_the_whole_prompt_gives(ctx, heads):
    cache = Cache(heads, [1000])
    q = _normal(1000, heads.nq, heads.size)
    whole = _prefill(ctx, heads, cache, q, [1000])
    for start, stop in ((0, 129), (129, 640), (640, 1000)):
        cache.contexts = [stop]
        chunk = _prefill(ctx, heads, cache, q[start:stop].clone(), [stop - start])
        assert torch.equal(chunk, whole[start:stop])


def test_arguments_that_do_not_fit_are_named(ctx):
    q = ctx.empty((2, 6, 40), kernels.bf16)
    cache = ctx.empty((3, 2, 16, 40), kernels.bf16)
    tables, lens = ctx.empty((2, 1), kernels.i32), ctx.empty((2,), kernels.i32)
    with pytest.raises(ValueError, match="head size 40"):
        kernels.decode_attention(q, cache, cache, tables, lens, 1.0)
    odd = ctx.empty((3, 2, 24, 40), kernels.bf16)
    with pytest.raises(ValueError, match="block size 24"):
        kernels.decode_attention(q, odd, odd, tables, lens, 1.0)
    with pytest.raises(ValueError, match="context_lens"):
        kernels.decode_attention(q, cache, cache, tables, tables, 1.0)
