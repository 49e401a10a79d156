"""GET /openapi.json, and GET /docs: a static page made from it, which asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openai_frontend import __version__
from openai_frontend.endpoints.load import ConfigInfo, LoadReport
from openai_frontend.endpoints.models import ModelCard, ModelList
from openai_frontend.endpoints.version import VersionReply
from openai_frontend.protocol.chat import ChatCompletion
from openai_frontend.protocol.completion import Completion
from openai_frontend.protocol.messages_reply import MessageReply, TokenCount
from openai_frontend.protocol.messages_request import MessagesRequest
from openai_frontend.protocol.openapi import Operation, openapi_document
from openai_frontend.protocol.requests import ChatRequest, CompletionRequest
from openai_frontend.protocol.responses_reply import ResponseObject
from openai_frontend.protocol.responses_request import ResponsesRequest
from openai_frontend.protocol.tokenization import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from openai_frontend.service import Service

_METRICS = Operation("get", "/metrics", "Prometheus metrics", media_type="text/plain")
OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Chat: text, pictures, videos, tools, thinking",
        ChatRequest,
        ChatCompletion,
        required=("messages",),
        streams=True,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a text",
        CompletionRequest,
        Completion,
        required=("prompt",),
        streams=True,
    ),
    Operation(
        "post",
        "/v1/responses",
        "OpenAI's responses, without storage",
        ResponsesRequest,
        ResponseObject,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/messages",
        "Anthropic's messages",
        MessagesRequest,
        MessageReply,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "How many tokens a message would be",
        MessagesRequest,
        TokenCount,
    ),
    Operation("post", "/tokenize", "Text or messages to tokens", TokenizeRequest, TokenizeReply),
    Operation("post", "/detokenize", "Tokens to text", DetokenizeRequest, DetokenizeReply),
    Operation("get", "/v1/models", "The served model", reply=ModelList),
    Operation("get", "/v1/models/{model}", "One model", reply=ModelCard),
    Operation("get", "/health", "200 when a request would be served, else 503", media_type=""),
    Operation("get", "/ping", "The same as /health", media_type=""),
    Operation("post", "/ping", "The same as /health", media_type=""),
    Operation("get", "/load", "Running and waiting requests, cache usage", reply=LoadReport),
    Operation("get", "/config-info", "The effective settings", reply=ConfigInfo),
    Operation("get", "/version", "The server's version", reply=VersionReply),
    Operation("get", "/openapi.json", "This document"),
    Operation("get", "/docs", "This document as a page", media_type="text/html"),
)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
summary { cursor: pointer; padding: .3rem 0 }
code { font-family: ui-monospace, monospace }
td { padding: .1rem 1rem .1rem 0; vertical-align: top }
b { display: inline-block; width: 3.5rem }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def openapi_routes(service: Service) -> list[Route]:
    settings = service.settings
    operations = (*OPERATIONS, *((_METRICS,) if settings.serve_metrics else ()))
    document = openapi_document(operations, __version__, bool(settings.api_keys))
    body, page = msgspec.json.encode(document), "".join(_page(document)).encode()

    async def openapi(request: Request) -> Response:
        return Response(body, media_type="application/json")

    async def docs(request: Request) -> Response:
        return Response(page, headers=_PAGE_HEADERS, media_type="text/html")

    return [
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
    ]


def _page(document: dict[str, Any]) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>{_STYLE}</style><h1>{title}</h1>"
    yield f"<p>Version {escape(document['info']['version'])}. "
    yield 'For machines: <a href="openapi.json">openapi.json</a>.</p>'
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            head = f"<b>{method.upper()}</b> <code>{escape(path)}</code> "
            yield f"<details><summary>{head}{escape(operation['summary'])}</summary><table>"
            yield from _fields(operation, schemas)
            yield "</table></details>"


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    if "requestBody" not in operation:
        return
    (body,) = operation["requestBody"]["content"].values()
    schema = schemas[body["schema"]["$ref"].rpartition("/")[2]]
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        need = "required" if name in required else ""
        yield f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(field))}<td>{need}</tr>"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_kind(item) for item in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"[{_kind(schema.get('items') or {})}]"
    return str(schema.get("type", "any"))
