"""Whatever the JSON, the endpoints that translate another API answer below 500."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import InvalidRequestError
from openai_frontend.endpoints.messages import make_messages_plan
from openai_frontend.endpoints.responses import make_response_plan
from openai_frontend.service import Service, ServiceSettings
from tests.unit.frontend.fake_triton import FakeTriton, finish

ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", ""])
TYPES = st.sampled_from(
    [
        *("text", "image", "video", "document", "thinking", "redacted_thinking", "tool_use"),
        *("tool_result", "message", "reasoning", "function_call", "function_call_output"),
        *("input_text", "output_text", "input_image", "input_video", "refusal", "function"),
        *("auto", "any", "tool", "none", "allowed_tools", "enabled", "json_schema", "base64"),
    ]
)
NAMES = st.sampled_from(
    [
        *("type", "role", "content", "text", "source", "data", "url", "media_type", "thinking"),
        *("input", "name", "id", "tool_use_id", "call_id", "arguments", "output", "summary"),
        *("image_url", "video_url", "tools", "tool_choice", "format", "schema", "input_schema"),
        *("messages", "system", "instructions", "reasoning", "effort", "is_error", "metadata"),
        *("mode", "stop_sequences", "max_tokens", "stream", "model", "output_config"),
    ]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=5), ROLES, TYPES, st.just("data:,")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.fixed_dictionaries({"type": TYPES}, optional={"content": inner, "text": st.text()}),
        st.dictionaries(NAMES, inner, max_size=5),
    ),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({"role": ROLES, "content": VALUES}, optional={"type": TYPES})
BODIES = st.builds(
    lambda base, more: {**base, **more},
    st.fixed_dictionaries(
        {"messages": st.lists(MESSAGE, max_size=3), "input": st.lists(MESSAGE, max_size=3)}
    ),
    st.dictionaries(NAMES, VALUES, max_size=4),
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(BODIES)
def test_a_body_is_planned_or_refused(body):
    service = Service(FakeTriton(), ServiceSettings())
    data = json.dumps(body).encode()
    for make_plan in (make_messages_plan, make_response_plan):
        try:
            plan = make_plan(service, data, 0.0)
        except InvalidRequestError:
            continue
        assert len(plan.requests) == 1


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/messages",
            '{"messages": [{"role": "assistant", "content": '
            '[{"type": "tool_use", "name": "f", "input": DEEP}]}]}',
        ),
        (
            "/v1/messages",
            '{"messages": [{"role": "user", "content": "a"}], '
            '"output_config": {"format": {"type": "json_schema", "schema": DEEP}}}',
        ),
        ("/v1/responses", '{"input": "a", "tools": [{"type": "function", "parameters": DEEP}]}'),
        ("/v1/responses", '{"input": "a", "text": {"format": {"type": "x", "schema": DEEP}}}'),
        (
            "/v1/responses",
            '{"input": "a", "text": {"format": {"type": "json_schema", "schema": DEEP}}}',
        ),
        ("/v1/responses", '{"input": "a", "conversation": DEEP}'),
        ("/tokenize", '{"messages": [{"role": "user", "content": "a"}], "guided_json": DEEP}'),
    ],
)
async def test_json_of_any_depth_is_refused_not_failed_at(make_client, path, body, depth):
    deep = '{"a":' * depth + "1" + "}" * depth
    client = make_client(FakeTriton([finish("a")]))
    reply = await client.post(path, content=body.replace("DEEP", deep))
    assert reply.status_code == 400
