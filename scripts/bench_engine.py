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
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kernels
from backend.config.model import ModelConfig
from backend.config.serving import EngineSettings
from backend.engine.core import EngineCore
from backend.engine.device import device_runner, with_measured_blocks
from backend.models import Model
from backend.ops.cuda_ops import CudaOps
from scripts.engine_bench import limits, measure, pictures
from scripts.engine_bench.profile import profile_pass
from scripts.engine_bench.random_weights import build_random_model
from scripts.engine_bench.shapes import SHAPES


def main() -> None:
    arguments = _parse()
    config = SHAPES[arguments.shape]
    ops = CudaOps(arguments.device)
    began = time.perf_counter()
    model, rate = build_random_model(config, ops, seed=0)
    print(f"{ops.context.name}: weights stored in {time.perf_counter() - began:.1f} s", end="")
    print(f" ({rate:.1f} GB/s)")
    settings = engine_settings(arguments, config)
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
        f"graphs captured in {time.perf_counter() - began:.1f} s; {settings.num_kv_blocks} blocks; "
        f"steps of at most {settings.max_num_batched_tokens} tokens"
    )
    ceilings = limits.Ceilings()
    _print_decode(core, config, arguments, ceilings)
    _print_prefill(core, config, arguments, ceilings)
    if arguments.pictures and config.vision is not None:
        _print_pictures(core, model, config, ceilings)
    if arguments.profile:
        for batch in arguments.batches:
            profile_pass(model, config, batch, arguments.prompt + arguments.output // 2)
        for num_tokens in arguments.prefill:
            profile_pass(model, config, 1, num_tokens, num_new=num_tokens)


def engine_settings(arguments: argparse.Namespace, config: ModelConfig) -> EngineSettings:
    """As the arguments say; with pictures, the largest one's prompt fits into one step too."""
    longest = 0
    if arguments.pictures and config.vision is not None:
        longest = max(pictures.num_prompt_tokens(config, g) for g in pictures.PICTURES.values())
    return EngineSettings(
        model=Path("random"),
        executor="cuda",
        device=arguments.device,
        max_model_len=max(arguments.max_model_len, longest + 1),
        max_num_seqs=max(arguments.batches, default=1),
        max_num_batched_tokens=max(arguments.chunk, longest),
        block_size=64,
        enable_prefix_caching=False,
    )


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


def _print_pictures(
    core: EngineCore, model: Model, config: ModelConfig, ceilings: limits.Ceilings
) -> None:
    print("\n| picture | patches | ViT + resampler ms | limit | share | ", end="")
    print("tokens | experts of text, vision | arrival ms | first token ms | limit | share |")
    print(f"|{'---|' * 11}")
    for name, grid in pictures.PICTURES.items():
        num_patches = grid[1] * grid[2]
        num_tokens = pictures.num_prompt_tokens(config, grid)
        num_vision = pictures.num_vision_tokens(config, grid)
        encoder = pictures.encoder_seconds(model, config, grid)
        got = pictures.prompt_figures(core, config, grid)
        limit = limits.vision_seconds(config, num_patches, ceilings)
        whole = limit + limits.prefill_seconds(
            config, num_tokens, ceilings, num_vision, got.distinct
        )
        experts = "" if got.distinct is None else "{:.1f}, {:.1f}".format(*got.distinct)
        print(
            f"| {name} | {num_patches} | {encoder * 1e3:.1f} | {limit * 1e3:.1f} | "
            f"{limit / encoder:.0%} | {num_tokens} | {experts} | "
            f"{got.arrival_s * 1e3:.1f} | {got.first_token_s * 1e3:.1f} | {whole * 1e3:.1f} | "
            f"{whole / got.first_token_s:.0%} |",
            flush=True,
        )


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
    parser.add_argument(
        "--chunk", type=int, default=16384, help="--max-num-batched-tokens, at least"
    )
    parser.add_argument("--max-model-len", type=int, default=32768)
    parser.add_argument(
        "--pictures", action="store_true", help="the vision model, and prompts with a picture"
    )
    parser.add_argument("--profile", action="store_true", help="where a pass's time goes")
    arguments = parser.parse_args()
    reason = kernels.unavailable_reason()
    if reason is not None:
        parser.error(f"nothing to measure: {reason}")
    return arguments


if __name__ == "__main__":
    main()
