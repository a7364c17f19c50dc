"""Messages between a rank's MPI process and its task process: a fixed header, text, bytes.

The MPI process never waits for the other side: it reads what is there and keeps the rest of a
message for the next time, so that a task process that stops in the middle of a message can not
hold up its rank.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_HEADER = struct.Struct("<4sBBxxIQqiddq")
_MAGIC = b"MPF1"
_MAX_TEXT = 1 << 26
_MAX_DATA = 1 << 34
_CHUNK = 1 << 16


class FrameKind(IntEnum):
    """What a message is."""

    PHASE = 1
    """To the task process: text = settings (JSON), data = context of the phase."""
    RUN = 2
    """To the task process: data = tasks to run one after the other (`TASKS`)."""
    REPORT = 3
    """From the task process: text = outcome (JSON; empty if plainly done), data = payload."""
    REPORTS = 4
    """From the task process: data = tasks that are plainly done, without payload (`REPORTS`)."""
    DROPPED = 5
    """From the task process: the last `task_id` tasks are not run, as was asked."""


TASKS = np.dtype([("task_id", "i8"), ("attempt", "i8")])
REPORTS = np.dtype([("task_id", "i8"), ("attempt", "i8"), ("wall_s", "f8"), ("cpu_s", "f8")])


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; fields that a kind does not use stay zero.

    Attributes
    ----------
    retire
        The sender should be replaced before it gets another task.
    wall_s, cpu_s, peak_bytes
        As in `TaskResult`.
    """

    kind: FrameKind
    task_id: int = 0
    attempt: int = 0
    text: bytes = b""
    data: bytes = b""
    retire: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0

    def head(self) -> bytes:
        """The header and the text; the data follow."""
        fixed = _HEADER.pack(
            _MAGIC,
            self.kind,
            self.retire,
            len(self.text),
            len(self.data),
            self.task_id,
            self.attempt,
            self.wall_s,
            self.cpu_s,
            self.peak_bytes,
        )
        return fixed + self.text


_KINDS = frozenset(FrameKind)


class FrameError(Exception):
    """What came over the socket is no message: the sender has lost its mind."""


class Closed(Exception):
    """The other side is gone."""


def send_frame(connection: socket.socket, frame: Frame) -> None:
    """Send a message over a blocking socket.

    Raises
    ------
    Closed
        If the other side is gone.
    """
    try:
        connection.sendall(frame.head())
        if frame.data:
            connection.sendall(frame.data)
    except OSError as error:
        raise Closed from error


class FrameReader:
    """Takes messages from a socket, blocking or not, in pieces of any size."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._start_header()

    def _start_header(self) -> None:
        self._header: tuple[int, ...] | None = None
        self._expect(_HEADER.size)

    def _expect(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._filled = 0

    def read(self) -> Frame | None:
        """The next message; None if the socket does not block and the message is not all here.

        Raises
        ------
        Closed
            If the other side is gone.
        FrameError
            If the bytes make no sense.
        """
        while self._fill():
            if self._header is None:
                self._header = _parse(bytes(self._buffer))
                self._expect(self._header[2] + self._header[3])
                continue
            frame = self._assemble(self._header)
            self._start_header()
            return frame
        return None

    def _fill(self) -> bool:
        """Read into the buffer; whether it is full."""
        view = memoryview(self._buffer)
        while self._filled < len(self._buffer):
            try:
                count = self._socket.recv_into(view[self._filled :])
            except BlockingIOError:
                return False
            except OSError as error:
                raise Closed from error
            if count == 0:
                raise Closed
            self._filled += count
        return True

    def _assemble(self, header: tuple[int, ...]) -> Frame:
        kind, retire, n_text, _, task_id, attempt, wall_s, cpu_s, peak_bytes = header
        view = memoryview(self._buffer)
        return Frame(
            FrameKind(kind),
            task_id,
            attempt,
            bytes(view[:n_text]),
            bytes(view[n_text:]),
            bool(retire),
            wall_s,
            cpu_s,
            peak_bytes,
        )


def _parse(raw: bytes) -> tuple[int, ...]:
    """The fields of a header after the magic, checked."""
    magic, *fields = _HEADER.unpack(raw)
    kind, _, n_text, n_data = fields[:4]
    if magic != _MAGIC or kind not in _KINDS or n_text > _MAX_TEXT or n_data > _MAX_DATA:
        raise FrameError(f"no message header: {raw[:16]!r}")
    return tuple(fields)
