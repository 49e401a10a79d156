"""Frames between the stub and its engine process, over one inherited socket pair.

    u32 length of the header | u32 number of blobs | u64 length of each blob
    header: JSON, one tagged message | blobs: raw bytes

Both ends are ours, yet everything is checked: a frame that breaks a limit ends the connection.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from backend.errors import ErrorInfo, InternalError, RequestTooLargeError
from backend.wire import EngineOutput, EngineRequest

MAX_HEADER_BYTES = 64 * 2**20
MAX_BLOBS = 4
MAX_BLOB_BYTES = 2**30

_PREFIX = struct.Struct("<II")


# ---- stub → engine ------------------------------------------------------------------------------


class Configure(msgspec.Struct, tag=True):
    """First frame: the fields of EngineSettings, `model` as a string."""

    settings: dict[str, Any]


class Submit(msgspec.Struct, tag=True):
    """Blobs: prompt ids int32 [n], positions int32 [3, n] or nothing."""

    request: EngineRequest


class StopStream(msgspec.Struct, tag=True):
    stream_key: str


# ---- engine → stub ------------------------------------------------------------------------------


class Heartbeat(msgspec.Struct, tag=True):
    """The main loop lives. `stats` is EngineCore.stats() and the loop's own counters."""

    stats: dict[str, Any] = msgspec.field(default_factory=dict)


class Ready(msgspec.Struct, tag=True):
    """The checkpoint is loaded."""

    stats: dict[str, Any]


class Failed(msgspec.Struct, tag=True):
    """The engine cannot start; it exits after this."""

    error: ErrorInfo


class Outputs(msgspec.Struct, tag=True, omit_defaults=True):
    """What one step brought, at most one output of each stream.

    `tokens`: by stream key, the outputs that are nothing but new tokens. Nearly all are, and as
    whole messages they cost the stub ten times as much. `outputs`: the others; their `seq` is 0,
    for the stub's sender numbers what it sends.
    """

    outputs: list[EngineOutput] = msgspec.field(default_factory=list)
    tokens: dict[str, list[int]] = msgspec.field(default_factory=dict)

    @classmethod
    def of_step(cls, outputs: Sequence[EngineOutput]) -> Outputs:
        message = cls()
        for output in outputs:
            if output.is_last or output.logprobs is not None:
                message.outputs.append(output)
            else:
                message.tokens[output.stream_key] = output.token_ids
        return message


Message = Configure | Submit | StopStream | Heartbeat | Ready | Failed | Outputs

Blob = bytes | bytearray | memoryview


class ConnectionClosed(Exception):
    """The other end is gone."""


class Connection:
    """Message frames over a stream socket. `send` may be called by any thread, `receive` by one."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)

    def send(self, message: Message, blobs: Sequence[Blob] = ()) -> None:
        """Raises ConnectionClosed; RequestTooLargeError, with nothing sent, when the other end
        would take the message for no frame."""
        header = self._encoder.encode(message)
        if len(header) > MAX_HEADER_BYTES:
            raise RequestTooLargeError(
                f"the request has {len(header)} bytes, at most {MAX_HEADER_BYTES}"
            )
        sizes = struct.pack(f"<{len(blobs)}Q", *(memoryview(blob).nbytes for blob in blobs))
        head = _PREFIX.pack(len(header), len(blobs)) + sizes + header
        try:
            with self._lock:
                self._socket.sendall(head)
                for blob in blobs:
                    # Without an empty one the other end has it all, and may be gone by now.
                    if memoryview(blob).nbytes:
                        self._socket.sendall(blob)
        except OSError as error:
            raise ConnectionClosed(str(error)) from None

    def receive(self) -> tuple[Message, list[bytearray]]:
        """Wait for a frame. Raises ConnectionClosed, InternalError for what is not a frame."""
        header_size, num_blobs = _PREFIX.unpack(self._read(_PREFIX.size))
        if header_size > MAX_HEADER_BYTES or num_blobs > MAX_BLOBS:
            raise InternalError(f"frame with a header of {header_size} bytes, {num_blobs} blobs")
        sizes = struct.unpack(f"<{num_blobs}Q", self._read(8 * num_blobs))
        if any(size > MAX_BLOB_BYTES for size in sizes):
            raise InternalError(f"frame with blobs of {sizes} bytes")
        try:
            message = self._decoder.decode(self._read(header_size))
        except msgspec.MsgspecError as error:
            raise InternalError(f"unreadable frame: {error}") from None
        return message, [self._read(size) for size in sizes]

    def shutdown(self) -> None:
        """End both directions: whatever waits in `send` or `receive`, here or there, raises."""
        with contextlib.suppress(OSError):  # the other end may have been faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back; for the thread that receives."""
        self.shutdown()
        self._socket.close()

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._socket.recv_into(view)
            except OSError as error:
                raise ConnectionClosed(str(error)) from None
            if count == 0:
                raise ConnectionClosed("end of file")
            view = view[count:]
        return data


def pack_arrays(
    prompt_ids: npt.NDArray[np.int32], positions: npt.NDArray[np.int32] | None
) -> list[Blob]:
    """Blobs of a Submit. `positions` None (a prompt without media) travels as an empty blob."""
    return [
        np.asarray(prompt_ids, np.int32).tobytes(),
        b"" if positions is None else np.asarray(positions, np.int32).tobytes(),
    ]


def unpack_arrays(
    blobs: Sequence[bytearray],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]:
    """Prompt ids int32 [n] and positions int32 [3, n] of a Submit."""
    prompt_ids = np.frombuffer(blobs[0], np.int32)
    if not blobs[1]:
        return prompt_ids, None
    return prompt_ids, np.frombuffer(blobs[1], np.int32).reshape(3, -1)
