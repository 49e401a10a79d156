"""The process in which a checkpoint's Jinja template runs: `python -m …jinja_worker`.

One JSON object per line on stdin, one per line on stdout. The first holds `template` and
`variables`; it is answered by {"ok": true}. Each later one holds `messages`, `tools` and
`variables` and is answered by {"text": …}. Any of them may be answered by {"error": kind,
"message": …}; the kinds are syntax, refused (the template's own raise_exception), failed, memory.

In-process sandboxing bounds neither time nor memory, so this process limits its address space,
is killed by an alarm that the kernel delivers even inside a long C call, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

EXTRA_MEMORY_BYTES = 256 * 2**20
TIME_LIMIT_S = 10
MAX_OUTPUT_CHARS = 16 * 2**20
_PR_SET_PDEATHSIG = 1
_MARKER = re.compile("(\ue000[0-9]+\\.[0-9]+\\.)([0-9]+)(?=\ue001)")


class Refused(jinja2.TemplateError):
    """raise_exception(…) in the template."""


class MediaType(str):
    """Templates of different origin ask for `image` or for `image_url`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other in (str(self), f"{self!s}_url")

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class TextContent(str):
    """Content without media: a string that can also be walked through as a list of parts."""

    parts: list[dict[str, Any]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.parts)

    def __getitem__(self, key: Any) -> Any:
        return self.parts[key] if isinstance(key, int) else super().__getitem__(key)


class MixedContent(list[Any]):
    """Content with media: a list of parts that can also be joined with strings."""

    def __init__(self, parts: list[dict[str, Any]], text: str) -> None:
        super().__init__(parts)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: Any) -> Any:
        return self._text + other

    def __radd__(self, other: Any) -> Any:
        return other + self._text


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` … `{% endgeneration %}` marks training targets; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def tojson(
    value: Any,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers defines it; counts in each marker how often its text must be escaped."""
    text = json.dumps(
        value,
        ensure_ascii=False,
        indent=indent,
        separators=separators and (separators[0], separators[1]),
        sort_keys=sort_keys,
    )
    return _MARKER.sub(lambda match: f"{match[1]}{int(match[2]) + 1}", text)


def raise_exception(message: str) -> NoReturn:
    raise Refused(message)


def strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationTag, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def as_content(parts: list[dict[str, Any]]) -> TextContent | MixedContent:
    """Parts: {"type": "text", "text": …} or {"type": "image"|"video", "label": …}."""
    text = "".join(part.get("text", part.get("label", "")) for part in parts)
    if any(part["type"] != "text" for part in parts):
        return MixedContent([_as_part(part) for part in parts], text)
    content = TextContent(text)
    content.parts = parts
    return content


def _as_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return part
    return {"type": MediaType(kind), kind: "", f"{kind}_url": {"url": ""}}


def answer(template: jinja2.Template, request: dict[str, Any]) -> dict[str, Any]:
    messages = request["messages"]
    for message in messages:
        message["content"] = as_content(message["content"])
    try:
        text = template.render(messages=messages, tools=request["tools"], **request["variables"])
    except Refused as error:
        return {"error": "refused", "message": str(error)}
    except MemoryError:
        return {"error": "memory", "message": ""}
    except Exception as error:  # the template is foreign code: whatever it raises is its failure
        return {"error": "failed", "message": type(error).__name__}
    if len(text) > MAX_OUTPUT_CHARS:
        return {"error": "memory", "message": ""}
    return {"text": text}


def limit_self() -> None:
    # Both are inherited, and the parent may have changed them.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open("/proc/self/statm", encoding="ascii") as file:
        in_use = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = in_use + EXTRA_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    limit_self()
    template: jinja2.Template | None = None
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
        request = json.loads(line)
        reply: dict[str, Any] = {"ok": True}
        if template is not None:
            reply = answer(template, request)
        else:
            try:
                template = make_environment().from_string(
                    request["template"], globals=request["variables"]
                )
            except jinja2.TemplateSyntaxError as error:
                reply = {"error": "syntax", "message": f"line {error.lineno}: {error.message}"}
            except Exception as error:
                reply = {"error": "syntax", "message": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
