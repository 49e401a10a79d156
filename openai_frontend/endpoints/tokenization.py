"""POST /tokenize and /detokenize"""

from __future__ import annotations

import msgspec

from backend import wire
from backend.errors import EngineUnavailableError
from backend.wire import GenerateRequest
from openai_frontend.endpoints.asking import AskingEndpoint, Question
from openai_frontend.protocol.media_parts import extract_media
from openai_frontend.protocol.requests import check_messages, decode_body
from openai_frontend.protocol.tokenization import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    check_tokenize,
)
from openai_frontend.service import Service
from openai_frontend.upstream import Tokens


def tokenize_endpoint(service: Service) -> AskingEndpoint:
    return AskingEndpoint(service, _read_tokenize, _tokenize_reply)


def detokenize_endpoint(service: Service) -> AskingEndpoint:
    return AskingEndpoint(service, _read_detokenize, _detokenize_reply)


def tokenize_question(request: GenerateRequest) -> Question:
    """How many tokens, and which, `request` would be. Media are moved out of it, in place."""
    media = extract_media(request.messages or [])
    return Question(wire.encode(msgspec.structs.replace(request, op="tokenize")), media)


def _read_tokenize(service: Service, body: bytes) -> Question:
    request = decode_body(body, TokenizeRequest, service.settings.strict_fields)
    service.model_name(request.model)
    check_tokenize(request)
    check_messages(request)
    return tokenize_question(request)


async def _tokenize_reply(service: Service, tokens: Tokens) -> TokenizeReply:
    try:
        stats = await service.status.check()
    except EngineUnavailableError:
        stats = service.status.last_stats
    return TokenizeReply(len(tokens.ids), stats.get("max_model_len"), tokens.ids)


def _read_detokenize(service: Service, body: bytes) -> Question:
    request = decode_body(body, DetokenizeRequest, service.settings.strict_fields)
    service.model_name(request.model)
    question = GenerateRequest(op="detokenize", prompt=request.tokens, skip_special_tokens=False)
    return Question(wire.encode(question), [])


async def _detokenize_reply(service: Service, tokens: Tokens) -> DetokenizeReply:
    return DetokenizeReply(tokens.text)
