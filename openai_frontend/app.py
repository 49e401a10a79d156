"""The ASGI applications: the API, and /metrics alone for a port of its own."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.errors import ErnieError
from openai_frontend.endpoints.chat import chat_endpoint
from openai_frontend.endpoints.completions import completions_endpoint
from openai_frontend.endpoints.health import PATHS as HEALTH_PATHS
from openai_frontend.endpoints.health import health_routes
from openai_frontend.endpoints.load import config_route, load_route
from openai_frontend.endpoints.messages import count_tokens_endpoint, messages_endpoint
from openai_frontend.endpoints.metrics import metrics_route
from openai_frontend.endpoints.models import model_routes
from openai_frontend.endpoints.openapi import openapi_routes
from openai_frontend.endpoints.playground import PATHS as PLAYGROUND_PATHS
from openai_frontend.endpoints.playground import playground_routes
from openai_frontend.endpoints.responses import responses_endpoint
from openai_frontend.endpoints.tokenization import detokenize_endpoint, tokenize_endpoint
from openai_frontend.endpoints.version import version_route
from openai_frontend.error_response import (
    handle_ernie_error,
    handle_http_exception,
    handle_unexpected,
)
from openai_frontend.middleware import ApiKeys, HttpMetrics, RequestId
from openai_frontend.service import Service

EXPOSED_HEADERS = ("x-request-id", "retry-after", "x-should-retry")
"""What a page of another origin may read of an answer besides its body."""


def create_app(service: Service) -> Starlette:
    routes = [
        Route("/v1/chat/completions", chat_endpoint(service), methods=["POST"]),
        Route("/v1/completions", completions_endpoint(service), methods=["POST"]),
        Route("/v1/responses", responses_endpoint(service), methods=["POST"]),
        Route("/v1/messages", messages_endpoint(service), methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens_endpoint(service), methods=["POST"]),
        Route("/tokenize", tokenize_endpoint(service), methods=["POST"]),
        Route("/detokenize", detokenize_endpoint(service), methods=["POST"]),
        *model_routes(service),
        *health_routes(service),
        version_route(),
        load_route(service),
        config_route(service),
        *openapi_routes(service),
        *playground_routes(service),
    ]
    if service.settings.serve_metrics:
        routes.append(metrics_route(service))
    middleware = [
        Middleware(RequestId),
        Middleware(HttpMetrics, metrics=service.metrics, paths=[route.path for route in routes]),
    ]
    if (cors := service.settings.cors) is not None:
        # Outside the keys: a browser's preflight brings none.
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=cors.origins,
                allow_methods=cors.methods,
                allow_headers=cors.headers,
                allow_credentials=cors.credentials,
                expose_headers=EXPOSED_HEADERS,
            )
        )
    if keys := service.settings.api_keys:
        open_paths = (*HEALTH_PATHS, *PLAYGROUND_PATHS)
        middleware.append(
            Middleware(ApiKeys, keys=keys, open_paths=open_paths, metrics=service.metrics)
        )
    return _application(routes, middleware)


def create_metrics_app(service: Service) -> Starlette:
    """Without keys: the operator's own port."""
    routes = [metrics_route(service), config_route(service), *health_routes(service)]
    return _application(routes, [])


class ByPort:
    """Sends what came in on `port` to `there`, everything else to `app`."""

    def __init__(self, app: ASGIApp, port: int, there: ASGIApp) -> None:
        self._app, self._port, self._there = app, port, there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_there = (scope.get("server") or (None, None))[1] == self._port
        await (self._there if is_there else self._app)(scope, receive, send)


def _application(routes: list[Route], middleware: list[Middleware]) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            ErnieError: handle_ernie_error,
            HTTPException: handle_http_exception,
            Exception: handle_unexpected,
        },
    )
    # A redirect is built from the Host header, which a client may write as it likes.
    app.router.redirect_slashes = False
    return app
