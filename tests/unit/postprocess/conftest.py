from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.tokenizer import Tokenizer
from tests.unit.tokenizer.tiny_tokenizer import write_tokenizer

CONFIG = {
    "architectures": ["Ernie4_5_ForCausalLM"],
    "vocab_size": 1025,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "moe_num_experts": [2, 2],
    "moe_intermediate_size": [8, 8],
    "moe_k": 1,
    "freq_allocation": 0,
    "vision_config": {"depth": 1, "hidden_size": 8, "num_heads": 2},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named like released models, with a tokenizer and a config each."""
    root = tmp_path_factory.mktemp("models")
    for name in ("ERNIE-4.5-21B", "ERNIE-4.5-21B-Thinking", "ERNIE-VL", "ERNIE-VL-Thinking"):
        folder = root / name
        folder.mkdir()
        write_tokenizer(folder)
        config = {**CONFIG, **(VISION if "VL" in name else {})}
        (folder / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="session")
def tokenizer(models: Path) -> Tokenizer:
    return Tokenizer.load(models / "ERNIE-VL")
