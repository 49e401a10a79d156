"""GET /version"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from openai_frontend import __version__


def version_route() -> Route:
    async def version(request: Request) -> Response:
        return JSONResponse({"version": __version__})

    return Route("/version", version, methods=["GET"])
