"""Measurements of the same objects in several visits, and how they scatter about their means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from mpipipe.quality.scorecard.measured import NotMeasurable

MOST_SOURCES = 1_000_000
"""Measurements that are kept: of a larger run those of a share of its objects."""

MAS = 3.6e6
"""Milliarcsec in a degree."""
YEAR = 365.25
MAG_PER_RELATIVE = 1.0857362
NANOJANSKY_ZERO_POINT = 31.4

OBJECT_COLUMNS = (
    "objectId", "ra", "dec", "epoch", "pmRa", "pmDec", "nParameters", "nSources", "extendedness",
)  # fmt: skip
SOURCE_COLUMNS = (
    "id", "objectId", "visit", "ccdNumber", "band", "mjd", "ra", "dec", "fwhm", "psfFlux",
    "psfFluxErr", "petroFlux", "petroFluxErr", "ixx", "iyy", "ixy", "psfIxx", "psfIyy", "psfIxy",
    "flag_blended", "flag_monster", "flag_streak", "flag_edge", "flag_saturated",
    "flag_near_saturated", "flag_bad", "flag_cr", "flag_suspect", "flag_centroid", "flag_psfFlux",
    "flag_merged", "raRefraction", "decRefraction",
)  # fmt: skip
LATER_COLUMNS = {"flag_merged": False, "raRefraction": 0.0, "decRefraction": 0.0}
"""Columns that runs of older versions lack, and what stands for them there."""

Columns = dict[str, np.ndarray]
Keep = Callable[[Columns], np.ndarray]


class Read(Protocol):
    """Reads columns of a table; see `RunData.read`."""

    def __call__(
        self, name: str, columns: Sequence[str], keep: Keep | None = None,
        later: Mapping[str, object] = ...,
    ) -> Columns:  # fmt: skip
        """Columns of rows that are to be kept; `later` stands for columns that are not there."""


class Scatter(NamedTuple):
    """Residuals about the mean of each object in a band.

    Attributes
    ----------
    rows
        Places in `Repeats.sources`.
    residual
        Value minus mean, times the root of n / (n - 1): as wide as the errors are at any n.
    """

    rows: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True, eq=False)
class Repeats:
    """Measurements of objects.

    Attributes
    ----------
    objects
        Columns of `object`, ascending by id.
    sources
        Columns of `source`, by object, band and visit.
    owner
        For each source the place of its object in `objects`; -1 if there is none.
    share
        Of the run's objects, these.
    """

    objects: Columns
    sources: Columns
    owner: np.ndarray
    share: float

    @cached_property
    def is_sound(self) -> np.ndarray:
        """Which sources are lone, whole, of one object, and have a flux."""
        s = self.sources
        flagged = np.any([s[name] for name in SOURCE_COLUMNS if name.startswith("flag_")], axis=0)
        return np.asarray(~flagged & (s["psfFlux"] > 0) & (s["psfFluxErr"] > 0))

    @cached_property
    def is_star(self) -> np.ndarray:
        """Which sources are of objects that are points."""
        return self._of_objects(self.objects["extendedness"] < 0.5)

    @cached_property
    def is_galaxy(self) -> np.ndarray:
        """Which sources are of objects that are extended."""
        return self._of_objects(self.objects["extendedness"] > 0.5)

    def _of_objects(self, chosen: np.ndarray) -> np.ndarray:
        return np.asarray((self.owner >= 0) & chosen[np.maximum(self.owner, 0)])

    @cached_property
    def snr(self) -> np.ndarray:
        """For each source the typical SNR of its object in its band: of all, so that a selection by
        it does not depend on the single measurement."""
        s = self.sources
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = s["psfFlux"].astype(float) / s["psfFluxErr"]
        ratio[~np.isfinite(ratio)] = 0.0
        group, starts, counts = self._groups(np.arange(len(ratio)))
        means = np.add.reduceat(ratio, starts) / counts if len(ratio) else np.zeros(0)
        return np.asarray(means[group])

    def _groups(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number of the group (object and band) of each row, where groups begin, their sizes."""
        owner, band = self.owner[rows], self.sources["band"][rows]
        new = np.ones(len(rows), bool)
        new[1:] = (owner[1:] != owner[:-1]) | (band[1:] != band[:-1])
        starts = np.flatnonzero(new)
        return np.cumsum(new) - 1, starts, np.diff(starts, append=len(rows))

    def scatter(self, values: np.ndarray, chosen: np.ndarray) -> Scatter:
        """How values scatter about the mean of their object and band, where it has two or more.

        Parameters
        ----------
        values
            For each source; those that are not finite are left out.
        chosen
            Which sources to take.
        """
        rows = np.flatnonzero(chosen & np.isfinite(values))
        if not len(rows):
            return Scatter(rows, np.zeros(0))
        group, starts, counts = self._groups(rows)
        mean = np.add.reduceat(values[rows], starts) / counts
        several = counts[group] >= 2
        n = counts[group][several]
        residual = (values[rows] - mean[group])[several] * np.sqrt(n / (n - 1.0))
        return Scatter(rows[several], residual)

    @cached_property
    def magnitude(self) -> np.ndarray:
        """PSF magnitudes (AB); NaN without a positive flux."""
        with np.errstate(invalid="ignore", divide="ignore"):
            flux = self.sources["psfFlux"].astype(float)
            return np.asarray(
                NANOJANSKY_ZERO_POINT - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
            )

    @cached_property
    def offsets(self) -> np.ndarray:
        """(n, 2) east and north of where the object was at that time, by its mean position and
        proper motion, mas; parallax is left out. Refraction by colour is taken off."""
        o, s, owner = self.objects, self.sources, np.maximum(self.owner, 0)
        years = (s["mjd"] - o["epoch"][owner]) / YEAR
        moves = o["nParameters"][owner] >= 4
        east = (s["ra"] - o["ra"][owner] + 180.0) % 360.0 - 180.0
        east = MAS * east * np.cos(np.radians(o["dec"][owner]))
        north = MAS * (s["dec"] - o["dec"][owner])
        motion = np.stack([o["pmRa"][owner], o["pmDec"][owner]], axis=1).astype(float)
        motion = np.where(moves[:, None], motion * years[:, None], 0.0)
        refraction = np.stack([s["raRefraction"], s["decRefraction"]], axis=1).astype(float)
        found = np.stack([east, north], axis=1) - motion - refraction
        found[self.owner < 0] = np.nan
        return np.asarray(found)

    def in_band(self, band: str) -> np.ndarray:
        """Which sources are of a band."""
        return np.asarray(self.sources["band"] == band.encode())


