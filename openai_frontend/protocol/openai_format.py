"""What replies of /v1/chat/completions and /v1/completions share: all but their choices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from backend.errors import ErrorInfo
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.errors import error_body
from openai_frontend.protocol.formats import DATA, DONE, END, PING, ReplyHead, encode
from openai_frontend.protocol.usage import UsageObject, usage_object

C = TypeVar("C")


class OpenAIReply(msgspec.Struct, Generic[C]):
    """A collected reply."""

    id: str
    object: str
    created: int
    model: str
    choices: list[C]
    usage: UsageObject
    system_fingerprint: str
    service_tier: str | msgspec.UnsetType = msgspec.UNSET


class OpenAIFormat(ABC):
    """`Format` without `chunk` and the choices of `body`, which each API's own class adds."""

    ping = PING
    done = DONE
    object_name: str
    """Of a collected reply; a streamed one's is told to the constructor."""

    def __init__(self, head: ReplyHead, chunk_name: str) -> None:
        self._head = head
        self._prefix = head.prefix(chunk_name)

    def failure(self, info: ErrorInfo) -> bytes:
        return DATA + error_body(info) + END

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return self._prefix + b',"choices":[],"usage":' + self._usage(answers) + b"}" + END

    def body(self, answers: Sequence[Answer]) -> bytes:
        return encode(
            OpenAIReply(
                id=self._head.id,
                object=self.object_name,
                created=self._head.created,
                model=self._head.model,
                choices=[self._choice(*item) for item in enumerate(answers)],
                usage=usage_object(
                    [answer.usage for answer in answers], self._head.choices_per_prompt
                ),
                system_fingerprint=self._head.system_fingerprint,
                service_tier=self._head.service_tier or msgspec.UNSET,
            )
        )

    @abstractmethod
    def _choice(self, index: int, answer: Answer) -> Any: ...

    def _usage(self, answers: Sequence[Answer]) -> bytes:
        usages = [answer.usage_so_far() for answer in answers]
        return encode(usage_object(usages, self._head.choices_per_prompt))

    def _usage_member(self, answers: Sequence[Answer]) -> bytes:
        """A chunk's `usage`, as far as the client asked for one: as of now, null, or nothing."""
        if self._head.continuous_usage:
            return b',"usage":' + self._usage(answers)
        return b',"usage":null' if self._head.include_usage else b""
