"""GET /metrics: Prometheus text, the engine's gauges as of at most a second ago."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend.errors import EngineUnavailableError
from openai_frontend.frontend_metrics import CONTENT_TYPE
from openai_frontend.service import Service

PATH = "/metrics"


def metrics_route(service: Service) -> Route:
    async def metrics(request: Request) -> Response:
        try:
            service.metrics.set_engine(await service.status.check(), is_up=True)
        except EngineUnavailableError:
            service.metrics.set_engine(service.status.last_stats, is_up=False)
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return Route(PATH, metrics, methods=["GET"])
