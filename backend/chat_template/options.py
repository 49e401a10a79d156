"""What a request may tell the template: whether to think."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.errors import InvalidRequestError

KNOWN = ("enable_thinking", "options", "thinking_mode")
_SWITCH = {
    "true": True,
    "open": True,
    "auto": True,
    "false": False,
    "close": False,
}


def wants_thinking(kwargs: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> bool:
    """Resolve the switch; on unless the request turns it off.

    Looked up in this order: chat_template_kwargs' `enable_thinking`, `thinking_mode`,
    `options.thinking_mode`, then metadata's `enable_thinking`. Other keys of metadata are not the
    template's; other keys of chat_template_kwargs raise InvalidRequestError, because a template
    must not be steered by names it was not written for.
    """
    kwargs = kwargs or {}
    for name in kwargs:
        if name not in KNOWN:
            raise InvalidRequestError(
                f"chat_template_kwargs: {name[:64]!r} is not known; known: {', '.join(KNOWN)}",
                param="chat_template_kwargs",
            )
    options = kwargs.get("options")
    if options is not None and not isinstance(options, Mapping):
        raise InvalidRequestError(
            "chat_template_kwargs.options must be an object", param="chat_template_kwargs.options"
        )
    candidates = (
        ("chat_template_kwargs.enable_thinking", kwargs.get("enable_thinking")),
        ("chat_template_kwargs.thinking_mode", kwargs.get("thinking_mode")),
        ("chat_template_kwargs.options.thinking_mode", (options or {}).get("thinking_mode")),
        ("metadata.enable_thinking", (metadata or {}).get("enable_thinking")),
    )
    for name, value in candidates:
        if value is not None:
            return _switch(name, value)
    return True


def _switch(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    raise InvalidRequestError(
        f"{name} must be true, false or one of {', '.join(_SWITCH)}; it is {str(value)[:64]!r}",
        param=name,
    )
