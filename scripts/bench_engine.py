#!/usr/bin/env python3
"""The native executor against its limit: decode, prefill and pictures of a real model's shape.

    python scripts/bench_engine.py --shape 21b-a3b
    python scripts/bench_engine.py --shape vl-28b-a3b --pictures
    python scripts/bench_engine.py --shape 21b-a3b --batches 1,64 --profile

Weights are random (scripts/engine_bench/random_weights.py), routing is balanced, the engine is the
service's own: scheduler, sampler and all, without Triton.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import kernels
from backend.config.model import ModelConfig
from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner, with_measured_blocks
from backend.models import Model
from backend.ops.cuda_ops import CudaOps
from scripts.engine_bench import limits, measure
from scripts.engine_bench.profile import profile_pass
from scripts.engine_bench.random_weights import build_random_model
from scripts.engine_bench.shapes import SHAPES

PICTURES = {"448x448": (1, 32, 32), "868x1120": (1, 62, 80), "3584x3584": (1, 256, 256)}


def main() -> None:
    arguments = _parse()
    config = SHAPES[arguments.shape]
    ops = CudaOps(arguments.device)
    began = time.perf_counter()
    model, rate = build_random_model(config, ops, seed=0)
    print(f"{ops.context.name}: weights stored in {time.perf_counter() - began:.1f} s", end="")
    print(f" ({rate:.1f} GB/s)")
    settings = EngineSettings(
        model=Path("random"),
        executor="cuda",
        device=arguments.device,
        max_model_len=arguments.max_model_len,
        max_num_seqs=max(arguments.batches, default=1),
        max_num_batched_tokens=arguments.chunk,
        block_size=64,
        enable_prefix_caching=False,
    )
    settings = with_measured_blocks(settings, config, model)
    began = time.perf_counter()
    core = EngineCore(
        model,
        config,
        settings,
        eos_token_ids=[2],
        num_token_ids=config.vocab_size,
        make_runner=device_runner(settings, config),
    )
    print(
        f"graphs captured in {time.perf_counter() - began:.1f} s; {settings.num_kv_blocks} blocks"
    )
    ceilings = limits.Ceilings()
    _print_decode(core, config, arguments, ceilings)
    _print_prefill(core, config, arguments, ceilings)
    if arguments.pictures and config.vision is not None:
        _print_pictures(model, config, ceilings)
    if arguments.profile:
        for batch in arguments.batches:
            profile_pass(model, config, batch, arguments.prompt + arguments.output // 2)
        for num_tokens in arguments.prefill:
            profile_pass(model, config, 1, num_tokens, num_new=num_tokens)


def _print_decode(
    core: EngineCore, config: ModelConfig, arguments: argparse.Namespace, ceilings: limits.Ceilings
) -> None:
    print("\n| batch | step ms | device ms | tokens/s | with prefill | limit | share | routing |")
    print(f"|{'---|' * 8}")
    for batch in arguments.batches:
        alone = measure.recorded(core, config.vocab_size, batch, arguments.prompt, 24)
        got = measure.decode(core, config.vocab_size, batch, arguments.prompt, arguments.output)
        context = arguments.prompt + arguments.output // 2
        limit = batch / limits.decode_seconds(config, batch, context, ceilings)
        print(
            f"| {batch} | {got.step_ms:.3f} | {alone.device_ms:.3f} | "
            f"{got.tokens_per_s:,.0f} | "
            f"{got.total_tokens_per_s:,.0f} | {limit:,.0f} | {got.tokens_per_s / limit:.0%} |"
            f"{_routing(alone)}",
            flush=True,
        )


def _routing(alone: measure.RecordedFigures) -> str:
    if alone.distinct is None:
        return ""
    return f" {alone.distinct:.1f} experts, the largest has {alone.largest:.1f} tokens |"


def _print_prefill(
    core: EngineCore, config: ModelConfig, arguments: argparse.Namespace, ceilings: limits.Ceilings
) -> None:
    print(f"\n| prefill | ms | tokens/s | limit | share |\n|{'---|' * 5}")
    for num_tokens in arguments.prefill:
        seconds = measure.prefill_seconds(core, config.vocab_size, num_tokens)
        limit = num_tokens / limits.prefill_seconds(config, num_tokens, ceilings)
        rate = num_tokens / seconds
        print(
            f"| {num_tokens} | {seconds * 1e3:.1f} | {rate:,.0f} | {limit:,.0f} | "
            f"{rate / limit:.0%} |",
            flush=True,
        )


def _print_pictures(model: Model, config: ModelConfig, ceilings: limits.Ceilings) -> None:
    print(f"\n| picture | patches | ViT + resampler ms | limit ms |\n|{'---|' * 4}")
    random = np.random.default_rng(0)
    for name, grid in PICTURES.items():
        patches = random.integers(0, 256, (grid[1] * grid[2], config.vision.patch_dim))
        times = []
        for _ in range(4):
            began = time.perf_counter()
            model.encode_media(patches.astype(np.uint8), [grid])
            model.ops.context.synchronize()
            times.append(time.perf_counter() - began)
        limit = limits.vision_seconds(config, len(patches), ceilings)
        median = statistics.median(times[1:])
        print(f"| {name} | {len(patches)} | {median * 1e3:.1f} | {limit * 1e3:.1f} |")


def _parse() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="21b-a3b")
    parser.add_argument("--device", default="gpu:0")
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--prompt", type=int, default=256, help="tokens in")
    parser.add_argument("--output", type=int, default=256, help="tokens out")
    parser.add_argument("--prefill", type=numbers, default=[2048, 8192, 30720])
    parser.add_argument("--chunk", type=int, default=16384, help="--max-num-batched-tokens")
    parser.add_argument("--max-model-len", type=int, default=32768)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--profile", action="store_true", help="where a pass's time goes")
    arguments = parser.parse_args()
    reason = kernels.unavailable_reason()
    if reason is not None:
        parser.error(f"nothing to measure: {reason}")
    return arguments


if __name__ == "__main__":
    main()
