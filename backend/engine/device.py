"""What an engine on the native executor needs: its runner, and KV memory measured, not guessed."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

import kernels
from backend.batch import Batch
from backend.config.model import ModelConfig
from backend.config.serving import EngineSettings
from backend.engine.kv_sizing import size_kv_cache
from backend.errors import ConfigError
from backend.models import Model
from backend.ops.cuda_ops import CudaOps
from backend.runner.device_runner import DeviceRunner

log = logging.getLogger("ernie_engine")

LARGEST_PICTURE = (1, 256, 256)
"""In patches: 12.8 megapixels. Its encoding must fit beside everything else."""

GRAPH_BYTES = 2**30
"""Kept free for recorded graphs and what libraries allocate."""

MAX_BLOCKS = 2**18

HEAD_SIZES = (32, 128)
VISION_HEAD_SIZES = (32, 64, 72, 80, 96, 128)
"""What the kernels are compiled for."""


def device_runner(settings: EngineSettings, config: ModelConfig) -> Any:
    """Makes a DeviceRunner for EngineCore."""

    def make(model: Model, *arguments: Any) -> DeviceRunner:
        return DeviceRunner(
            model,
            *arguments,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=size_kv_cache(settings, config, model).max_model_len,
        )

    return make


def with_measured_blocks(
    settings: EngineSettings, config: ModelConfig, model: Model
) -> EngineSettings:
    """Settings with as many KV blocks as fit --gpu-memory-utilization beside the weights and the
    largest step, which is run to see what it takes. An explicit number stays.

    Raises ConfigError when nothing is left for the cache, or not even enough for that step, and for
    a model of other heads than the kernels know.
    """
    _check_head_sizes(config)
    ops = model.ops
    if settings.num_kv_blocks or not isinstance(ops, CudaOps):
        return settings
    context = ops.context
    block_bytes = model.kv_block_bytes(settings.block_size)
    context.trim()
    try:
        step_bytes = _largest_step_bytes(settings, config, model, context)
    except kernels.OutOfMemoryError as error:
        raise ConfigError(
            f"a step of --max-num-batched-tokens {settings.max_num_batched_tokens} does not fit "
            f"{settings.device} beside the weights: {error}"
        ) from None
    context.trim()
    free, total = context.memory()
    budget = int(settings.gpu_memory_utilization * total)
    left = budget - (total - free) - step_bytes - GRAPH_BYTES
    longest = settings.max_model_len or config.max_position_embeddings
    useful = settings.max_num_seqs * -(-longest // settings.block_size)
    room = left // block_bytes - 1
    if room < min(useful, 2):
        raise ConfigError(
            f"--gpu-memory-utilization {settings.gpu_memory_utilization} of "
            f"{total / 2**30:.1f} GiB leaves {left / 2**30:.1f} GiB for the KV cache: "
            f"{(total - free) / 2**30:.1f} GiB are taken, the largest step needs "
            f"{step_bytes / 2**30:.1f} GiB; lower --max-num-batched-tokens or raise the share"
        )
    num_blocks = min(room, useful, MAX_BLOCKS)
    log.info(
        "KV cache: %d blocks of %d tokens, %.1f GiB; the largest step takes %.2f GiB",
        num_blocks,
        settings.block_size,
        num_blocks * block_bytes / 2**30,
        step_bytes / 2**30,
    )
    return dataclasses.replace(settings, num_kv_blocks=num_blocks)


def _check_head_sizes(config: ModelConfig) -> None:
    heads: list[tuple[str, int, tuple[int, ...]]] = [("head_dim", config.head_dim, HEAD_SIZES)]
    if config.vision is not None:
        heads.append(("vision head_dim", config.vision.head_dim, VISION_HEAD_SIZES))
    for name, size, known in heads:
        if size not in known:
            raise ConfigError(
                f"--executor cuda: the model's {name} is {size}; its kernels are compiled for "
                f"{', '.join(map(str, known))}"
            )


def _largest_step_bytes(
    settings: EngineSettings, config: ModelConfig, model: Model, context: Any
) -> int:
    """Most memory in use beyond weights and KV cache, over a full step and a large picture."""
    size = settings.block_size
    batch = _full_batch(settings, config)
    cache = model.allocate_kv_cache(int(batch.block_tables.max()) + 1, size)
    before = context.pool_bytes()[1]
    context.reset_peak()
    model.forward(batch, cache)
    if config.vision is not None:
        frames, height, width = LARGEST_PICTURE
        patches = np.zeros((frames * height * width, config.vision.patch_dim), dtype=np.uint8)
        model.encode_media(patches, [LARGEST_PICTURE])
    context.synchronize()
    return int(context.pool_bytes()[2] - before)


def _full_batch(settings: EngineSettings, config: ModelConfig) -> Batch:
    """One prefill chunk of the whole budget (or of as long as a context may be), whose last rows
    give logits as if each were a request."""
    num_tokens = min(settings.max_num_batched_tokens, config.max_position_embeddings)
    num_blocks = -(-num_tokens // settings.block_size)
    rows = np.arange(num_tokens, dtype=np.int32)
    nothing = np.zeros(0, dtype=np.int32)
    return Batch(
        token_ids=rows % config.vocab_size,
        positions=np.tile(rows, (3, 1)),
        slot_mapping=rows.astype(np.int64) + settings.block_size,
        query_starts=np.array([0, num_tokens], dtype=np.int32),
        context_lens=np.array([num_tokens], dtype=np.int32),
        block_tables=np.arange(1, num_blocks + 1, dtype=np.int32)[None],
        logit_rows=rows[-settings.max_num_seqs :],
        vision_rows=nothing,
        media_rows=nothing,
    )
