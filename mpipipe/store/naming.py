"""Files as people name them on a command line: one by one, by pattern, by folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.errors import MissingInputError

_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class NamedFiles:
    """What was named.

    Attributes
    ----------
    one_by_one
        Absolute paths of files that were named themselves, or by a pattern.
    in_folders
        Of those found in folders.
    """

    one_by_one: tuple[str, ...]
    in_folders: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them, each once, sorted."""
        return tuple(sorted({*self.one_by_one, *self.in_folders}))


def named_files(
    names: Sequence[str | Path], look_into: Callable[[str], Sequence[str]], what: str
) -> NamedFiles:
    """Find the files that people name.

    Parameters
    ----------
    names
        Files, folders, and patterns with ``*``, ``?``, ``[...]`` and ``**``, which a shell may have
        left as they are.
    look_into
        The files of a folder.
    what
        What is looked for, in words.

    Raises
    ------
    MissingInputError
        If a name stands for nothing.
    """
    files: set[str] = set()
    in_folders: set[str] = set()
    for name in map(str, names):
        is_pattern = not os.path.lexists(name) and not _MAGIC.isdisjoint(name)
        matches = sorted(glob.glob(name, recursive=True)) if is_pattern else [name]
        if not matches:
            raise MissingInputError("nothing has a name like this", file=name)
        for match in matches:
            path = os.path.abspath(match)
            if not os.path.exists(path):
                raise MissingInputError("does not exist", file=match)
            if not os.path.isdir(path):
                files.add(path)
            elif found := look_into(path):
                in_folders.update(found)
            elif not is_pattern:
                raise MissingInputError(f"there is no {what} in this folder", file=match)
    if not files and not in_folders:
        raise MissingInputError(f"no {what} is named")
    return NamedFiles(tuple(sorted(files)), tuple(sorted(in_folders)))
