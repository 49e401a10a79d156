"""GET /load: how busy the server is; GET /config-info: how it is set up."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openai_frontend import __version__
from openai_frontend.service import Service

_LIMITS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size")


class LoadLimits(msgspec.Struct):
    """`max_concurrency` is the door's; the others are the engine's, null where it tells none."""

    max_concurrency: int
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    max_model_len: int | None


class LoadReport(msgspec.Struct):
    """`server_load` (vLLM's name): requests past the door. `kv_usage`: 0 to 1, the share of blocks
    that running requests hold; those that are only cached give way when they are needed."""

    server_load: int
    running: int
    waiting: int
    kv_usage: float
    kv_blocks_total: int
    kv_blocks_held: int
    kv_blocks_cached: int
    limits: LoadLimits


class ConfigInfo(msgspec.Struct):
    """`settings`: the effective flags, without keys, folders and files."""

    version: str
    model: str
    checkpoint: str
    system_fingerprint: str
    settings: dict[str, Any]
    engine: dict[str, Any]


def load_route(service: Service) -> Route:
    async def load(request: Request) -> Response:
        stats = await service.status.check()
        total, held = stats.get("kv_blocks_total", 0), stats.get("kv_blocks_held", 0)
        report = LoadReport(
            server_load=service.admission.running,
            running=stats.get("running", 0),
            waiting=stats.get("waiting", 0),
            kv_usage=round(held / total, 6) if total else 0.0,
            kv_blocks_total=total,
            kv_blocks_held=held,
            kv_blocks_cached=stats.get("kv_blocks_cached", 0),
            limits=LoadLimits(
                max_concurrency=service.admission.max_concurrency,
                max_num_seqs=stats.get("max_num_seqs"),
                max_num_batched_tokens=stats.get("max_num_batched_tokens"),
                max_model_len=stats.get("max_model_len"),
            ),
        )
        return _json(report)

    return Route("/load", load, methods=["GET"])


def config_route(service: Service) -> Route:
    async def config_info(request: Request) -> Response:
        settings = service.settings
        stats = await service.status.check()
        info = ConfigInfo(
            version=__version__,
            model=settings.model_name,
            checkpoint=settings.checkpoint,
            system_fingerprint=settings.system_fingerprint,
            settings=dict(settings.effective),
            engine={name: stats[name] for name in (*_LIMITS, "kv_blocks_total") if name in stats},
        )
        return _json(info)

    return Route("/config-info", config_info, methods=["GET"])


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
