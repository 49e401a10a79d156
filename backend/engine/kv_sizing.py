"""How many KV blocks there are, and how long a request may therefore be."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from backend.config.model import ModelConfig
from backend.config.serving import EngineSettings
from backend.errors import ConfigError

log = logging.getLogger("ernie_engine")


@dataclass(frozen=True)
class KvSizing:
    num_blocks: int
    max_model_len: int


class CachedModel(Protocol):
    """What is asked of backend.models.Model."""

    def kv_block_bytes(self, block_size: int) -> int: ...


def size_kv_cache(settings: EngineSettings, config: ModelConfig, model: CachedModel) -> KvSizing:
    """Blocks from the settings' number, else from their memory; one request must always fit.

    Without an explicit max_model_len it is what the model allows or, if that is less, what the
    blocks hold. Raises ConfigError that names the flags to change.
    """
    if settings.block_size < 1:
        raise ConfigError(f"--block-size is {settings.block_size}; it must be at least 1")
    block_bytes = model.kv_block_bytes(settings.block_size)
    num_blocks = settings.num_kv_blocks or int(settings.kv_cache_gib * 2**30 // block_bytes)
    num_slots = num_blocks * settings.block_size
    if num_slots < 2:
        raise ConfigError(
            f"--kv-cache-gib {settings.kv_cache_gib} holds {num_blocks} KV blocks of {block_bytes} "
            "bytes; not even one short request fits"
        )
    limit = config.max_position_embeddings
    if not settings.max_model_len:
        if num_slots < limit:
            log.warning(
                "max_model_len is %d of the model's %d tokens: more do not fit %d KV blocks",
                num_slots,
                limit,
                num_blocks,
            )
        return KvSizing(num_blocks, min(limit, num_slots))
    if not 2 <= settings.max_model_len <= limit:
        raise ConfigError(
            f"--max-model-len is {settings.max_model_len}; this model allows 2 to {limit}"
        )
    if settings.max_model_len > num_slots:
        needed_gib = settings.max_model_len * block_bytes / settings.block_size / 2**30
        raise ConfigError(
            f"--max-model-len {settings.max_model_len} does not fit: {num_blocks} KV blocks hold "
            f"{num_slots} tokens. Lower it, or give {_memory_flag(settings, needed_gib)} "
            "(or more --num-gpu-blocks-override)"
        )
    return KvSizing(num_blocks, settings.max_model_len)


def _memory_flag(settings: EngineSettings, needed_gib: float) -> str:
    """Executor `cuda` takes what there is; only its share can be changed."""
    if settings.executor == "cuda":
        return f"the KV cache {needed_gib:.2f} GiB by a higher --gpu-memory-utilization"
    return f"--kv-cache-gib at least {needed_gib:.2f}"
