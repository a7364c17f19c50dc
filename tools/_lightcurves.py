"""Light curves of a night's stars by forced photometry: their scatter against the expected noise.

Frames are brought to each other by the stars themselves: every flux is a star's brightness times a
frame's transparency, fitted together over all (the ensemble of Honeycutt 1992, PASP 104, 435). It
is done in fluxes, not magnitudes, so that faint stars take part whose flux is negative in a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpipipe.data.photo_calib import MAG_PER_RELATIVE
from mpipipe.quality.report import Check, at_least, within
from mpipipe.store.hdf5 import read_catalogue

LEAST_FRAMES = 20
"""Of 27: frames in which a star has to be measured."""
LEAST_STARS = 41
"""That can be followed, by an earlier analysis of the frames."""
FLOOR = 0.003
"""Error of every flux that is no noise, of the flux: it bounds the weight of the brightest."""
_ROUNDS = 100
_BRIGHT = 0.010
"""Relative noise below which other errors (flats, clouds within a frame) show."""


@dataclass(frozen=True)
class Curves:
    """Light curves, a row a star and a column a frame.

    Attributes
    ----------
    ids
        (n,) of the stars in the catalogue of positions, the brightest first.
    mjd
        (m,) of the frames, ascending.
    relative
        (n, m) flux over what brightness and transparency predict; NaN where it was not measured.
    noise
        (n, m) its expected error.
    flux
        (n,) electrons in the clearest frame.
    transparency
        (m,) 1 in the clearest frame.
    """

    ids: np.ndarray
    mjd: np.ndarray
    relative: np.ndarray
    noise: np.ndarray
    flux: np.ndarray
    transparency: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """(n,) noise of a mean frame, mag."""
        weight = np.nanmean(np.square(self.noise) ** -1, axis=1)
        return np.asarray(MAG_PER_RELATIVE / np.sqrt(weight))

    @property
    def ratio(self) -> np.ndarray:
        """(n,) scatter over expected noise: 1.48 MAD, one degree of freedom taken off."""
        pull = (self.relative - 1.0) / self.noise
        middle = np.nanmedian(pull, axis=1, keepdims=True)
        n = np.isfinite(pull).sum(axis=1)
        return np.asarray(
            1.4826 * np.nanmedian(np.abs(pull - middle), axis=1) * np.sqrt(n / (n - 1))
        )

    @property
    def scatter(self) -> np.ndarray:
        """(n,) scatter of a mean frame, mag."""
        return self.ratio * self.expected


def light_curves(run: Path, frames: int) -> Curves:
    """Read a run's forced photometry: stars whose flux is known in so many frames."""
    rows = read_catalogue(run / "catalogs" / "forcedSrc.h5")
    rows = rows[~(rows["flag_edge"] | rows["flag_psfFlux"] | rows["flag_saturated"])]
    ids, star = np.unique(rows["objectId"], return_inverse=True)
    mjd, frame = np.unique(rows["mjd"], return_inverse=True)
    flux = np.full((len(ids), len(mjd)), np.nan)
    error = flux.copy()
    flux[star, frame], error[star, frame] = rows["psfInstFlux"], rows["psfInstFluxErr"]
    followed = np.isfinite(flux).sum(axis=1) >= frames
    ids, flux, error = ids[followed], flux[followed], error[followed]
    brightness, transparency = _ensemble(flux, error)
    order = np.argsort(-brightness, kind="stable")
    predicted = brightness[:, None] * transparency
    return Curves(
        ids[order], mjd, (flux / predicted)[order], (error / predicted)[order], brightness[order],
        transparency,
    )  # fmt: skip


def _ensemble(flux: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of the stars and transparency of the frames, by turns; outliers lose weight."""
    known = np.isfinite(flux)
    value, transparency = np.where(known, flux, 0.0), np.ones(flux.shape[1])
    brightness = value.sum(axis=1) / known.sum(axis=1)
    for _ in range(_ROUNDS):
        predicted = brightness[:, None] * transparency
        sigma = np.where(known, np.hypot(error, FLOOR * predicted), np.inf)
        weight = sigma**-2 / np.maximum(1.0, np.abs(value - predicted) / sigma / 2.0)
        shape = brightness[:, None]
        transparency = (weight * value * shape).sum(axis=0) / (weight * shape**2).sum(axis=0)
        transparency /= transparency.max()
        brightness = (weight * value * transparency).sum(axis=1) / (weight * transparency**2).sum(
            axis=1
        )
    return brightness, transparency


def curve_checks(curves: Curves, frames: int) -> list[Check]:
    """Rows of the table."""
    bright = curves.expected < _BRIGHT * MAG_PER_RELATIVE
    ratio = curves.ratio
    return [
        at_least(f"light curves: stars in {frames} frames or more", len(curves.ids), LEAST_STARS),
        within("light curves: scatter / expected noise, median of stars",
               float(np.median(ratio[~bright])), 1.0, 0.1),
        Check("the same, of stars whose noise is below 10 mmag", float(np.median(ratio[bright]))),
        Check("their scatter, mmag", 1e3 * float(np.median(curves.scatter[bright]))),
        Check("stars that scatter more than twice as much as expected", int((ratio > 2.0).sum())),
    ]  # fmt: skip


def print_curves(curves: Curves) -> None:
    """Every star: scatter against noise."""
    print("\nlight curves, scatter after ensemble correction")
    print("  star  frames     flux/e  scatter/mmag  expected/mmag  ratio")
    rows = zip(
        curves.ids, np.isfinite(curves.relative).sum(axis=1), curves.flux, curves.scatter,
        curves.expected, curves.ratio, strict=True,
    )  # fmt: skip
    for star, n, flux, scatter, expected, ratio in rows:
        print(f"  {star:4d} {n:7d} {flux:10.0f} {1e3 * scatter:13.1f} {1e3 * expected:14.1f}"
              f" {ratio:6.2f}")  # fmt: skip


def draw_curves(curves: Curves, path: Path) -> None:
    """Scatter and expected noise against brightness, and the curves of the brightest stars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    magnitude = -2.5 * np.log10(curves.flux / curves.flux[0])
    left.semilogy(magnitude, 1e3 * curves.expected, "k-", lw=0.8, label="expected noise")
    left.semilogy(magnitude, 1e3 * curves.scatter, "o", ms=3.5, label="scatter")
    left.set_xlabel("mag below the brightest star")
    left.set_ylabel("mmag")
    left.legend(frameon=False)
    hours = 24.0 * (curves.mjd - curves.mjd[0])
    for k in range(min(8, len(curves.ids))):
        with np.errstate(invalid="ignore", divide="ignore"):
            off = -2.5 * np.log10(curves.relative[k])
        right.errorbar(hours, off + 0.1 * k, MAG_PER_RELATIVE * curves.noise[k], fmt="o", ms=2.5,
                       lw=0.6)  # fmt: skip
    right.invert_yaxis()
    right.set_xlabel("hours")
    right.set_ylabel("mag, 0.1 mag between stars")
    figure.savefig(path, dpi=150)
