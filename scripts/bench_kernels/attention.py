"""Attention at the sizes of the 21B/28B models, and torch's SDPA on the same sizes in the same run.

Decode is held against the memory's rate over the bytes of keys and values, the others against the
matrix units' rate over the products of visible scores. Our kernels run in replayed graphs, decode
over caches that rotate past the L2; SDPA reads contiguous keys and values, no pages.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

import kernels
from scripts.kernel_timing import PEAK_BYTES, PEAK_FLOPS, median_seconds

NQ, NKV, HEAD, BLOCK = 20, 4, 128, 64
DECODE = [(b, c) for b in (1, 8, 64, 256) for c in (300, 512, 1024, 8192)]
DECODE += [(32, 4096), (1, 131072)]
PREFILL = (2048, 8192, 30000)
PATCHES = (1024, 4960, 65536)
TORCH_DECODE = ((1, 8192), (64, 1024), (32, 4096), (8, 8192), (64, 8192), (256, 300))


def torch_seconds(call: Callable[[], object], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[2:])


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _give(context: Any, tensor: torch.Tensor) -> Any:
    torch.cuda.synchronize()
    return kernels.from_dlpack(context, tensor)


def _int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cuda")


def _line(name: str, seconds: float, work: float, peak: float) -> None:
    unit = "TB/s" if peak == PEAK_BYTES else "TFLOP/s"
    rate = work / seconds
    print(
        f"{name:30s} {seconds * 1e6:10.2f} us {rate / 1e12:8.2f} {unit:7s} {rate / peak:6.1%}",
        flush=True,
    )


def _tables(sequences: int, tokens: int, first: int) -> torch.Tensor:
    """Block tables of sequences of `tokens` tokens, blocks from `first` on, shuffled."""
    width = -(-tokens // BLOCK)
    order = torch.randperm(sequences * width, device="cuda") + first
    return order.view(sequences, width).int()


def bench_decode(context: Any) -> None:
    """What a launch takes as it is and when asked for long contexts, each with the turn and the
    write of the newest key before it ("rope") and without. Few sequences have one kernel for both.
    """
    columns = ("default", "long", "rope", "rope, long", "torch")
    print(f"us, share of the rate   {''.join(f'{name:>18s}' for name in columns)}", flush=True)
    for sequences, tokens in DECODE:
        nbytes = 4.0 * sequences * tokens * NKV * HEAD
        seconds = _decode_seconds(context, sequences, tokens, max(1, min(24, int(2e8 / nbytes))))
        if (sequences, tokens) in TORCH_DECODE:
            seconds.append(_torch_decode_seconds(sequences, tokens))
        cells = [f"{s * 1e6:10.2f} {nbytes / s / PEAK_BYTES:7.1%}" for s in seconds]
        print(f"decode {f'{sequences} x {tokens}':17s}{''.join(cells)}", flush=True)


def _decode_seconds(context: Any, sequences: int, tokens: int, copies: int) -> list[float]:
    """Of both kernels without and with rope, over `copies` caches one after the other."""
    blocks = sequences * -(-tokens // BLOCK)
    k, v = (_give(context, _normal(copies * blocks + 1, NKV, BLOCK, HEAD)) for _ in range(2))
    q = _give(context, _normal(sequences, NQ, HEAD))
    qkv = _give(context, _normal(sequences, (NQ + 2 * NKV) * HEAD))
    turns = _give(context, torch.rand(sequences, HEAD // 2, device="cuda"))
    lens = _give(context, _int32([tokens] * sequences))
    tables = [_give(context, _tables(sequences, tokens, 1 + i * blocks)) for i in range(copies)]

    def alone(table: Any, is_long: bool) -> object:
        return kernels.decode_attention(q, k, v, table, lens, HEAD**-0.5, is_long)

    def with_rope(table: Any, is_long: bool) -> object:
        return kernels.rope_decode_attention(
            qkv, turns, turns, k, v, table, lens, NQ, True, HEAD**-0.5, is_long
        )

    return [
        median_seconds(context, [lambda t=t, f=call, n=is_long: f(t, n) for t in tables])
        for call in (alone, with_rope)
        for is_long in (False, True)
    ]


def _torch_decode_seconds(sequences: int, tokens: int) -> float:
    q = _normal(sequences, NQ, 1, HEAD)
    k, v = (_normal(sequences, NKV, tokens, HEAD) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    return torch_seconds(lambda: attend(q, k, v, enable_gqa=True))


def bench_prefill(context: Any) -> None:
    for tokens in PREFILL:
        flops = 4.0 * HEAD * NQ * tokens * (tokens + 1) / 2
        tables = _tables(1, tokens, 1)
        caches = [_normal(tables.numel() + 1, NKV, BLOCK, HEAD) for _ in range(2)]
        q = _normal(tokens, NQ, HEAD)
        inputs = [*caches, tables, _int32([tokens]), _int32([0, tokens])]
        arguments = [_give(context, t) for t in (q, *inputs)]
        seconds = median_seconds(
            context, [lambda a=arguments, n=tokens: kernels.prefill_attention(*a, n, HEAD**-0.5)]
        )
        _line(f"prefill {tokens}", seconds, flops, PEAK_FLOPS)
        q, k, v = (_normal(1, NQ, tokens, HEAD) for _ in range(3))
        seconds = torch_seconds(
            lambda q=q, k=k, v=v: torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True
            )
        )
        _line("    torch", seconds, flops, PEAK_FLOPS)


def bench_vision(context: Any) -> None:
    heads, head = 16, 80
    for patches in PATCHES:
        flops = 4.0 * heads * head * patches * patches
        qkv = _normal(patches, 3 * heads * head)
        angles = torch.rand(patches, head // 2, device="cuda")
        starts = _int32([0, patches])
        arguments = [_give(context, t) for t in (qkv, angles.cos(), angles.sin(), starts)]
        seconds = median_seconds(
            context,
            [lambda a=arguments, n=patches: kernels.vision_attention(*a, n, heads)],
            repeats=5,
        )
        _line(f"vision {patches}", seconds, flops, PEAK_FLOPS)
        if patches > 10000:
            continue
        q, k, v = qkv.view(1, patches, 3, heads, head).permute(2, 0, 3, 1, 4).contiguous()
        seconds = torch_seconds(
            lambda q=q, k=k, v=v: torch.nn.functional.scaled_dot_product_attention(q, k, v), 3
        )
        _line("    torch", seconds, flops, PEAK_FLOPS)


def main(parts: list[str]) -> None:
    context = kernels.Context()
    benches = {"decode": bench_decode, "prefill": bench_prefill, "vision": bench_vision}
    for part in parts or benches:
        benches[part](context)


if __name__ == "__main__":
    main(sys.argv[1:])
