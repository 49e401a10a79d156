"""Tiny checkpoints, made once per test run; tests that damage one work on a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.config.model import load_model_config
from backend.models.parameters import parameter_specs
from backend.weights import load_weights
from scripts.tiny_checkpoint import make_tiny_checkpoint

Make = Callable[..., Path]
Load = Callable[[Path], dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make_checkpoint(kind, layout, **options)`: a folder to read, never to change."""
    made: dict[str, Path] = {}

    def make(kind: str = "vl", layout: str = "paddle", **options: Any) -> Path:
        key = json.dumps([kind, layout, options], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{kind}-{layout}")
            make_tiny_checkpoint(made[key], kind, layout, **options)
        return made[key]

    return make


@pytest.fixture
def copy_checkpoint(make_checkpoint: Make, tmp_path: Path) -> Make:
    """As make_checkpoint, but the test's own folder, to be damaged."""

    def copy(kind: str = "vl", layout: str = "paddle", **options: Any) -> Path:
        return Path(
            shutil.copytree(
                make_checkpoint(kind, layout, **options), tmp_path / "model", dirs_exist_ok=True
            )
        )

    return copy


@pytest.fixture(scope="session")
def load_arrays() -> Load:
    """Load a folder into float32 arrays by canonical name."""

    def load(folder: Path) -> dict[str, np.ndarray]:
        config = load_model_config(folder)
        specs = parameter_specs(config)
        return load_weights(folder, config, specs, lambda array, spec: array, progress=False)

    return load


@pytest.fixture(scope="session")
def edit_header() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """`edit_header(path, change)`: rewrite a file's header, leaving its data as it is."""

    def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return edit
