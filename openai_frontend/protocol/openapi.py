"""The OpenAPI document, made from the structs that bodies are decoded into and encoded from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from openai_frontend.protocol.errors import ANTHROPIC_PATH, AnthropicErrorBody, ErrorBody
from openai_frontend.protocol.refused_fields import REFUSED_FIELDS
from openai_frontend.protocol.strict_fields import INTERNAL_FIELDS

_REFERENCE = "#/components/schemas/{name}"
JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """One method of one path. `required`: fields that must be given though they have a default
    in the struct. `reply` is None for one that is no JSON, of type `media_type`, "" for none."""

    method: str
    path: str
    summary: str
    request: type | None = None
    reply: type | None = None
    required: tuple[str, ...] = ()
    media_type: str = JSON
    streams: bool = False


def openapi_document(
    operations: Sequence[Operation], version: str, needs_key: bool
) -> dict[str, Any]:
    types = [kind for item in operations for kind in (item.request, item.reply) if kind is not None]
    types = list(dict.fromkeys((*types, ErrorBody, AnthropicErrorBody)))
    references, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    known = dict(zip(types, references, strict=True))
    for schema in schemas.values():
        for name in (*INTERNAL_FIELDS, *REFUSED_FIELDS):
            schema.get("properties", {}).pop(name, None)
    paths: dict[str, dict[str, Any]] = {}
    for item in operations:
        if item.required and item.request is not None:
            schema = schemas[known[item.request]["$ref"].rpartition("/")[2]]
            schema["required"] = sorted({*schema.get("required", ()), *item.required})
        paths.setdefault(item.path, {})[item.method] = _operation(item, known)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "ERNIE-4.5 in NVIDIA Triton", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document["security"] = [{"bearer": []}, {"x-api-key": []}]
    return document


def _operation(item: Operation, known: dict[type, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if item.media_type:
        content[item.media_type] = {"schema": known[item.reply] if item.reply else {}}
    if item.streams:
        content[EVENTS] = {}  # a schema here would be read as one of every event
    error = AnthropicErrorBody if item.path.startswith(ANTHROPIC_PATH) else ErrorBody
    result: dict[str, Any] = {
        "operationId": f"{item.method}{re.sub('[^a-z0-9]+', '_', item.path)}".strip("_"),
        "summary": item.summary,
        "responses": {
            "200": {"description": "OK", **({"content": content} if content else {})},
            "default": {"description": "an error", "content": {JSON: {"schema": known[error]}}},
        },
    }
    if item.request is not None:
        body = {JSON: {"schema": known[item.request]}}
        result["requestBody"] = {"required": True, "content": body}
    if names := list(_path_parameters(item.path)):
        result["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    return result


def _path_parameters(path: str) -> Iterator[str]:
    yield from re.findall(r"\{(\w+)\}", path)
