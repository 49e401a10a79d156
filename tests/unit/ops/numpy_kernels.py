"""The package `kernels` on NumPy: the same functions over the same layouts, in float32.

With it the native executor's own logic runs where there is no GPU: layouts of weights, numbering of
experts, batches and their rows, recorded graphs. A recorded graph is the list of what was called;
`launch` calls it again, on the same arrays.
"""

from __future__ import annotations

import math

import numpy as np

from backend.request import SamplingParams
from backend.sampler import SamplingState
from backend.sampler.sampler import Sampler
from kernels.sampling import RESULT, ROW, Status

bf16, f32, i32, i64, u8, u16 = np.float32, np.float32, np.int32, np.int64, np.uint8, np.uint16
SKINNY_ROWS, SMALL_PAIRS = 4, 64

_erf = np.vectorize(math.erf, otypes=[np.float32])


class CudaError(RuntimeError):
    """Raised by tests alone, as is its kind."""


class OutOfMemoryError(CudaError):
    pass


def unavailable_reason(device=0):
    return None


class Tensor:
    """`array` is the memory; what NumPy calls a view shares it."""

    def __init__(self, context, array):
        self.context_ = context
        self.array = array

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype.type

    @property
    def nbytes(self):
        return self.array.nbytes

    def numpy(self):
        return self.array.copy()

    def copy_from(self, array):
        assert array.shape == self.shape, (array.shape, self.shape)
        self.array[...] = array

    def view(self, shape, dtype=None):
        return Tensor(self.context_, self.array.view(dtype or self.dtype).reshape(shape))

    def slice(self, start, stop):
        assert 0 <= start <= stop <= self.shape[0]
        return Tensor(self.context_, self.array[start:stop])


class Graph:
    def __init__(self, context):
        self._context = context
        self.calls = []

    def __enter__(self):
        assert self._context.recording is None
        self._context.recording = self.calls
        return self

    def __exit__(self, *error):
        self._context.recording = None

    def launch(self):
        for call in self.calls:
            call()


class Event:
    """Everything is computed when it is called; only that somebody recorded it is checked."""

    def __init__(self, context):
        self._context = context
        self.is_recorded = False

    def record(self):
        assert self._context.recording is None
        self.is_recorded = True

    def synchronize(self):
        assert self.is_recorded, "nothing is waited for"


class Context:
    name = "NumPy"

    def __init__(self, device=0):
        self.recording = None

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        array.fill(np.nan if np.issubdtype(dtype, np.floating) else 77)
        return Tensor(self, array)

    def zeros(self, shape, dtype):
        return Tensor(self, np.zeros(shape, dtype))

    def upload(self, array, dtype=None):
        assert self.recording is None, "an upload would be part of the graph"
        return Tensor(self, np.array(array, dtype=dtype or array.dtype))

    def host_array(self, shape, dtype):
        array = np.zeros(shape, dtype)
        return Tensor(self, array), array

    def event(self, sleeps=False):
        return Event(self)

    def capture(self, sharing=None):
        return Graph(self)

    def synchronize(self):
        pass

    def trim(self):
        pass


def _run(context, compute):
    """Call `compute` -> arrays, into new memory; again at every launch if a graph is recorded."""
    outputs = [Tensor(context, np.array(array)) for array in compute()]

    def again():
        for output, array in zip(outputs, compute(), strict=True):
            output.array[...] = array

    if context.recording is not None:
        context.recording.append(again)
    return outputs


def _effect(context, change):
    change()
    if context.recording is not None:
        context.recording.append(change)


class WeightUploader:
    def __init__(self, context, buffer_bytes, threads):
        pass

    def place(self, target, offset, row_stride, source, transposed):
        assert source.flags.c_contiguous and source.ndim == 2
        values = source
        if source.dtype == np.uint16:
            values = (source.astype(np.uint32) << 16).view(np.float32)
        values = values.T if transposed else values
        flat = target.array.reshape(-1)
        rows = offset + row_stride * np.arange(values.shape[0])[:, None]
        flat[rows + np.arange(values.shape[1])] = values


def _expect_aligned(*tensors):
    """The kernels read 16 bytes at a time and refuse what starts elsewhere."""
    for tensor in tensors:
        assert tensor is None or tensor.array.ctypes.data % 16 == 0


def copy(target, source):
    _effect(
        target.context_, lambda: target.array.__setitem__(..., source.array.reshape(target.shape))
    )


def concat_rows(parts):
    return _run(parts[0].context_, lambda: [np.concatenate([p.array for p in parts])])[0]


