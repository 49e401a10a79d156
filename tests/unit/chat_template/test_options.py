from __future__ import annotations

from typing import Any

import pytest

from backend.chat_template.options import wants_thinking
from backend.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("kwargs", "metadata", "expected"),
    [
        (None, None, True),
        ({}, {"something": 1}, True),
        ({"enable_thinking": False}, None, False),
        (None, {"enable_thinking": False}, False),
        ({"enable_thinking": True}, {"enable_thinking": False}, True),
        ({"enable_thinking": "false"}, None, False),
        ({"options": {"thinking_mode": "close"}}, None, False),
        ({"options": {"thinking_mode": "false"}}, None, False),
        ({"options": {"thinking_mode": "open"}}, {"enable_thinking": False}, True),
        ({"thinking_mode": "close"}, None, False),
    ],
)
def test_the_switch(kwargs: Any, metadata: Any, expected: bool) -> None:
    assert wants_thinking(kwargs, metadata) is expected


@pytest.mark.parametrize(
    ("kwargs", "metadata", "param"),
    [
        ({"tokenize": True}, None, "chat_template_kwargs"),
        ({"messages": []}, None, "chat_template_kwargs"),
        ({"enable_thinking": 1}, None, "chat_template_kwargs.enable_thinking"),
        ({"enable_thinking": "x" * 10**6}, None, "chat_template_kwargs.enable_thinking"),
        ({"options": "close"}, None, "chat_template_kwargs.options"),
        (
            {"options": {"thinking_mode": "maybe"}},
            None,
            "chat_template_kwargs.options.thinking_mode",
        ),
        (None, {"enable_thinking": []}, "metadata.enable_thinking"),
    ],
)
def test_anything_else_is_refused(kwargs: Any, metadata: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        wants_thinking(kwargs, metadata)
    assert caught.value.param == param
    assert len(caught.value.message) < 300
