"""The index of a reference catalogue: one JSON file that says what lies in which shard.

A catalogue is a folder with `refcat.json` and its shards, FITS tables named after the HEALPix cell
that they are, as in HiPS: ``Norder5/Dir10000/Npix12345.fits``. No cell is inside another one, and
every star is in the shard of the one cell that holds its position at its epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.refcat import reference_schema
from mpipipe.data.schema import Schema
from mpipipe.data.sky_cells import FINEST
from mpipipe.store.checksums import read_json, write_json_atomically

FILE_NAME = "refcat.json"
FORMAT = "mpipipe reference catalogue"
VERSION = 1
WAY_OUT = "make the catalogue again with mpipipe refcat ingest"
_PER_FOLDER = 10000


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards of a catalogue, in the order of their place on the sky (nested).

    Attributes
    ----------
    order, cell, n_rows
        (n,) int64.
    sha256
        Of their files.
    """

    order: np.ndarray
    cell: np.ndarray
    n_rows: np.ndarray
    sha256: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sha256)

    def path(self, folder: Path, number: int) -> Path:
        """Where a shard lies in the folder of its catalogue."""
        return shard_path(folder, int(self.order[number]), int(self.cell[number]))


@dataclass(frozen=True, eq=False)
class Index:
    """What a reference catalogue is.

    Attributes
    ----------
    name
        What people call it, e.g. ``Gaia DR3``.
    bands
        Bands with magnitudes.
    is_absolute
        False: made from a run's own frames; positions and zero points are relative.
    max_rows
        Rows of a shard, at most, unless more stars than that stand on one point.
    made
        How it was made: sources, column map, what was left out; for people.
    """

    name: str
    bands: tuple[str, ...]
    is_absolute: bool
    max_rows: int
    shards: Shards
    made: Mapping[str, Any]

    @property
    def n_rows(self) -> int:
        """Stars in all shards."""
        return int(self.shards.n_rows.sum())

    @property
    def schema(self) -> Schema:
        """The columns of its shards."""
        return reference_schema(self.bands)

    def write(self, folder: Path) -> None:
        """Write the index into the folder of its catalogue.

        Raises
        ------
        OutputError
            If it can not be written.
        """
        shards = zip(
            self.shards.order.tolist(),
            self.shards.cell.tolist(),
            self.shards.n_rows.tolist(),
            self.shards.sha256,
            strict=True,
        )
        content = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "bands": list(self.bands),
            "is_absolute": self.is_absolute,
            "cells": "HEALPix, nested, ICRS",
            "max_rows": self.max_rows,
            "n_rows": self.n_rows,
            "columns": [
                {"name": column.name, "dtype": column.dtype, "unit": column.unit}
                for column in self.schema.columns
            ],
            "made": dict(self.made),
            "shards": [
                {"order": order, "cell": cell, "n_rows": n_rows, "sha256": digest}
                for order, cell, n_rows, digest in shards
            ],
        }
        write_json_atomically(folder / FILE_NAME, content)


def shard_path(folder: Path, order: int, cell: int) -> Path:
    """Where the shard of a cell lies in the folder of its catalogue."""
    first = cell // _PER_FOLDER * _PER_FOLDER
    return folder / f"Norder{order}" / f"Dir{first}" / f"Npix{cell}.fits"


def read_index(folder: Path) -> Index:
    """Read the index of a reference catalogue.

    Raises
    ------
    BadDataError
        If the folder holds none, or one that is damaged or of another version.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise BadDataError(
            "holds no reference catalogue",
            file=folder,
            way_out=f"make one: mpipipe refcat ingest FILE -o {folder}",
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadDataError("is no reference catalogue's index", file=path, way_out=WAY_OUT)
    if content.get("version") != VERSION:
        raise BadDataError(
            f"has unknown version {content.get('version')}", file=path, way_out=WAY_OUT
        )
    try:
        index = _index_of(content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadDataError(f"is damaged: {error!r}", file=path, way_out=WAY_OUT) from error
    return index


def _index_of(content: Mapping[str, Any]) -> Index:
    listed = content["shards"]
    order, cell, n_rows = (
        np.array([shard[key] for shard in listed], dtype=np.int64)
        for key in ("order", "cell", "n_rows")
    )
    if np.any((order < 0) | (order > FINEST)) or np.any((cell < 0) | (cell >= 12 << (2 * order))):
        raise ValueError("a cell that does not exist")
    return Index(
        name=str(content["name"]),
        bands=tuple(str(band) for band in content["bands"]),
        is_absolute=bool(content["is_absolute"]),
        max_rows=int(content["max_rows"]),
        shards=Shards(order, cell, n_rows, tuple(str(shard["sha256"]) for shard in listed)),
        made=dict(content["made"]),
    )
