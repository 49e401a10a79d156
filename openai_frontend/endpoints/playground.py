"""GET /: the playground, a page whose files are read once and served from memory.

No key is asked for them: they hold no secret, and the page is where a user types the key. The
policy below lets the page run its own files only and talk to nothing but this server.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openai_frontend import __version__
from openai_frontend.service import Service

FOLDER = Path(__file__).resolve().parents[1] / "playground"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_FILES = sorted(file for file in FOLDER.iterdir() if file.suffix in _MEDIA_TYPES)
_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def _path(file: Path) -> str:
    return "/" if file.name == "index.html" else f"/playground/{file.name}"


PATHS = tuple(_path(file) for file in _FILES)


@dataclass(frozen=True)
class _Asset:
    body: bytes
    etag: str
    media_type: str

    def answer(self, request: Request) -> Response:
        headers = {
            "etag": self.etag,
            "cache-control": "no-cache",  # kept, but asked about: an upgrade shows at once
            "content-security-policy": _SECURITY_POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in (tag.removeprefix("W/") for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def playground_routes(service: Service) -> list[Route]:
    """One route per file: no path from outside ever reaches the file system."""
    return [_route(_path(file), _load(file, service)) for file in _FILES]


def _load(file: Path, service: Service) -> _Asset:
    body = file.read_bytes()
    if file.suffix == ".html":
        body = body.replace(b"{version}", __version__.encode())
        body = body.replace(b"{max_body_bytes}", b"%d" % service.settings.max_body_bytes)
    digest = hashlib.sha256(body).hexdigest()[:32]
    return _Asset(body, f'"{digest}"', _MEDIA_TYPES[file.suffix])


def _route(path: str, asset: _Asset) -> Route:
    async def serve(request: Request) -> Response:
        return asset.answer(request)

    return Route(path, serve, methods=["GET"])
