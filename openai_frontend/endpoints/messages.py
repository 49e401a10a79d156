"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

import time
import uuid

import msgspec

from backend import wire
from openai_frontend.endpoints.asking import AskingEndpoint, Question
from openai_frontend.endpoints.generating import GeneratingEndpoint
from openai_frontend.endpoints.tokenization import tokenize_question
from openai_frontend.protocol.formats import ReplyHead
from openai_frontend.protocol.media_parts import extract_media
from openai_frontend.protocol.messages_reply import MessagesFormat, TokenCount
from openai_frontend.protocol.messages_request import MessagesRequest, to_generate
from openai_frontend.protocol.requests import check_messages, decode_body
from openai_frontend.reply import Plan
from openai_frontend.service import Service
from openai_frontend.upstream import Tokens


def messages_endpoint(service: Service) -> GeneratingEndpoint:
    return GeneratingEndpoint(service, make_messages_plan)


def count_tokens_endpoint(service: Service) -> AskingEndpoint:
    return AskingEndpoint(service, _read_count, _count_reply)


def make_messages_plan(service: Service, body: bytes, started_at: float) -> Plan:
    """Raises InvalidRequestError, MediaError or ModelNotFoundError."""
    request = _read(service, body)
    media = extract_media(request.messages or [])
    head = ReplyHead(
        id=f"msg_{uuid.uuid4().hex}",
        model=service.model_name(request.model),
        created=int(time.time()),
    )
    # message_start tells the size of the prompt, which only its ids tell before the end.
    request.return_token_ids = request.stream
    return Plan(
        id=head.id,
        requests=[wire.encode(request)],
        media=media,
        format=MessagesFormat(head, request.continue_final_message),
        stream=request.stream,
        include_usage=False,
        started_at=started_at,
    )


def _read(service: Service, body: bytes) -> wire.GenerateRequest:
    request = to_generate(decode_body(body, MessagesRequest, service.settings.strict_fields))
    service.model_name(request.model)
    check_messages(request)
    return request


def _read_count(service: Service, body: bytes) -> Question:
    request = _read(service, body)
    return tokenize_question(msgspec.structs.replace(request, max_tokens=None))


async def _count_reply(service: Service, tokens: Tokens) -> TokenCount:
    return TokenCount(len(tokens.ids))
