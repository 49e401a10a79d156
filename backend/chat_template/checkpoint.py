"""The Jinja template a checkpoint folder brings along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.errors import CheckpointError


def read_checkpoint_template(folder: Path) -> str | None:
    """From chat_template.jinja, chat_template.json or tokenizer_config.json, in this order.

    Of a list of named templates, the one called `default`. Raises CheckpointError naming the file.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{path} is not UTF-8 text") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _read_key(folder / name)
        if template:
            return template
    return None


def _read_key(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    value: Any = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        value = next((i.get("template") for i in named if i.get("name") == "default"), None)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{path}: chat_template is {type(value).__name__}; expected a text")
    return value
