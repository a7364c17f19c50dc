"""Products that were removed to save space, since they can be made again: not lost, but not there.

``slimmed.json`` in the run folder lists them. Whoever looks at products (`verify`, a run that goes
on) does not miss these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mpipipe.data.errors import BadDataError
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.heads import forget_head
from mpipipe.store.layout import RunLayout


def read_removed(layout: RunLayout) -> Mapping[str, str]:
    """Path in the run folder to SHA-256 of every product that was removed.

    Raises
    ------
    BadDataError
        If the list is damaged.
    """
    if not layout.slimmed.exists():
        return {}
    content = read_json(layout.slimmed)
    removed = content.get("removed") if isinstance(content, dict) else None
    if not isinstance(removed, dict):
        raise BadDataError("is no list of removed products", file=layout.slimmed)
    return {str(path): str(sha256) for path, sha256 in removed.items()}


def note_removed(layout: RunLayout, products: Iterable[tuple[str, str]]) -> None:
    """Add products, before they are removed.

    Raises
    ------
    OutputError
        If the list can not be written.
    """
    removed = {**read_removed(layout), **dict(products)}
    write_json_atomically(layout.slimmed, {"removed": removed})


def forget_restored(layout: RunLayout) -> None:
    """Take products off the list that are there again.

    Raises
    ------
    OutputError
        If the list can not be written.
    """
    removed = read_removed(layout)
    left = {path: sha for path, sha in removed.items() if not layout.inside(path).exists()}
    for path in removed.keys() - left.keys():
        forget_head(layout.inside(path))
    if len(left) != len(removed):
        write_json_atomically(layout.slimmed, {"removed": left})
