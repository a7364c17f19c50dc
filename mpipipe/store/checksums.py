"""SHA-256 of files, and JSON files written aside, synced and renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpipipe.data.errors import BadDataError, OutputError

_ASIDE = re.compile(r"\.[0-9a-f]{16}\.part(\.space\.part)?$|\.[0-9]+\.spill\.part$")
"""What names of files that are written aside end in."""


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes.

    Raises
    ------
    BadDataError
        If the file can not be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror}", file=path) from error


def sha256_of(parts: Iterable[str]) -> str:
    """SHA-256 over strings, each closed by a newline."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def aside_of(path: Path) -> Path:
    """A name beside `path` that nobody else writes to, on any host that sees the folder.

    A process number would not do: hosts and containers have the same ones, and a file that a
    process of that number left half-written may be there.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def asides_in(folder: Path, *, below: bool) -> list[Path]:
    """Files that processes which died were writing: those of names that ours give them.

    Other files may end alike: downloads that browsers have begun.

    Parameters
    ----------
    below
        Look into its folders, too.
    """
    found = folder.rglob("*.part") if below else folder.glob("*.part")
    return sorted(path for path in found if _ASIDE.search(path.name) and path.is_file())


def write_text_atomically(path: Path, text: str) -> None:
    """`text` as UTF-8, written by `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file aside, sync it, rename it: readers see the old one or the new one.

    Raises
    ------
    OutputError
        If it can not be written; nothing half-written stays.
    """
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise OutputError(
            f"can not be written: {error.strerror}",
            file=path,
            way_out="make space or mend permissions, then resume",
        ) from error


def write_json_atomically(path: Path, content: Any) -> None:
    """`content` as JSON with sorted keys, written by `write_text_atomically`."""
    write_text_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises
    ------
    BadDataError
        If it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror}", file=path) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadDataError(f"is no valid JSON: {error}", file=path) from error
