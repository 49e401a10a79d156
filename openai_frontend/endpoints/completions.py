"""POST /v1/completions"""

from __future__ import annotations

from openai_frontend.endpoints.generating import (
    GeneratingEndpoint,
    ask_for_token_ids,
    reply_head,
)
from openai_frontend.protocol.completion import CompletionFormat
from openai_frontend.protocol.requests import (
    CompletionRequest,
    check_completion,
    decode_body,
    expand,
    split_prompts,
)
from openai_frontend.reply import Plan
from openai_frontend.service import Service


def completions_endpoint(service: Service) -> GeneratingEndpoint:
    return GeneratingEndpoint(service, make_completion_plan)


def make_completion_plan(service: Service, body: bytes, started_at: float) -> Plan:
    """Raises InvalidRequestError or ModelNotFoundError."""
    request = decode_body(body, CompletionRequest, service.settings.strict_fields)
    check_completion(request)
    prompts = split_prompts(request.prompt)
    head = reply_head(service, request, "cmpl")
    ask_for_token_ids(request, head)
    return Plan(
        id=head.id,
        requests=expand(request, prompts),
        media=[],
        format=CompletionFormat(head),
        stream=request.stream,
        include_usage=head.include_usage,
        started_at=started_at,
        timeout_s=request.timeout,
    )
