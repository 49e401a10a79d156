"""POST /v1/chat/completions"""

from __future__ import annotations

from openai_frontend.endpoints.generating import (
    GeneratingEndpoint,
    ask_for_token_ids,
    reply_head,
)
from openai_frontend.protocol.chat import ChatFormat
from openai_frontend.protocol.media_parts import extract_media
from openai_frontend.protocol.requests import ChatRequest, check_chat, decode_body, expand
from openai_frontend.reply import Plan
from openai_frontend.service import Service


def chat_endpoint(service: Service) -> GeneratingEndpoint:
    return GeneratingEndpoint(service, make_chat_plan)


def make_chat_plan(service: Service, body: bytes, started_at: float) -> Plan:
    """Raises InvalidRequestError, MediaError or ModelNotFoundError."""
    request = decode_body(body, ChatRequest, service.settings.strict_fields)
    check_chat(request)
    head = reply_head(service, request, "chatcmpl")
    media = extract_media(request.messages or [])
    ask_for_token_ids(request, head)
    return Plan(
        id=head.id,
        requests=expand(request, None),
        media=media,
        format=ChatFormat(head),
        stream=request.stream,
        include_usage=head.include_usage,
        started_at=started_at,
        timeout_s=request.timeout,
    )
