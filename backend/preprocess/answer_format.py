"""What a request wants its answer to look like: `response_format`, `guided_*`, `structural_tag`,
`structured_outputs`."""

from __future__ import annotations

import json
from typing import Any

from backend.errors import InvalidRequestError
from backend.wire import GenerateRequest, ResponseFormat, StructuredOutputs, StructuredSpec


def answer_format(request: GenerateRequest) -> StructuredSpec | None:
    """The one constraint; None for free text. Raises InvalidRequestError naming the field."""
    candidates = {
        "response_format": _response_format(request.response_format),
        "guided_json": _text("guided_json", "json_schema", request.guided_json),
        "guided_regex": _text("guided_regex", "regex", request.guided_regex),
        "guided_choice": _text("guided_choice", "choice", request.guided_choice),
        "guided_grammar": _text("guided_grammar", "grammar", request.guided_grammar),
        "structural_tag": _text("structural_tag", "structural_tag", request.structural_tag),
        **_structured_outputs(request.structured_outputs),
    }
    given = {name: spec for name, spec in candidates.items() if spec is not None}
    if len(given) > 1:
        names = " and ".join(given)
        raise InvalidRequestError(
            f"the request has {names}; an answer can follow only one of them",
            param=list(given)[1],
        )
    return next(iter(given.values()), None)


def _structured_outputs(given: StructuredOutputs | None) -> dict[str, StructuredSpec | None]:
    if given is None:
        return {}
    name = "structured_outputs"
    specs = {
        f"{name}.json": _text(f"{name}.json", "json_schema", given.json),
        f"{name}.regex": _text(f"{name}.regex", "regex", given.regex),
        f"{name}.choice": _text(f"{name}.choice", "choice", given.choice),
        f"{name}.grammar": _text(f"{name}.grammar", "grammar", given.grammar),
        f"{name}.structural_tag": _text(
            f"{name}.structural_tag", "structural_tag", given.structural_tag
        ),
    }
    if given.json_object:
        specs[f"{name}.json_object"] = StructuredSpec("json_object", param=f"{name}.json_object")
    return specs


def _text(param: str, kind: Any, value: Any) -> StructuredSpec | None:
    """JSON may be given as its text (FastDeploy's and vLLM's clients do both)."""
    if value is None:
        return None
    return StructuredSpec(kind, value if isinstance(value, str) else json.dumps(value), param=param)


def _response_format(given: ResponseFormat | None) -> StructuredSpec | None:
    param = "response_format"
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return StructuredSpec("json_object", param=param)
    if given.type == "json_schema":
        param = "response_format.json_schema"
        if given.json_schema is None or given.json_schema.schema is None:
            raise InvalidRequestError(f"{param}.schema is missing", param=param)
        text = json.dumps(given.json_schema.schema)
        is_lenient = given.json_schema.strict is False
        return StructuredSpec("json_schema", text, is_lenient, f"{param}.schema")
    if given.type == "structural_tag":
        value = {"structures": given.structures, "triggers": given.triggers}
        return StructuredSpec("structural_tag", json.dumps(value), param=param)
    raise InvalidRequestError(
        f"response_format.type is {given.type[:64]!r}; it must be text, json_object, json_schema "
        "or structural_tag",
        param="response_format.type",
    )
