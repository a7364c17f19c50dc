"""In a flat folder products stand among a person's files: which of them are the run's own.

Tables of objects have names that others may have given theirs (`ON_TOP`): only those are replaced
and removed that the run has claimed, before it wrote them, when there were none. Tables of an
exposure have names that only somebody who means it gives: they are the run's own if they say so.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.run.completion import read_completion
from mpipipe.run.plan import Plan
from mpipipe.run.task import Task
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.hdf5 import read_attributes
from mpipipe.store.layout import BOOKS, ON_TOP, RunLayout

_ALWAYS = ("calexp", "psf", "bkgd")
IMAGES = (*_ALWAYS, "postisr", "assembled")
"""Kinds of images that a flat folder may have."""
_OF_EXPOSURE = ("src", "icSrc")
_WAY_OUT = "choose another folder with -o, or move it away"


def refuse_others_files(layout: RunLayout, plan: Plan) -> None:
    """Refuse a folder, before it is a flat one, with files of the names of what is to be made.

    Raises
    ------
    ConfigError
        With the first one.
    """
    paths = [layout.catalogue(name) for name in ON_TOP]
    for task in plan.in_phase("calibrate") if "calibrate" in plan.phases else ():
        paths += [layout.image(kind, task.visit, task.ccd) for kind in _ALWAYS]
        paths += [layout.exposure_table(name, task.visit, task.ccd) for name in _OF_EXPOSURE]
    for path in paths:
        if path.exists():
            raise ConfigError(
                "is there already, and would be replaced", file=path, way_out=_WAY_OUT
            )
    if not RunLayout.at(layout.root).is_flat and _is_filled(layout.books):
        raise ConfigError(
            f"is there already: a folder {BOOKS} is where mpipipe keeps its books",
            file=layout.books,
            way_out=_WAY_OUT,
        )


def claim_tables(layout: RunLayout, *, makes_objects: bool) -> None:
    """Note which tables beside the images are the run's own, before it writes them.

    Raises
    ------
    ConfigError
        If somebody else's is in the way of one.
    BadDataError
        If the list of them is damaged.
    """
    own, wanted = own_tables(layout), set(ON_TOP if makes_objects else ())
    with contextlib.suppress(BadDataError):  # no record, or a damaged one
        own |= {Path(p.path).stem for p in read_completion(layout).products} & set(ON_TOP)
    for name in sorted(wanted - own):
        if (path := layout.catalogue(name)).exists():
            raise ConfigError(
                "is none of this run's files, and would be replaced", file=path, way_out=_WAY_OUT
            )
    write_json_atomically(layout.own_tables, sorted(own | wanted))


def refuse_others_tables(layout: RunLayout, plan: Plan) -> None:
    """Refuse to go on where a table of an exposure is not the run's own, before it is replaced.

    Raises
    ------
    ConfigError
        With the first one.
    """
    for task in plan.in_phase("calibrate") if "calibrate" in plan.phases else ():
        for name in _OF_EXPOSURE:
            path = layout.exposure_table(name, task.visit, task.ccd)
            if path.exists() and not _is_of(path, task):
                raise ConfigError(
                    f"is not the table that this run has made of {task.label}, and would be "
                    "replaced",
                    file=path,
                    way_out=_WAY_OUT,
                )


def _is_of(path: Path, task: Task) -> bool:
    """Whether a table was published as one of this exposure."""
    try:
        facts = read_attributes(path)
    except BadDataError:
        return False
    return (facts.get("visit"), facts.get("ccd")) == (task.visit, task.ccd)


def own_tables(layout: RunLayout) -> set[str]:
    """The tables beside the images that the run has claimed.

    Raises
    ------
    BadDataError
        If the list of them is damaged.
    """
    if not layout.own_tables.exists():
        return set()
    content = read_json(layout.own_tables)
    if not isinstance(content, list) or not set(content) <= set(ON_TOP):
        raise BadDataError("is no list of tables", file=layout.own_tables)
    return set(content)


def remove_former_tables(layout: RunLayout, tables: list[str]) -> None:
    """Remove tables that an earlier incarnation has published, with other options."""
    own = own_tables(layout)
    for name, path in layout.catalogues().items():
        is_ours = path.is_relative_to(layout.books) or name in own
        if is_ours and name not in tables:
            path.unlink(missing_ok=True)
    if layout.is_flat:
        write_json_atomically(layout.own_tables, sorted(own & set(tables)))


def _is_filled(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or next(folder.iterdir(), None) is not None)
