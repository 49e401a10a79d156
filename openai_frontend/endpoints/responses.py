"""POST /v1/responses: OpenAI's API of items, without storage."""

from __future__ import annotations

import time
import uuid

from backend import wire
from openai_frontend.endpoints.generating import GeneratingEndpoint
from openai_frontend.protocol.formats import ReplyHead
from openai_frontend.protocol.media_parts import extract_media
from openai_frontend.protocol.requests import check_messages, decode_body
from openai_frontend.protocol.responses_reply import ResponsesFormat
from openai_frontend.protocol.responses_request import ResponsesRequest, to_generate
from openai_frontend.reply import Plan
from openai_frontend.service import Service


def responses_endpoint(service: Service) -> GeneratingEndpoint:
    return GeneratingEndpoint(service, make_response_plan)


def make_response_plan(service: Service, body: bytes, started_at: float) -> Plan:
    """Raises InvalidRequestError, MediaError or ModelNotFoundError."""
    request = decode_body(body, ResponsesRequest, service.settings.strict_fields)
    head = ReplyHead(
        id=f"resp_{uuid.uuid4().hex}",
        model=service.model_name(request.model),
        created=int(time.time()),
    )
    generate = to_generate(request)
    check_messages(generate)
    media = extract_media(generate.messages or [])
    return Plan(
        id=head.id,
        requests=[wire.encode(generate)],
        media=media,
        format=ResponsesFormat(head, request),
        stream=request.stream,
        include_usage=False,
        started_at=started_at,
    )