def gather_rows(x, rows):
    return _run(x.context_, lambda: [x.array[rows.array]])[0]


def replace_rows(x, rows, values):
    def compute():
        out = x.array.copy()
        out[rows.array] = values.array
        return [out]

    return _run(x.context_, compute)[0]


def embedding(table, ids, latest=None):
    def compute():
        known = ids.array
        if latest is not None:
            known = np.where(known < 0, latest.array[np.where(known < 0, -1 - known, 0)], known)
        return [table.array[known]]

    return _run(table.context_, compute)[0]


def add(a, b):
    return _run(a.context_, lambda: [a.array + b.array])[0]


def _rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight


def rms_norm(x, weight, eps):
    return _run(x.context_, lambda: [_rms(x.array, weight.array, eps)])[0]


def add_rms_norm(x, residual, weight, eps):
    def compute():
        total = x.array if residual is None else x.array + residual.array
        return [_rms(total, weight.array, eps), total]

    return tuple(_run(x.context_, compute))


def layer_norm(x, weight, bias, eps):
    def compute():
        centred = x.array - x.array.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(eps))
        return [centred / scale * weight.array + bias.array]

    return _run(x.context_, compute)[0]


def linear(x, w, bias=None, activation=""):
    def compute():
        y = x.array @ w.array.T
        if bias is not None:
            y = y + bias.array
        if activation == "gelu":
            y = y * (1 + _erf(y / np.float32(math.sqrt(2)))) / 2
        elif activation == "quick_gelu":
            y = y / (1 + np.exp(-1.702 * y))
        return [y.astype(np.float32)]

    return _run(x.context_, compute)[0]


def gemm_f32out(x, w):
    return linear(x, w)


def _swiglu(y):
    half = y.shape[-1] // 2
    return y[..., :half] / (1 + np.exp(-y[..., :half])) * y[..., half:]


def swiglu(x):
    return _run(x.context_, lambda: [_swiglu(x.array)])[0]


def skinny_linear_swiglu(x, w):
    assert x.shape[0] <= SKINNY_ROWS
    return _run(x.context_, lambda: [_swiglu(x.array @ w.array.T)])[0]


def rope_table(positions, inv_freq, axes):
    def compute():
        angles = positions.array[axes.array].T.astype(np.float32) * inv_freq.array
        return [np.cos(angles), np.sin(angles)]

    return tuple(_run(positions.context_, compute))


def _turn(x, cos, sin, interleaved):
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = (first * cos - second * sin, second * cos + first * sin)
    out = np.empty_like(x)
    if interleaved:
        out[..., 0::2], out[..., 1::2] = turned
    else:
        out[...] = np.concatenate(turned, axis=-1)
    return out


def rope_kv_write(qkv, cos, sin, slots, k_cache, v_cache, nq, interleaved):
    _, nkv, block_size, d = k_cache.shape

    def compute():
        heads = qkv.array.reshape(qkv.shape[0], -1, d)
        turned = _turn(heads[:, : nq + nkv], cos.array, sin.array, interleaved)
        block, offset = np.divmod(slots.array, block_size)
        k_cache.array[block, :, offset] = turned[:, nq:]
        v_cache.array[block, :, offset] = heads[:, nq + nkv :]
        return [turned[:, :nq]]

    return _run(qkv.context_, compute)[0]


def _attend(q, keys, values, scale):
    """One query [nq, d] over [n, nkv, d]."""
    group = q.shape[0] // keys.shape[1]
    keys, values = (np.repeat(x, group, axis=1) for x in (keys, values))
    scores = np.einsum("hd,nhd->hn", q, keys) * scale
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("hn,nhd->hd", weights, values).reshape(-1)


def _paged(q, k_cache, v_cache, tables, lens, starts, scale):
    out = []
    for seq, length in enumerate(lens):
        rows = range(starts[seq], starts[seq + 1])
        keys, values = (
            cache[tables[seq]].transpose(0, 2, 1, 3).reshape(-1, cache.shape[1], cache.shape[3])
            for cache in (k_cache, v_cache)
        )
        for row in rows:
            seen = length - (rows.stop - 1 - row)
            if seen:
                out.append(_attend(q[row], keys[:seen], values[:seen], scale))
            else:  # a padding row
                out.append(np.zeros(q[row].size, np.float32))
    return np.array(out, dtype=np.float32)


