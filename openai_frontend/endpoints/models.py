"""GET /v1/models and /v1/models/{id}"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend.errors import EngineUnavailableError, ModelNotFoundError
from openai_frontend.service import ANY_NAME, Service


class ModelCard(msgspec.Struct):
    """`max_model_len` is null until the engine has told it."""

    id: str
    created: int
    root: str
    max_model_len: int | None
    permission: list[dict[str, Any]]
    parent: None = None
    object: str = "model"
    owned_by: str = "FastDeploy"


class ModelList(msgspec.Struct):
    data: list[ModelCard]
    object: str = "list"


def model_routes(service: Service) -> list[Route]:
    created = int(time.time())
    name = service.settings.model_name

    async def card() -> ModelCard:
        try:
            stats = await service.status.check()
        except EngineUnavailableError:
            stats = service.status.last_stats
        length = stats.get("max_model_len")
        return ModelCard(name, created, name, length, [_permission(created)])

    async def list_models(request: Request) -> Response:
        return _json(ModelList([await card()]))

    async def one_model(request: Request) -> Response:
        asked = request.path_params["model"]
        if asked not in (name, ANY_NAME):
            raise ModelNotFoundError(f"there is no model {asked[:200]!r} here", param="model")
        return _json(await card())

    return [
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", one_model, methods=["GET"]),
    ]


def _permission(created: int) -> dict[str, Any]:
    return {
        "id": f"modelperm-{created:x}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
