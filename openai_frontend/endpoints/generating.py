"""The common half of the two generating endpoints: admission, body, decoding, reply."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Protocol

from starlette.types import Receive, Scope, Send

from backend.errors import ErnieError
from openai_frontend.body import ClientDisconnected, read_body
from openai_frontend.deadline import header_timeout, shortest
from openai_frontend.protocol.formats import ReplyHead
from openai_frontend.protocol.reply_id import reply_id
from openai_frontend.protocol.requests import HttpRequest
from openai_frontend.reply import Plan, Reply
from openai_frontend.service import Service

# Decoding a larger body takes long enough to delay other streams' tokens.
THREAD_ABOVE_BYTES = 256 * 1024


class MakePlan(Protocol):
    def __call__(self, service: Service, body: bytes, started_at: float) -> Plan: ...


class GeneratingEndpoint:
    """An ASGI application. `make_plan` raises InvalidRequestError for what cannot be served."""

    def __init__(self, service: Service, make_plan: MakePlan) -> None:
        self._service = service
        self._make_plan = make_plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        service.metrics.requests.inc()
        try:
            await self._serve(service, scope, receive, send)
        except ErnieError as error:
            service.metrics.failed(error.code)
            raise

    async def _serve(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        with service.admission.admit(), service.admission.lease_bytes() as lease:
            started_at = time.monotonic()
            timeout_s = header_timeout(scope)
            try:
                body = await read_body(scope, receive, service.settings.max_body_bytes, lease)
            except ClientDisconnected:
                service.metrics.aborted("receiving")
                return
            if len(body) > THREAD_ABOVE_BYTES:
                plan = await asyncio.to_thread(self._make_plan, service, body, started_at)
            else:
                plan = self._make_plan(service, body, started_at)
            del body  # it may be large, and an answer may take minutes
            if timeout_s is not None:
                plan = dataclasses.replace(plan, timeout_s=shortest(plan.timeout_s, timeout_s))
            await Reply(service, plan, scope, receive, send).run()


def reply_head(service: Service, request: HttpRequest, id_prefix: str) -> ReplyHead:
    """Raises InvalidRequestError for an unusable `request_id`, ModelNotFoundError."""
    options = request.stream_options
    return ReplyHead(
        id=reply_id(id_prefix, request.request_id, request.user),
        model=service.model_name(request.model),
        created=int(time.time()),
        system_fingerprint=service.settings.system_fingerprint,
        # There is one tier, whichever is asked for; OpenAI names it to those who ask.
        service_tier=None if request.service_tier is None else "default",
        choices_per_prompt=request.n or 1,
        return_token_ids=request.return_token_ids,
        include_usage=options is not None and options.include_usage,
        continuous_usage=options is not None and options.continuous_usage_stats,
    )


def ask_for_token_ids(request: HttpRequest, head: ReplyHead) -> None:
    """Usage in every chunk is counted from token ids, also where the client wants none."""
    if head.continuous_usage:
        request.return_token_ids = True
