"""Every error a user can meet, as one tree, with its HTTP status in one place.

    ErnieError
    ├── InvalidRequestError          400  the client's mistake
    │   ├── ContextLengthError       400  prompt does not fit the model
    │   ├── MediaError               400  a picture or video cannot be used
    │   │   └── MediaFetchError      400  ... because it cannot be fetched
    │   └── RequestTooLargeError     413
    ├── UnauthorizedError            401
    ├── ModelNotFoundError           404
    ├── OverloadedError              429  queue full; carries retry_after_s
    ├── EngineUnavailableError       503  engine loading, dead or draining
    ├── DeadlineExceededError        504
    ├── InternalError                500  our mistake; the text never quotes a traceback
    ├── ConfigError                       start-up: a flag or a parameter is wrong
    └── CheckpointError                   start-up: a model folder cannot be loaded

Errors cross process borders as data (`ErrorInfo`), never as exceptions.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels in an EVENT: what OpenAI's error body holds, plus the status."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class ErnieError(Exception):
    """Base of all errors this project raises on purpose."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    def info(self) -> ErrorInfo:
        return ErrorInfo(
            status=self.status,
            type=self.type,
            code=self.code,
            message=self.message,
            param=self.param,
            retry_after_s=self.retry_after_s,
        )


class InvalidRequestError(ErnieError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class MediaError(InvalidRequestError):
    code = "invalid_media"


class MediaFetchError(MediaError):
    code = "media_fetch_failed"


class RequestTooLargeError(InvalidRequestError):
    status = 413
    code = "request_too_large"


class UnauthorizedError(ErnieError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ModelNotFoundError(ErnieError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class OverloadedError(ErnieError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class EngineUnavailableError(ErnieError):
    status = 503
    code = "engine_unavailable"


class DeadlineExceededError(ErnieError):
    status = 504
    code = "deadline_exceeded"


class InternalError(ErnieError):
    pass


class ConfigError(ErnieError):
    code = "invalid_config"


class CheckpointError(ErnieError):
    code = "invalid_checkpoint"
