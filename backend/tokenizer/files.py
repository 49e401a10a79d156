"""What a checkpoint's tokenizer files say, read and checked: names, ids, roles, flags."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import CheckpointError

MODEL_NAMES = ("tokenizer.model", "spm.model", "ernie_token_100k.model")
"""File names of the SentencePiece model, in the order in which they are tried."""

ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


@dataclass
class TokenizerFiles:
    """`added`: token name → id. `flagged`: names that a file marks as special.

    `roles`: role ("eos") → token name. `eos_token_ids`: those of generation_config.json.
    """

    model: Path
    added: dict[str, int] = field(default_factory=dict)
    flagged: set[str] = field(default_factory=set)
    roles: dict[str, str] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the tokenizer's files in `folder`. Raises CheckpointError naming the file and the key.

    Only the SentencePiece model must exist.
    """
    found = [folder / name for name in MODEL_NAMES if (folder / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{folder}: no SentencePiece model; expected one of {', '.join(MODEL_NAMES)}"
        )
    files = TokenizerFiles(model=found[0])
    path = folder / "added_tokens.json"
    for name, token_id in _read_object(path).items():
        _add(files, path, name, token_id)
    # The map comes first so that tokenizer_config.json, the fuller file, has the last word.
    for path in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        config = _read_object(path)
        _read_roles(files, path, config)
        _read_decoder(files, path, config.get("added_tokens_decoder", {}))
    path = folder / "generation_config.json"
    files.eos_token_ids = _read_ids(path, "eos_token_id")
    return files


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _add(files: TokenizerFiles, path: Path, name: Any, token_id: Any) -> None:
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{path}: token name {name!r} of id {token_id!r} is not a text")
    if type(token_id) is not int or token_id < 0:
        raise CheckpointError(f"{path}: token {name!r} has id {token_id!r}; expected an integer")
    if files.added.setdefault(name, token_id) != token_id:
        raise CheckpointError(
            f"{path}: token {name!r} has id {token_id}, another file says {files.added[name]}"
        )


def _read_roles(files: TokenizerFiles, path: Path, config: dict[str, Any]) -> None:
    for role in ROLES:
        name = _token_name(config.get(f"{role}_token"))
        if name is not None:
            files.roles[role] = name
            files.flagged.add(name)
    extra = config.get("additional_special_tokens") or []
    if not isinstance(extra, list):
        raise CheckpointError(f"{path}: additional_special_tokens is {extra!r}; expected a list")
    files.flagged.update(name for name in map(_token_name, extra) if name is not None)


def _token_name(value: Any) -> str | None:
    """A token is written as its text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _read_decoder(files: TokenizerFiles, path: Path, decoder: Any) -> None:
    if not isinstance(decoder, dict):
        raise CheckpointError(f"{path}: added_tokens_decoder is {decoder!r}; expected an object")
    for key, value in decoder.items():
        if not isinstance(value, dict) or not key.isdecimal():
            raise CheckpointError(f"{path}: added_tokens_decoder has a bad entry {key!r}")
        name = value.get("content")
        _add(files, path, name, int(key))
        if value.get("special"):
            files.flagged.add(str(name))


def _read_ids(path: Path, key: str) -> tuple[int, ...]:
    value = _read_object(path).get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(item) is int and item >= 0 for item in ids):
        raise CheckpointError(f"{path}: {key} is {value!r}; expected token ids")
    return tuple(ids)
