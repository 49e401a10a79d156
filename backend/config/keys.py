"""JSON files of a checkpoint: reading them, and typed look-ups that name the file and the key."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import CheckpointError


def read_json_object(path: Path) -> dict[str, Any] | None:
    """A JSON file that holds an object; None if there is no such file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


class Keys:
    """Values of one JSON object; `where` starts every error message.

    A key that is null counts as left out. Each getter raises CheckpointError for a value of the
    wrong type, and for a missing one without default.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def fail(self, key: str, expected: str) -> CheckpointError:
        """The error for a value that is there but wrong; raise what it returns."""
        return CheckpointError(f"{self.where}: {key} is {self.get(key)!r}; expected {expected}")

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        return self.integers(key, 1, None if default is None else [default], minimum)[0]

    def integers(
        self, key: str, count: int, default: Sequence[int] | None = None, minimum: int = 1
    ) -> tuple[int, ...]:
        """`count` integers; a single number stands for all of them, longer lists are cut."""
        value = self.get(key, None if default is None else list(default))
        if value is None:
            raise CheckpointError(f"{self.where}: {key} is missing")
        items = value if isinstance(value, list) else [value] * count
        if len(items) < count or not all(type(item) is int for item in items):
            raise self.fail(key, "an integer" if count == 1 else f"{count} integers")
        if any(item < minimum for item in items[:count]):
            raise self.fail(key, f"{minimum} or more")
        return tuple(items[:count])

    def positive_number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, "a number")
        if not 0 < value <= sys.float_info.max:  # an integer may be larger
            raise self.fail(key, "a number above 0")
        return float(value)
