"""The common half of endpoints that ask the preprocessor something and generate nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.errors import ErnieError
from openai_frontend.body import ClientDisconnected, read_body
from openai_frontend.deadline import exceeded, header_timeout, shortest
from openai_frontend.endpoints.generating import THREAD_ABOVE_BYTES
from openai_frontend.service import Service
from openai_frontend.upstream import Tokens


@dataclass(frozen=True)
class Question:
    """`request`: an encoded GenerateRequest of op `tokenize` or `detokenize`."""

    request: bytes
    media: list[bytes]


ReadQuestion = Callable[[Service, bytes], Question]
MakeAnswer = Callable[[Service, Tokens], Awaitable[msgspec.Struct]]


class AskingEndpoint:
    """An ASGI application. `read_question` raises InvalidRequestError or ModelNotFoundError."""

    def __init__(
        self, service: Service, read_question: ReadQuestion, make_answer: MakeAnswer
    ) -> None:
        self._service = service
        self._read_question = read_question
        self._make_answer = make_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        try:
            await self._serve(service, scope, receive, send)
        except ErnieError as error:
            service.metrics.failed(error.code)
            raise

    async def _serve(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        timeout_s = shortest(service.settings.request_timeout_s, header_timeout(scope))
        with service.admission.admit(), service.admission.lease_bytes() as lease:
            try:
                body = await read_body(scope, receive, service.settings.max_body_bytes, lease)
            except ClientDisconnected:
                service.metrics.aborted("receiving")
                return
            if len(body) > THREAD_ABOVE_BYTES:
                question = await asyncio.to_thread(self._read_question, service, body)
            else:
                question = self._read_question(service, body)
            answer = await self._make_answer(service, await self._ask(question, timeout_s))
        response = Response(msgspec.json.encode(answer), media_type="application/json")
        await response(scope, receive, send)

    async def _ask(self, question: Question, timeout_s: float) -> Tokens:
        asked = self._service.upstream.tokens(question.request, question.media)
        try:
            return await asyncio.wait_for(asked, timeout_s)
        except asyncio.TimeoutError:
            raise exceeded(timeout_s) from None
