"""Reads `--config`: a JSON object, or the flat part of YAML that FastDeploy's files use.

    # VL-28B on one card
    max_model_len: 32768
    reasoning-parser: ernie-45-vl
    limit_mm_per_prompt: '{"image": 100, "video": 100}'
    mm_processor_kwargs: {"video_max_frames": 30}
    api-key: ["first", "second"]

Names take `_` or `-`. Nested blocks, block lists and multi-line values are refused by line number
rather than misread.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from backend.errors import ConfigError

MAX_BYTES = 2**20
_LINE = re.compile(r"([A-Za-z][\w-]*)\s*:(?:\s+(.*))?$")
_WORDS: dict[str, Any] = {
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "null": None,
    "none": None,
    "~": None,
    "": None,
}


def read_config_arguments(path: str) -> list[str]:
    """The file's settings as command-line arguments, in the file's order.

    Raises ConfigError naming the file, the line and what is not understood.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError):  # not UTF-8, or a NUL in the name
        raise ConfigError(f"--config: {path} cannot be read as a text file") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"--config: {path} is longer than {MAX_BYTES} characters")
    values = _parse_json(path, text) if text.lstrip().startswith("{") else _parse_lines(path, text)
    return [argument for name, value in values for argument in _arguments(name, value)]


def _parse_json(path: str, text: str) -> list[tuple[str, Any]]:
    try:
        return list(json.loads(text).items())
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--config: {path}, line {error.lineno}: not JSON ({error.msg})"
        ) from None


def _parse_lines(path: str, text: str) -> list[tuple[str, Any]]:
    values = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        match = _LINE.match(line.rstrip())
        try:
            if match is None:
                raise ValueError("expected `name: value` at the start of the line")
            values.append((match[1], _scalar((match[2] or "").strip())))
        except ValueError as error:
            raise ConfigError(
                f"--config: {path}, line {number}: {error}; only `name: value` lines and inline "
                "JSON values are understood"
            ) from None
    return values


def _scalar(text: str) -> Any:
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the value is not JSON ({error.msg})") from None
    if text[:1] == '"':
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError:
            raise ValueError("the quoted value does not end on this line") from None
        return _nothing_but_comment(value, text[end:])
    if text[:1] == "'":
        match = re.match(r"'((?:[^']|'')*)'", text)
        if match is None:
            raise ValueError("the quoted value does not end on this line")
        return _nothing_but_comment(match[1].replace("''", "'"), text[match.end() :])
    text = re.split(r"\s#|^#", text, maxsplit=1)[0].strip()
    if text[:1] in ("|", ">", "&", "*", "!", "%", "@", "`"):
        raise ValueError(f"a value cannot start with {text[0]!r}")
    return _WORDS.get(text.lower(), text)


def _nothing_but_comment(value: Any, rest: str) -> Any:
    if rest.strip() and not re.match(r"\s+#", rest):
        raise ValueError(f"unexpected {rest.strip()!r} after the quoted value")
    return value


def _arguments(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"{flag}={str(value).lower()}"]
    if isinstance(value, list):
        return [f"{flag}={item}" for item in value]
    if isinstance(value, dict):
        return [f"{flag}={json.dumps(value)}"]
    return [f"{flag}={value}"]