def decode_attention(q, k_cache, v_cache, block_tables, context_lens, scale, long_contexts=False):
    _expect_aligned(q, block_tables, context_lens)

    def compute():
        starts = range(len(context_lens.array) + 1)
        caches = k_cache.array, v_cache.array
        return [_paged(q.array, *caches, block_tables.array, context_lens.array, starts, scale)]

    return _run(q.context_, compute)[0]


def rope_decode_attention(
    qkv,
    cos,
    sin,
    k_cache,
    v_cache,
    block_tables,
    context_lens,
    nq,
    interleaved,
    scale,
    long_contexts=False,
):
    def compute():
        last = np.maximum(context_lens.array - 1, 0)
        blocks = block_tables.array[np.arange(len(last)), last // k_cache.shape[2]]
        slots = Tensor(
            qkv.context_, blocks.astype(np.int64) * k_cache.shape[2] + last % k_cache.shape[2]
        )
        recording, qkv.context_.recording = qkv.context_.recording, None
        q = rope_kv_write(qkv, cos, sin, slots, k_cache, v_cache, nq, interleaved)
        out = decode_attention(q, k_cache, v_cache, block_tables, context_lens, scale)
        qkv.context_.recording = recording
        return [out.array]

    return _run(qkv.context_, compute)[0]


def prefill_attention(
    q, k_cache, v_cache, block_tables, context_lens, query_starts, max_query_len, scale
):
    _expect_aligned(q, block_tables, context_lens, query_starts)

    def compute():
        starts = query_starts.array
        assert np.diff(starts).max() <= max_query_len and starts[-1] == q.shape[0]
        caches = k_cache.array, v_cache.array
        return [_paged(q.array, *caches, block_tables.array, context_lens.array, starts, scale)]

    return _run(q.context_, compute)[0]


class Routing:
    def __init__(self, ids, weights, order, offsets):
        self.ids, self.weights, self.order, self.offsets = ids, weights, order, offsets


def moe_route(
    x,
    gate,
    bias,
    top_k,
    norm_min,
    num_shared,
    vision_gate=None,
    vision_bias=None,
    is_vision=None,
):
    _expect_aligned(x, gate, bias, vision_gate, vision_bias, is_vision)
    num_text = gate.shape[0] + num_shared

    def choose(gate, bias):
        logits = x.array @ gate.array.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        chosen = np.argsort(-(p + bias.array), axis=1, kind="stable")[:, :top_k]
        weights = np.take_along_axis(p, chosen, axis=1)
        return chosen, weights / np.maximum(weights.sum(axis=1, keepdims=True), norm_min)

    def compute():
        ids, weights = choose(gate, bias)
        if is_vision is not None:
            vision_ids, vision_weights = choose(vision_gate, vision_bias)
            mask = is_vision.array[:, None] != 0
            ids = np.where(mask, vision_ids + num_text, ids)
            weights = np.where(mask, vision_weights, weights)
        shared = np.broadcast_to(np.arange(gate.shape[0], num_text), (len(ids), num_shared))
        ids = np.concatenate([ids, shared], axis=1).astype(np.int32)
        weights = np.concatenate([weights, np.ones(shared.shape)], axis=1).astype(np.float32)
        num_groups = num_text + (0 if vision_gate is None else vision_gate.shape[0])
        counts = np.bincount(ids.reshape(-1), minlength=num_groups)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        order = np.argsort(ids.reshape(-1), kind="stable").astype(np.int32)
        return [ids, weights, order, offsets]

    return Routing(*_run(x.context_, compute))


def _moe_up(x, routing, up_gate, first_group, num_groups, slots):
    def compute():
        out = np.full((x.shape[0] * slots, up_gate.shape[1] // 2), np.nan, np.float32)
        for group in range(num_groups):
            start, stop = routing.offsets.array[first_group + group :][:2]
            tokens = routing.order.array[start:stop] // slots
            out[start:stop] = _swiglu(x.array[tokens] @ up_gate.array[group].T)
        return [out]

    return _run(x.context_, compute)[0]


def _moe_down(h, routing, down, first_group, num_groups, y):
    def change():
        for group in range(num_groups):
            start, stop = routing.offsets.array[first_group + group :][:2]
            y.array[routing.order.array[start:stop]] = h.array[start:stop] @ down.array[group].T

    _effect(h.context_, change)


def moe_prefers_small(x, pairs, m):
    return pairs <= SMALL_PAIRS


def moe_up_small(x, routing, up_gate, first_group, num_groups, slots):
    assert x.shape[0] * slots <= SMALL_PAIRS
    return _moe_up(x, routing, up_gate, first_group, num_groups, slots)


moe_up_large = _moe_up
moe_down_small = moe_down_large = _moe_down


def _combined(y, weights):
    slots = weights.shape[1]
    return (y.array.reshape(-1, slots, y.shape[1]) * weights.array[:, :, None]).sum(axis=1)


def moe_combine(y, weights):
    return _run(y.context_, lambda: [_combined(y, weights)])[0]


def moe_combine_add_rms_norm(y, weights, residual, norm_w, eps):
    def compute():
        total = _combined(y, weights) + residual.array
        return [_rms(total, norm_w.array, eps), total]

    return tuple(_run(y.context_, compute))


def normalize_patches(patches, mean, std):
    return _run(
        patches.context_,
        lambda: [(patches.array.astype(np.float32) / 255 - mean.array) / std.array],
    )[0]


def pair_rows(x, first, second):
    return _run(
        x.context_,
        lambda: [np.concatenate([x.array[first.array], x.array[second.array]], axis=1)],
    )[0]


def vision_attention(qkv, cos, sin, cu_seqlens, max_len, heads):
    d = qkv.shape[1] // (3 * heads)

    def compute():
        q, k, v = qkv.array.reshape(-1, 3, heads, d).transpose(1, 0, 2, 3)
        q, k = (_turn(x, cos.array, sin.array, False) for x in (q, k))
        out = np.empty((len(q), heads * d), np.float32)
        for start, stop in zip(cu_seqlens.array, cu_seqlens.array[1:], strict=False):
            assert stop - start <= max_len
            part = slice(start, stop)
            out[part] = [_attend(row, k[part], v[part], d**-0.5) for row in q[part]]
        return [out]

    return _run(qkv.context_, compute)[0]


def sample(
    logits,
    rows,
    num_valid,
    mask,
    bias_offsets,
    bias_ids,
    bias_values,
    counts,
    prompt_seen,
    latest,
    results,
):
    """By the host's sampler, given what the rows say; no log-probabilities."""

    def compute():
        settings = rows.array.copy().view(ROW).reshape(-1)
        out = np.zeros(logits.shape[0], RESULT)
        for index, row in enumerate(settings):
            if row["position"] < 0:
                continue
            values = logits.array[index, :num_valid].copy()
            if not math.isfinite(values.max()):
                out[index]["status"] = Status.NOT_FINITE
                continue
            _penalize(values, row, counts.array, prompt_seen.array)
            part = slice(bias_offsets.array[index], bias_offsets.array[index + 1])
            np.add.at(values, bias_ids.array[part], bias_values.array[part])
            if row["mask_row"] >= 0:
                bits = mask.array[row["mask_row"]].view(np.uint8)
                allowed = np.unpackbits(bits, bitorder="little")[:num_valid]
                values[allowed == 0] = -np.inf
            if not math.isfinite(values.max()):
                out[index]["status"] = Status.NONE_LEFT
                continue
            token = _draw(values, row)
            out[index]["token"] = token
            if row["seat"] >= 0:
                latest.array[row["seat"]] = token
                counts.array[row["seat"], token] += _has_penalty(row)
        places = settings["place"]
        has_place = (places >= 0) & (places < len(results.array))
        assert len(set(places[has_place])) == has_place.sum(), "two rows of one place"
        results.array[places[has_place]] = out.view(np.int32).reshape(len(out), -1)[has_place]

    _effect(logits.context_, compute)
    return results


def _has_penalty(row):
    return row["repetition"] != 1 or row["frequency"] != 0 or row["presence"] != 0


def _penalize(values, row, counts, prompt_seen):
    if not _has_penalty(row):
        return
    counted = counts[row["seat"], : len(values)].astype(np.float64)
    bits = np.unpackbits(prompt_seen[row["seat"]].view(np.uint8), bitorder="little")
    seen = (bits[: len(values)] > 0) | (counted > 0)
    factors = np.where(values > 0, 1 / row["repetition"].astype(np.float32), row["repetition"])
    values[seen] *= factors[seen]
    values -= counted * row["frequency"] + (counted > 0) * row["presence"]


def _draw(values, row):
    params = SamplingParams(
        temperature=float(row["temperature"]),
        top_p=float(row["top_p"]),
        top_k=int(row["top_k"]),
        min_p=float(row["min_p"]),
    )
    key = tuple(int(word) for word in row["key"])
    state = SamplingState(params, key, np.zeros(0, np.int32), [0] * int(row["position"]))
    [token] = Sampler().sample(values[None], [state])
    return token.token_id
