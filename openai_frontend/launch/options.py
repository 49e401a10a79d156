"""What the launcher was told, checked: built once from flags and environment, then passed down."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """`model` is None for the default checkpoint. `metrics_port` is None for the API's own port.

    `serving`: settings for the Triton models, by the names of `backend/config/serving.py`; only
    what was set explicitly, the rest is `config.pbtxt`'s. `model_folders`: where a hub id is looked
    for. `allowed_origins`: empty for no CORS. `warnings`: one sentence per flag that was accepted
    without effect.
    """

    host: str = "0.0.0.0"  # noqa: S104
    port: int = 8180
    metrics_port: int | None = None
    api_keys: tuple[str, ...] = ()
    max_concurrency: int = 512
    drain_timeout_s: float = 90.0
    request_timeout_s: float = 3600.0
    max_body_bytes: int = 32 * 2**20
    ping_interval_s: float = 15.0
    model: str | None = None
    served_model_name: str | None = None
    strict_fields: bool = False
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    triton_grpc_port: int = 0
    triton_http_port: int = 0
    triton_metrics_port: int = 0
    serving: dict[str, Any] = field(default_factory=dict)
    model_folders: tuple[Path, ...] = ()
    cache_folder: Path = Path("checkpoints")
    warnings: tuple[str, ...] = ()


_TOLD = (
    "host",
    "port",
    "metrics_port",
    "drain_timeout_s",
    "request_timeout_s",
    "max_body_bytes",
    "ping_interval_s",
    "max_concurrency",
    "served_model_name",
    "strict_fields",
    "allowed_origins",
    "allowed_methods",
    "allowed_headers",
    "allow_credentials",
)
_PATHS = ("allowed_local_media_path", "chat_template")


def effective_settings(options: Options) -> dict[str, Any]:
    """What may be told to clients: no keys, and of folders and files only whether they are set."""
    serving = {
        name: bool(value) if name in _PATHS else value for name, value in options.serving.items()
    }
    told = {name: getattr(options, name) for name in _TOLD}
    return {**told, "needs_api_key": bool(options.api_keys), "serving": serving}
