"""Reading the stars of a cone: only the shards that it touches, each with its checksum."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.refcat import ReferenceStars
from mpipipe.data.schema import Schema
from mpipipe.store.fits import open_fits
from mpipipe.store.refcat.cells import touches_cone, unit_vectors
from mpipipe.store.refcat.index import FILE_NAME, WAY_OUT, Index, read_index

_MOST_BYTES = 64 << 20
"""Of shards that a process keeps."""


def read_reference(
    folder: Path | str, ra: float, dec: float, radius_deg: float
) -> tuple[ReferenceStars, dict[Path, str]]:
    """The stars of a reference catalogue in a cone, by their positions at their epochs.

    Each shard is compared with its checksum when it is read. The process keeps the last ones: the
    tasks of a field read the same again and again.

    Parameters
    ----------
    folder
        What `mpipipe refcat ingest` made.
    ra, dec
        Centre of the cone, degrees (ICRS).
    radius_deg
        Degrees. Add what fast stars may have moved since their epochs.

    Returns
    -------
    stars
        In the order of their place on the sky (nested).
    checksums
        The shards that were read, with their SHA-256.

    Raises
    ------
    BadDataError
        If there is no catalogue, or a shard is missing or damaged.
    ConfigError
        If this is no cone.
    """
    if not (np.isfinite([ra, dec, radius_deg]).all() and abs(dec) <= 90.0 and radius_deg >= 0.0):
        raise ConfigError(
            f"is no cone: RA {ra}, Dec {dec}, radius {radius_deg}",
            way_out="give degrees, Dec from -90 to 90",
        )
    folder = Path(folder).absolute()
    index = _INDICES.get(folder)
    shards = index.shards
    touched = touches_cone(shards.cell, shards.order, ra, dec, radius_deg)
    checksums: dict[Path, str] = {}
    parts = [index.schema.empty()]
    for number in np.flatnonzero(touched).tolist():
        path = shards.path(folder, number)
        checksums[path] = shards.sha256[number]
        rows = _SHARDS.get(path, index, number)
        parts.append(rows[_inside(rows, ra, dec, radius_deg)])
    stars = ReferenceStars(np.concatenate(parts), index.bands, index.name, index.is_absolute)
    return stars, checksums


def _inside(rows: np.ndarray, ra: float, dec: float, radius: float) -> np.ndarray:
    """Which rows are in a cone, its rim included."""
    if radius >= 180.0:
        return np.ones(len(rows), dtype=bool)
    apart = unit_vectors(rows["ra"], rows["dec"]) - unit_vectors(ra, dec)[:, np.newaxis]
    chord = 2.0 * np.sin(np.radians(radius) / 2.0)
    return np.asarray(np.sum(apart**2, axis=0) <= chord**2)


def read_shard(path: Path, schema: Schema, sha256: str, n_rows: int) -> np.ndarray:
    """The rows of a shard.

    Raises
    ------
    BadDataError
        If it is missing, or not what the index says.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadDataError(
            f"can not be read: {error.strerror}", file=path, way_out=WAY_OUT
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadDataError("is not what its index says", file=path, way_out=WAY_OUT)
    with open_fits(io.BytesIO(content)) as hdus:
        table = hdus[1].data
        if len(table) != n_rows or tuple(table.names) != schema.dtype.names:
            raise BadDataError("has other columns or rows", file=path, way_out=WAY_OUT)
        # Fields correspond by position; FITS is big-endian.
        return np.asarray(table.view(np.ndarray)).astype(schema.dtype)


class _Indices:
    """The index used last, unless its file has changed."""

    def __init__(self) -> None:
        self._stamp: tuple[Path, int, int, int] | None = None
        self._index: Index | None = None

    def get(self, folder: Path) -> Index:
        try:
            now = os.stat(folder / FILE_NAME)
        except OSError:
            return read_index(folder)  # which tells what is wrong
        stamp = (folder, now.st_size, now.st_mtime_ns, now.st_ino)
        if self._index is None or self._stamp != stamp:
            self._index, self._stamp = read_index(folder), stamp
        return self._index


class _Shards:
    """The shards used last, up to so many bytes; what they hold follows from their checksums."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], np.ndarray] = OrderedDict()

    def get(self, path: Path, index: Index, number: int) -> np.ndarray:
        digest, n_rows = index.shards.sha256[number], int(index.shards.n_rows[number])
        key = (digest, index.bands)
        if key not in self._kept:
            self._kept[key] = read_shard(path, index.schema, digest, n_rows)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(r.nbytes for r in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)
        return self._kept[key]


_INDICES = _Indices()
_SHARDS = _Shards(_MOST_BYTES)
