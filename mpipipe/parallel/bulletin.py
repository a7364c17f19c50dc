"""A few numbers that a rank's MPI process and its task process both see, without a message.

The task process notes which of its tasks it has begun, so that the right one is blamed when it
dies; the MPI process can ask it to begin no more.
"""

from __future__ import annotations

import mmap
import struct

_COUNT = struct.Struct("<q")
_ASKED = _COUNT.size


class Bulletin:
    """Shared memory between this process and those that it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNT.size + 1)

    @property
    def n_begun(self) -> int:
        """How many tasks the task process has begun since `clear`."""
        number: int = _COUNT.unpack_from(self._memory)[0]
        return number

    def note_begun(self, number: int) -> None:
        """The task process begins with its task of that number, counted from 1."""
        _COUNT.pack_into(self._memory, 0, number)

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
