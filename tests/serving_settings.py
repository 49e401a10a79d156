"""Settings that tests give to a server: their own, over those of the variable ERNIE_SERVING.

With ERNIE_SERVING='{"executor": "cuda"}' the same tests ask a GPU.
"""

from __future__ import annotations

import json
import os
from typing import Any

from openai_frontend.launch.native_executor import with_native_defaults


def serving_settings(**changes: Any) -> dict[str, Any]:
    """What goes to the Triton models; a test's own `changes` win."""
    inherited = json.loads(os.environ.get("ERNIE_SERVING") or "{}")
    return with_native_defaults({**inherited, "threads": 1, **changes})


def computes_in_bfloat16() -> bool:
    """Whether logits of a row depend visibly on what else is in its batch."""
    return serving_settings().get("executor") == "cuda"