def read_repeats(read: Read) -> Repeats:
    """Read objects and their sources; of many objects a share that their ids choose.

    Raises
    ------
    NotMeasurable
        If there are no objects.
    """
    counts = read("object", ("objectId", "nSources"), None)
    n_objects = len(counts["objectId"])
    if n_objects == 0:
        raise NotMeasurable("the run has no objects")
    every = max(1, -(-int(counts["nSources"].sum()) // MOST_SOURCES))

    def keep(chunk: Columns) -> np.ndarray:
        return _is_chosen(chunk["objectId"], every)

    objects = read("object", OBJECT_COLUMNS, keep)
    order = np.argsort(objects["objectId"], kind="stable")
    objects = {name: values[order] for name, values in objects.items()}
    sources = read("source", SOURCE_COLUMNS, keep, LATER_COLUMNS)
    order = np.lexsort((sources["visit"], sources["band"], sources["objectId"]))
    sources = {name: values[order] for name, values in sources.items()}
    ids = objects["objectId"]
    place = np.clip(np.searchsorted(ids, sources["objectId"]), 0, max(len(ids) - 1, 0))
    known = ids[place] == sources["objectId"] if len(ids) else np.zeros(len(place), bool)
    return Repeats(objects, sources, np.where(known, place, -1), len(ids) / n_objects)


def _is_chosen(ids: np.ndarray, every: int) -> np.ndarray:
    """One of so many, by a mixture of the bits of the id (Knuth's multiplicative hash)."""
    if every == 1:
        return np.ones(len(ids), bool)
    mixed = ids.astype(np.uint64) * np.uint64(11400714819323198485)
    return np.asarray((mixed >> np.uint64(32)) % np.uint64(every) == 0)
