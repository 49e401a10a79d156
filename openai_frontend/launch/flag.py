"""One command-line flag: its spelling, what values it takes, what it does here.

The table of all flags is `flag_table.FLAGS`; `parsing` makes a parser of it and `docs/flags.md` is
generated from it, so that a flag is described in exactly one place.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["str", "int", "float", "switch", "json", "list", "append"]


@dataclass(frozen=True, slots=True)
class Flag:
    """`help` says what the flag does here; for an `ignored` one, why it has no effect.

    `setting`: the name under which the value goes to the Triton models (ERNIE_SERVING).
    `quiet`: values of an ignored flag that mean what happens anyway and need no warning.
    `low`, `high`: inclusive bounds of a number. `check` raises ValueError for other faults.
    """

    name: str
    kind: Kind
    help: str
    group: str
    default: Any = None
    default_text: str = ""
    setting: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    aliases: tuple[str, ...] = ()
    ignored: bool = False
    quiet: tuple[Any, ...] = ()
    check: Callable[[Any], None] | None = None

    @property
    def destination(self) -> str:
        return self.name.lstrip("-").replace("-", "_")

    def convert(self, text: str) -> Any:
        """The value of `text`. Raises argparse.ArgumentTypeError that says what was expected."""
        try:
            value = self._parse(text)
            if self.check is not None:
                self.check(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    def _parse(self, text: str) -> Any:
        if self.kind == "switch":
            return _parse_switch(text)
        if self.kind == "json":
            return _parse_json_object(text)
        if self.kind in ("int", "float"):
            return self._parse_number(text)
        if self.choices and text not in self.choices:
            raise ValueError(f"{text!r} is unknown; choose one of {', '.join(self.choices)}")
        return text

    def _parse_number(self, text: str) -> float:
        noun = "a whole number" if self.kind == "int" else "a number"
        try:
            value = int(text) if self.kind == "int" else float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {noun}") from None
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= value <= high:
            raise ValueError(f"{text} is impossible; give {noun} {_range_text(low, high)}")
        return value


def _range_text(low: float, high: float) -> str:
    if high == math.inf:
        return f"of at least {low:g}"
    return f"from {low:g} to {high:g}"


def _parse_switch(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def _parse_json_object(text: str) -> dict[str, Any]:
    example = """'{"image": 10}'"""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{text!r} is not JSON ({error.msg} at character {error.pos + 1}); "
            f"write an object in single quotes, such as {example}"
        ) from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object; write one such as {example}")
    return value
