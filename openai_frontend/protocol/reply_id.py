"""Ids of answers: a client's own, its user's name and a random part, or a random one."""

from __future__ import annotations

import re
import uuid

from backend.errors import InvalidRequestError

MAX_LENGTH = 128
MAX_USER_LENGTH = 64
_REQUEST_ID = re.compile(r"[\w.:-]+", re.ASCII)
_STRANGE = re.compile(r"[^\w.:-]", re.ASCII)


def reply_id(prefix: str, request_id: str | None, user: str | None) -> str:
    """FastDeploy's forms: `PREFIX-REQUEST_ID`, `PREFIX-USER-UUID4`, `PREFIX-UUID4`.

    A `request_id` that has the prefix keeps it once. Signs of `user` that would not do in a log
    line become "-". Raises InvalidRequestError for a `request_id` of other signs, or too long.
    """
    if request_id:
        if len(request_id) > MAX_LENGTH or _REQUEST_ID.fullmatch(request_id) is None:
            raise InvalidRequestError(
                f"request_id is {request_id[:MAX_LENGTH]!r}; it must be 1 to {MAX_LENGTH} of the "
                "signs A-Z a-z 0-9 _ . : -",
                param="request_id",
            )
        return f"{prefix}-{request_id.removeprefix(f'{prefix}-')}"
    name = _STRANGE.sub("-", user[:MAX_USER_LENGTH]) if user else ""
    return "-".join(part for part in (prefix, name, str(uuid.uuid4())) if part)
