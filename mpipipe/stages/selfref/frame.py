"""What is known of one CCD at one visit before it has a place on the sky."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpipipe.data.photo_calib import MAG_PER_RELATIVE
from mpipipe.data.tan_sip import TanSip
from mpipipe.stages.ic.wcs_determination import (
    WcsDeterminationConfig,
    choose_stars,
    clean_sources,
    placed_sources,
    position_errors,
)

_SPOILT_ERROR = 0.3
"""Error of a coordinate that has a flag, pixels."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Sources of one CCD at one visit, brightest first.

    Attributes
    ----------
    visit, ccd, band
        Which frame it is; `ccd` is the CCD's name.
    mjd
        Middle of the visit, MJD (TAI); NaN if unknown.
    seconds
        Exposure time; NaN if unknown.
    shape
        (ny, nx).
    pixel_scale
        Arcsec, roughly.
    header
        WCS of the header, if any.
    pointing
        Rough position of the CCD's centre (deg, ICRS); NaN if unknown.
    x, y, error
        (n,) pixels; standard error an axis.
    magnitude, magnitude_error
        (n,) instrumental, -2.5 log10 of the electrons of the whole visit; NaN if unknown.
    snr
        (n,).
    is_clean
        (n,) whether nothing spoils a source.
    tiers
        Indices of the sources that fits use: the best ones, then ever more.
    """

    visit: int
    ccd: str
    band: str
    mjd: float
    seconds: float
    shape: tuple[int, int]
    pixel_scale: float
    header: TanSip | None
    pointing: tuple[float, float]
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
    magnitude: np.ndarray
    magnitude_error: np.ndarray
    snr: np.ndarray
    is_clean: np.ndarray
    tiers: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def centre(self) -> tuple[float, float]:
        """The central pixel, (x, y)."""
        return (self.shape[1] - 1) / 2.0, (self.shape[0] - 1) / 2.0

    @property
    def half_diagonal(self) -> float:
        """Degrees."""
        return float(np.hypot(*self.shape)) * self.pixel_scale / 7200.0

    def only(self, kept: np.ndarray) -> Frame:
        """The frame with some of its sources, a mask."""
        number = np.cumsum(kept) - 1
        names = ("x", "y", "error", "magnitude", "magnitude_error", "snr", "is_clean")
        return replace(
            self,
            **{name: getattr(self, name)[kept] for name in names},
            tiers=tuple(number[tier[kept[tier]]] for tier in self.tiers),
        )


def frame_of(
    rows: np.ndarray,
    *,
    ccd: str,
    band: str,
    mjd: float,
    seconds: float,
    shape: tuple[int, int],
    pixel_scale: float,
    header: TanSip | None,
    pointing: tuple[float, float],
    options: WcsDeterminationConfig,
    visit: int,
) -> Frame:
    """A frame out of its rows of icSrc.

    Parameters
    ----------
    rows
        Rows of the schema `ICSRC`.
    options
        Which stars are the best ones.

    Other parameters are as in `Frame`.
    """
    rows = rows[placed_sources(rows)]
    magnitude, magnitude_error = _magnitudes(rows)
    order = np.lexsort((rows["id"], -rows["snr"].astype(float), magnitude))
    rows, magnitude, magnitude_error = rows[order], magnitude[order], magnitude_error[order]
    error = position_errors(rows)
    is_clean = clean_sources(rows)
    return Frame(
        visit,
        ccd,
        band,
        mjd,
        seconds,
        shape,
        pixel_scale,
        header,
        pointing,
        rows["x"].astype(float),
        rows["y"].astype(float),
        np.where(is_clean, error, np.hypot(error, _SPOILT_ERROR)),
        magnitude,
        magnitude_error,
        rows["snr"].astype(float),
        is_clean,
        tuple(choose_stars(rows, options)),
    )


def _magnitudes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Instrumental magnitudes by the PSF, else in the calibration aperture, with errors."""
    flux = rows["psfInstFlux"].astype(float)
    error = rows["psfInstFluxErr"].astype(float)
    known = np.isfinite(flux) & (flux > 0.0)
    flux = np.where(known, flux, rows["apInstFlux"])
    error = np.where(known, error, rows["apInstFluxErr"])
    with np.errstate(all="ignore"):
        magnitude = -2.5 * np.log10(np.where(flux > 0.0, flux, np.nan))
        return magnitude, MAG_PER_RELATIVE * error / np.where(flux > 0.0, flux, np.nan)
