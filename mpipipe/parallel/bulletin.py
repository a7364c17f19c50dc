"""A few numbers that a rank's MPI process and its task process both see, without a message.

The task process notes which of its tasks it has begun, and at which stage that is, so that the
right one is blamed when it dies; the MPI process can ask it to begin no more. A message for each
stage would wake the MPI process, at 0.2 ms of a core that the task wants.
"""

from __future__ import annotations

import mmap
import struct

_COUNT = struct.Struct("<q")
_ASKED = _COUNT.size
_STAGE = _ASKED + 1
_MAX_STAGE = 100


class Bulletin:
    """Shared memory between this process and those that it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _STAGE + 1 + _MAX_STAGE)

    @property
    def n_begun(self) -> int:
        """How many tasks the task process has begun since `clear`."""
        number: int = _COUNT.unpack_from(self._memory)[0]
        return number

    def note_begun(self, number: int) -> None:
        """The task process begins with its task of that number, counted from 1."""
        self._memory[_STAGE] = 0
        _COUNT.pack_into(self._memory, 0, number)

    @property
    def stage(self) -> str:
        """Where the running task has come to; empty before its first stage."""
        length = self._memory[_STAGE]
        return self._memory[_STAGE + 1 : _STAGE + 1 + length].decode(errors="replace")

    def note_stage(self, name: str) -> None:
        """The running task has come to this stage."""
        raw = name.encode(errors="replace")[:_MAX_STAGE]
        self._memory[_STAGE] = 0
        self._memory[_STAGE + 1 : _STAGE + 1 + len(raw)] = raw
        self._memory[_STAGE] = len(raw)

    @property
    def must_drop(self) -> bool:
        """Whether the task process is asked to begin no more."""
        return self._memory[_ASKED] != 0

    def ask_to_drop(self, asked: bool = True) -> None:
        """Ask the task process to begin no more; or no longer."""
        self._memory[_ASKED] = asked

    def clear(self) -> None:
        """Another task process begins."""
        self.note_begun(0)
        self.ask_to_drop(False)
