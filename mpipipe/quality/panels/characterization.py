"""What a run found about one exposure, read back from its products to be looked at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.icsrc import ICMATCH
from mpipipe.data.photo_calib import NANOJANSKY_ZERO_POINT
from mpipipe.data.psf import Psf
from mpipipe.store.hdf5 import read_catalogue
from mpipipe.store.images import read_exposure
from mpipipe.store.layout import RunLayout
from mpipipe.store.psf import read_psf


@dataclass(frozen=True)
class Characterization:
    """One exposure with its PSF, bright sources and reference stars.

    Attributes
    ----------
    calexp
        With the WCS and zero point, where they were found.
    psf
        None where the run has none.
    sources, matches
        Rows of `icSrc` and `icMatch`; None while the run has no such catalogue.
    failures
        What failed in the exposure's task, one line; empty if nothing did, None while the task
        has not ended.
    """

    calexp: Exposure
    psf: Psf | None
    sources: np.ndarray | None
    matches: np.ndarray | None
    failures: str | None = None

    @property
    def no_catalogue(self) -> str:
        """What to say where a picture needs the catalogues and there are none."""
        return "no catalogues yet: they are published when the run ends, which must come first"

    @property
    def why_no_solution(self) -> str:
        """Why there is no WCS or zero point, as far as it is known."""
        if self.failures is None:
            return "why is told when the run has ended"
        nothing = "no step failed: the run had no reference catalogue, or the stage was off"
        return self.failures or nothing

    @property
    def title(self) -> str:
        """Visit, CCD and band."""
        info = self.calexp.info
        return f"visit {info.visit}, {info.detector} {info.band}"

    def matched_sources(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `icSrc` and `icMatch` that belong together, row by row."""
        if self.sources is None or self.matches is None or not len(self.sources):
            nothing = np.zeros(0, self.sources.dtype) if self.sources is not None else np.zeros(0)
            return nothing, ICMATCH.empty(0)
        order = np.argsort(self.sources["id"], kind="stable")
        place = np.searchsorted(self.sources["id"], self.matches["id"], sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        known = self.sources["id"][rows] == self.matches["id"]
        return self.sources[rows[known]], self.matches[known]

    def magnitudes(self, rows: np.ndarray) -> tuple[np.ndarray, str]:
        """Magnitudes of rows of `icSrc` by their PSF fluxes, and what they are in words.

        AB where there is a zero point, else instrumental: -2.5 lg electrons.
        """
        is_calibrated = self.calexp.photo_calib is not None
        flux = rows["psfFlux" if is_calibrated else "psfInstFlux"]
        lg = np.log10(np.where(flux > 0, flux, np.nan))
        if is_calibrated:
            return NANOJANSKY_ZERO_POINT - 2.5 * lg, "magnitude (AB)"
        return -2.5 * lg, "instrumental magnitude, −2.5 lg electrons"


def read_characterization(layout: RunLayout, visit: int, ccd: str) -> Characterization:
    """Read what a run found about one visit and CCD, as far as it is there.

    Raises
    ------
    BadDataError
        If a product is damaged, or there is no calexp.
    """
    calexp = read_exposure(layout.image("calexp", visit, ccd))
    psf = layout.image("psf", visit, ccd)
    number = calexp.info.detector_number
    return Characterization(
        calexp,
        read_psf(psf) if psf.exists() else None,
        _rows(layout.catalogue("icSrc"), visit, number),
        _rows(layout.catalogue("icMatch"), visit, number),
        _failures(layout.outcomes, visit, ccd),
    )


def _rows(path: Path, visit: int, ccd_number: int) -> np.ndarray | None:
    """The rows of one visit and CCD; they follow each other, and only they are read."""
    if not path.exists():
        return None
    keys = read_catalogue(path, ("visit", "ccdNumber"))
    mine = np.flatnonzero((keys["visit"] == visit) & (keys["ccdNumber"] == ccd_number))
    first, end = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
    return read_catalogue(path, rows=slice(first, end))[mine - first]


def _failures(path: Path, visit: int, ccd: str) -> str | None:
    """What failed in the task of a visit and CCD, by ``outcomes.json``."""
    if not path.exists():
        return None
    try:
        for task in json.loads(path.read_text(encoding="utf-8"))["tasks"]:
            if (task["phase"], task.get("visit"), task.get("ccd")) == ("calibrate", visit, ccd):
                return str(task.get("reason", "")) if "outcome" in task else None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BadDataError(f"is damaged: {error!r}", file=path) from error
    return None
