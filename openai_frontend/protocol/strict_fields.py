"""--strict-fields: what in a body no struct knows.

Unknown members are ignored as a rule, since clients of other servers send theirs everywhere. Where
a misspelt field must not pass unnoticed they are refused, on every level that has a struct; free
JSON (schemas, tool arguments, metadata) is the client's own. A null says nothing and passes, as do
the names in a struct's `ACCEPTED`, which stand in the API's documents and have no effect here, and
what an answer may have held that comes back as history.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from msgspec import inspect

from backend.errors import InvalidRequestError
from backend.wire import Message, MessageToolCall

INTERNAL_FIELDS = ("op", "single_response")
"""Fields of the requests that are not for clients: they are set on the way to Triton."""

_COMES_BACK: dict[type, tuple[str, ...]] = {
    Message: ("refusal", "annotations", "audio", "multimodal_content", "thoughts"),
    MessageToolCall: ("index",),
}
"""What servers put into answers, and clients therefore send back in a history."""

_MAX_SHOWN = 64


def check_fields(body: bytes, kind: type[msgspec.Struct]) -> None:
    """Raises InvalidRequestError (code unknown_field) naming the path of the first such member.

    `body` has been decoded into `kind` before: it is JSON of that shape.
    """
    path = _unknown(msgspec.json.decode(body), _type_info(kind), "")
    if path is not None:
        raise InvalidRequestError(
            f"{path} is not known here, and the server runs with --strict-fields",
            param=path,
            code="unknown_field",
        )


@functools.lru_cache
def _type_info(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _unknown(value: Any, kind: inspect.Type, path: str) -> str | None:
    if isinstance(kind, inspect.UnionType):
        # msgspec lets at most one member of a union be an object, and one a list.
        found = (_unknown(value, member, path) for member in kind.types)
        return next((where for where in found if where is not None), None)
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        items = (_unknown(v, kind.item_type, f"{path}[{i}]") for i, v in enumerate(value))
        return next((where for where in items if where is not None), None)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return _unknown_member(value, kind, path)
    return None


def _unknown_member(value: dict[str, Any], kind: inspect.StructType, path: str) -> str | None:
    fields = {field.encode_name: field.type for field in kind.fields}
    for name in INTERNAL_FIELDS:
        fields.pop(name, None)
    accepted = (*getattr(kind.cls, "ACCEPTED", ()), *_COMES_BACK.get(kind.cls, ()))
    for name, member in value.items():
        where = f"{path}.{name[:_MAX_SHOWN]}" if path else name[:_MAX_SHOWN]
        if name in fields:
            inner = _unknown(member, fields[name], where)
            if inner is not None:
                return inner
        elif member is not None and name not in accepted:
            return where
    return None
