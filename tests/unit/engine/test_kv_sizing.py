import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.config.serving import EngineSettings
from backend.engine.kv_sizing import size_kv_cache
from backend.errors import ConfigError
from tests.unit.engine.fake_model import CONFIG

CONFIG_4K = dataclasses.replace(CONFIG, max_position_embeddings=4096)


def _model(token_bytes):
    return SimpleNamespace(kv_block_bytes=lambda block_size: token_bytes * block_size)


def size(token_bytes=10_240, **settings):
    settings = EngineSettings(model=Path("none"), block_size=16, **settings)
    return size_kv_cache(settings, CONFIG_4K, _model(token_bytes))


def test_memory_decides_the_number_of_blocks():
    assert size(kv_cache_gib=1.0).num_blocks == 2**30 // (16 * 10_240)


def test_a_number_of_blocks_goes_before_memory():
    assert size(kv_cache_gib=1.0, num_kv_blocks=300).num_blocks == 300


def test_a_cache_of_smaller_values_has_more_blocks():
    assert size(token_bytes=2_624).num_blocks == 2**30 // (16 * 2_624)


def test_the_context_is_the_models_when_it_fits():
    assert size(kv_cache_gib=1.0).max_model_len == 4096
    assert size(kv_cache_gib=1.0, max_model_len=1000).max_model_len == 1000


def test_the_context_shrinks_to_the_memory_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert size(num_kv_blocks=10).max_model_len == 160
    assert "max_model_len is 160 of the model's 4096 tokens" in caplog.text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_model_len": 2000, "kv_cache_gib": 0.01}, "--max-model-len 2000 does not fit: 65 KV"),
        ({"max_model_len": 2000, "kv_cache_gib": 0.01}, "give --kv-cache-gib at least 0.02"),
        (
            {"max_model_len": 2000, "num_kv_blocks": 65, "executor": "cuda"},
            "0.02 GiB by a higher --gpu-memory-utilization",
        ),
        ({"max_model_len": 5000}, "--max-model-len is 5000; this model allows 2 to 4096"),
        ({"max_model_len": 1}, "--max-model-len is 1"),
        ({"kv_cache_gib": 0.00001}, "--kv-cache-gib 1e-05 holds 0 KV blocks"),
    ],
)
def test_what_cannot_be_names_the_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        size(**settings)


def test_a_block_holds_at_least_one_token():
    with pytest.raises(ConfigError, match="--block-size is 0"):
        size_kv_cache(EngineSettings(model=Path("none"), block_size=0), CONFIG_4K, _model(1))
