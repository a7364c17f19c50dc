"""PA1, PF1 and PT1.2's requirement on point sources: how magnitudes of stars repeat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.quality.scorecard.ccds import of_rows
from mpipipe.quality.scorecard.measured import Measured, Requirement, srd, target
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.repeats import MAG_PER_RELATIVE, Scatter
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import beyond, estimate, estimates, width

BRIGHT, VISIBLE = 200.0, 20.0
"""Least typical SNR of the stars of PA1 and PF1, and of those of PT1.2."""
MMAG = 1e3
LEAST_STARS = 5
"""Below which nothing is said."""


def residuals(data: RunData, band: str, least_snr: float) -> Scatter:
    """Magnitudes of lone, whole stars about the mean of each, mmag."""

    def make() -> Scatter:
        found = data.repeats
        chosen = found.is_star & found.is_sound & (found.snr >= least_snr) & found.in_band(band)
        rows, residual = found.scatter(found.magnitude, chosen)
        return Scatter(rows, MMAG * residual)

    return data.remember(("residuals", band, least_snr), make)


def _are_few(data: RunData, found: Scatter) -> str:
    """Why residuals are too few to judge by; empty if they are not."""
    n = len(np.unique(data.repeats.owner[found.rows]))
    if n >= LEAST_STARS:
        return ""
    return f"{n} such stars were measured well in two visits of the band, {LEAST_STARS} are needed"


def _photons(data: RunData, rows: np.ndarray) -> str:
    s = data.repeats.sources
    typical = float(np.median(s["psfFluxErr"][rows] / s["psfFlux"][rows]))
    return f"their quoted errors: {MMAG * MAG_PER_RELATIVE * typical:.1f} mmag"


def _width(
    data: RunData, band: str, name: str, title: str, least_snr: float, requirement: Requirement
) -> Measured:
    found = residuals(data, band, least_snr)
    key, title = f"{name}.{band}", f"{title}, {band}"
    if few := _are_few(data, found):
        return Measured(key, title, why=few)
    units = data.repeats.owner[found.rows]
    return Measured(
        key, title, *estimate(width, found.residual, units, key), unit="mmag",
        n=len(np.unique(units)), of="stars", requirement=requirement,
        note=f"{len(units):,} measurements; {_photons(data, found.rows)}",
        ccds=of_rows(data, found.rows, found.residual, width),
    )  # fmt: skip


@metric("PA1", "repeatability of bright stars", "photometry")
def pa1(data: RunData) -> Iterator[Measured]:
    """Width of the distribution of magnitudes of bright stars about the mean of each star in the
    band. Stars are objects with extendedness below 0.5; measurements are taken that no flag (blend,
    light of two objects, edge, saturation, cosmic ray, defect) is set for; bright is a typical SNR
    of 200 or more, as at 100 photons alone give 11 mmag. Each residual is multiplied by the root of
    n / (n - 1), n the star's measurements; the width is the distance of the quartiles over 1.349,
    the rms of a normal distribution, so that variables do not count."""
    for band in data.bands:
        asked = srd(3.0, 5.0, 8.0) if band in ("g", "r", "i") else srd(4.5, 7.5, 12.0)
        yield _width(data, band, "PA1", "PA1 repeatability", BRIGHT, asked)


@metric("PF1", "outliers in the repeatability of bright stars", "photometry")
def pf1(data: RunData) -> Iterator[Measured]:
    """Share of the residuals of PA1 that are beyond PA2: 15 mmag at design (22.5 in u, z, y). The
    levels of the SRD are 10 % beyond 15 (22.5) mmag, minimum 20 % beyond 15 (22.5), stretch 5 %
    beyond 10 (15); the number shown is that at 15 (22.5). Variable stars count as outliers."""
    for band in data.bands:
        far, near = (15.0, 10.0) if band in ("g", "r", "i") else (22.5, 15.0)
        title = "PF1 outliers"
        found = residuals(data, band, BRIGHT)
        key = f"PF1.{band}"
        if few := _are_few(data, found):
            yield Measured(key, f"{title}, {band}", why=few)
            continue
        units = data.repeats.owner[found.rows]
        both = [beyond(far), beyond(near)]
        beyond_far, beyond_near = estimates(both, found.residual, units, key)
        levels = {"stretch": beyond_near, "design": beyond_far, "minimum": beyond_far}
        yield Measured(
            key, f"{title}, {band}", *beyond_far, unit="%", n=len(np.unique(units)), of="stars",
            requirement=srd(5.0, 10.0, 20.0), levels=levels,
            note=f"beyond {far:g} mmag; beyond {near:g} mmag: {beyond_near.value:.1f} %",
            ccds=of_rows(data, found.rows, found.residual, beyond(far)),
        )  # fmt: skip


@metric("stars.repeatability", "repeatability of isolated point sources (PT1.2)", "photometry")
def stars(data: RunData) -> Iterator[Measured]:
    """As PA1, of all stars of a typical SNR of 20 or more: PT1.2 asks 0.05 mag."""
    asked = target(50.0, "PT1.2")
    for band in data.bands:
        yield _width(data, band, "stars.repeatability", "point sources, SNR ≥ 20", VISIBLE, asked)
