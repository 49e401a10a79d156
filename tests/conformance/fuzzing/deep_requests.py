"""Makes generated requests deep: most would end at their empty `messages`, and no other field of
theirs would ever be looked at. Three of four bodies get a question that can be answered, so that
what else is in them comes to its turn; one of four stays as it is. Answers are cut short.

At the end a line `answered PATH NUMBER` tells how many requests to each path were answered.
"""

from __future__ import annotations

import atexit
import json
import zlib
from collections import Counter

import schemathesis

MESSAGES = [{"role": "user", "content": "Who are you?"}]
QUESTIONS = {
    "/v1/chat/completions": ("messages", MESSAGES),
    "/v1/completions": ("prompt", "Who are"),
    "/v1/responses": ("input", "Who are you?"),
    "/v1/messages": ("messages", MESSAGES),
    "/v1/messages/count_tokens": ("messages", MESSAGES),
    "/tokenize": ("messages", MESSAGES),
}
MAX_TOKENS = 2
MIN_TIMEOUT_S = 60
answered: Counter[str] = Counter()


@schemathesis.hook
def before_call(context, case, kwargs):
    if not isinstance(case.body, dict) or case.path not in QUESTIONS:
        return
    body = dict(case.body)
    if zlib.crc32(json.dumps(body, sort_keys=True).encode()) % 4:
        field, question = QUESTIONS[case.path]
        body.pop("prompt", None)
        body[field] = question
    limit = "max_output_tokens" if case.path == "/v1/responses" else "max_tokens"
    given = body.get(limit)
    if given is None or (isinstance(given, int) and given > MAX_TOKENS):
        body[limit] = MAX_TOKENS
    # A deadline of the client's own that has passed is a 504: what it asked for, and no fault.
    if isinstance(body.get("timeout"), float | int) and 0 < body["timeout"] < MIN_TIMEOUT_S:
        body["timeout"] = MIN_TIMEOUT_S
    case.body = body


@schemathesis.hook
def after_call(context, case, response):
    answered[case.path] += response.status_code == 200


@atexit.register
def tell():
    for path, number in sorted(answered.items()):
        print(f"answered {path} {number}")
