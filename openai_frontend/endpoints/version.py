"""GET /version"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openai_frontend import __version__


class VersionReply(msgspec.Struct):
    version: str


def version_route() -> Route:
    async def version(request: Request) -> Response:
        body = msgspec.json.encode(VersionReply(__version__))
        return Response(body, media_type="application/json")

    return Route("/version", version, methods=["GET"])
