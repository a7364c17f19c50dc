"""Disk space asked for before it is written to, so that a full disk shows in time."""

from __future__ import annotations

import errno
import os

_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM})
_LEAST = 1 << 14


class Reservation:
    """Space in a stretch of a file, taken some way ahead of what is needed.

    Parameters
    ----------
    fd
        The file.
    begin, end
        The stretch.
    step
        Most bytes that are taken at once; as much as is in use already, while that is less.
    """

    def __init__(self, fd: int, begin: int, end: int, step: int) -> None:
        self._fd, self._begin, self._end, self._step = fd, begin, end, step
        self._reserved = begin

    def reach(self, place: int) -> None:
        """See to it that the stretch has space up to `place`.

        Raises
        ------
        OSError
            If the disk is full. Where the file system can not reserve, nothing is said.
        """
        if place <= self._reserved:
            return
        step = min(max(self._reserved - self._begin, _LEAST), self._step)
        ahead = min(max(place, self._reserved + step), self._end)
        for wanted in sorted({ahead, place}, reverse=True):
            try:
                os.posix_fallocate(self._fd, self._reserved, wanted - self._reserved)
            except OSError as error:
                if error.errno in _NOT_SUPPORTED:
                    self._reserved = self._end
                    return
                if wanted == place:
                    raise
            else:
                self._reserved = wanted
                return
