"""Errors that tell the reader what is wrong, where, and the way out.

Every error that a user can cause or meet is an `MpipipeError`. Its text names the file and the
key when there are any; `way_out` says what to do. Anything else that escapes is a defect.
"""

from __future__ import annotations

from pathlib import Path


class MpipipeError(Exception):
    """Base of all errors that mpipipe raises on purpose.

    Parameters
    ----------
    reason
        What is wrong, as a sentence without a full stop.
    file
        The file concerned.
    key
        The header key, configuration key or column concerned.
    way_out
        What the user can do about it.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str | Path | None = None,
        key: str | None = None,
        way_out: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.file = None if file is None else str(file)
        self.key = key
        self.way_out = way_out

    def __str__(self) -> str:
        where = [part for part in (self.file, self.key and f"key {self.key}") if part]
        text = f"{', '.join(where)}: {self.reason}" if where else self.reason
        return f"{text} ({self.way_out})" if self.way_out else text


class BadDataError(MpipipeError):
    """Input data that can not be used; trying again would not help."""


class MissingInputError(BadDataError):
    """Something that is required (a channel, a snap, a master) does not exist."""


class ConfigError(MpipipeError):
    """A configuration, camera description or command line that makes no sense."""


class OutputError(MpipipeError):
    """A product can not be written: no permission, no space, failed verification."""


class NoWorkError(MpipipeError):
    """There is nothing to do for this task, and that is not a fault."""
