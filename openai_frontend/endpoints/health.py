"""GET /health and /ping: 200 with an empty body when a request would be served, else 503."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend.errors import EngineUnavailableError
from openai_frontend.service import Service

PATHS = ("/health", "/ping")


def health_routes(service: Service) -> list[Route]:
    async def health(request: Request) -> Response:
        if service.admission.is_draining:
            raise EngineUnavailableError("the server is shutting down", code="shutting_down")
        await service.status.check()
        return Response()

    return [
        Route("/health", health, methods=["GET"]),
        Route("/ping", health, methods=["GET", "POST"]),
    ]
