"""Magnitudes and colours of galaxies from visit to visit (PT1.2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.quality.scorecard.ccds import of_rows
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, target
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.repeats import MAG_PER_RELATIVE, NANOJANSKY_ZERO_POINT
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, width

LEAST_SNR = 20.0
"""Of the Petrosian flux of a galaxy, by the median of its measurements."""
LEAST_GALAXIES = 5
"""Below which nothing is said."""
MMAG = 1e3


def magnitudes(data: RunData) -> tuple[np.ndarray, np.ndarray]:
    """Petrosian magnitudes of all sources, NaN without, and which are of bright, lone galaxies."""
    found = data.repeats
    s = found.sources
    flux, error = s["petroFlux"].astype(float), s["petroFluxErr"].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = NANOJANSKY_ZERO_POINT - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
        snr = np.where((flux > 0) & (error > 0), flux / error, np.nan)
    fine = found.is_galaxy & found.is_sound & np.isfinite(snr)
    return magnitude, fine & (_typical(data, np.where(fine, snr, np.nan)) >= LEAST_SNR)


def _typical(data: RunData, snr: np.ndarray) -> np.ndarray:
    """Mean over the measurements of an object in a band, at each of them."""
    found = data.repeats
    bands = np.unique(found.sources["band"], return_inverse=True)[1]
    group = np.maximum(found.owner, 0) * (int(bands.max(initial=0)) + 1) + bands
    known = np.isfinite(snr)
    n = int(group.max(initial=0)) + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(group[known], snr[known], n) / np.bincount(group[known], minlength=n)
    return np.asarray(means[group]) if len(group) else snr


@metric("galaxies.repeatability", "repeatability of galaxies (PT1.2)", "galaxies")
def repeatability(data: RunData) -> Iterator[Measured]:
    """Width of the distribution of Petrosian magnitudes of galaxies about the mean of each in the
    band, made as in PA1. Galaxies are lone, whole objects with extendedness above 0.5, of a typical
    SNR of 20 or more. PT1.2 asks 0.05 mag of the ensemble; photon noise at SNR 20 is 0.054."""
    magnitude, chosen = magnitudes(data)
    found = data.repeats
    for band in data.bands:
        key, title = f"galaxies.repeatability.{band}", f"galaxies, Petrosian, {band}"
        rows, residual = found.scatter(magnitude, chosen & found.in_band(band))
        n = len(np.unique(found.owner[rows]))
        if n < LEAST_GALAXIES:
            why = f"{n} bright galaxies were measured in two visits, {LEAST_GALAXIES} are needed"
            yield Measured(key, title, why=why)
            continue
        s = found.sources
        noise = np.median(s["petroFluxErr"][rows] / s["petroFlux"][rows])
        units = found.owner[rows]
        yield Measured(
            key, title, *estimate(width, MMAG * residual, units, key), unit="mmag",
            n=len(np.unique(units)), of="galaxies", requirement=target(50.0, "PT1.2"),
            note=f"{len(rows):,} measurements; their quoted errors: "
            f"{MMAG * MAG_PER_RELATIVE * float(noise):.0f} mmag",
            ccds=of_rows(data, rows, MMAG * residual, width),
        )  # fmt: skip


@metric("galaxies.colour", "colours of galaxies (PT1.2)", "galaxies")
def colour(data: RunData) -> Iterator[Measured]:
    """Width of the distribution of colours of galaxies about the mean colour of each. Colours are
    of
    Petrosian magnitudes in neighbouring bands, the first measurement of one with the first of the
    other, and so on; galaxies as in their repeatability. PT1.2 asks 0.05 mag of the ensemble."""
    if len(data.bands) < 2:
        raise NotMeasurable("the run has fewer than two bands")
    magnitude, chosen = magnitudes(data)
    found = data.repeats
    for blue, red in zip(data.bands, data.bands[1:], strict=False):
        key, title = f"galaxies.colour.{blue}-{red}", f"galaxies, colour {blue} - {red}"
        one, two = (
            _numbered(data, np.flatnonzero(chosen & np.isfinite(magnitude) & found.in_band(band)))
            for band in (blue, red)
        )
        _, i, j = np.intersect1d(one[0], two[0], return_indices=True)
        rows, others = one[1][i], two[1][j]
        order = np.argsort(found.owner[rows], kind="stable")
        rows, others = rows[order], others[order]
        values = np.full(len(magnitude), np.nan)
        values[rows] = magnitude[rows] - magnitude[others]
        rows, residual = found.scatter(values, np.isfinite(values))
        n = len(np.unique(found.owner[rows]))
        if n < LEAST_GALAXIES:
            why = f"{n} bright galaxies have two colours, {LEAST_GALAXIES} are needed"
            yield Measured(key, title, why=why)
            continue
        units = found.owner[rows]
        yield Measured(
            key, title, *estimate(width, MMAG * residual, units, key), unit="mmag",
            n=len(np.unique(units)), of="galaxies", requirement=target(50.0, "PT1.2"),
            note=f"{len(rows):,} colours", ccds=of_rows(data, rows, MMAG * residual, width),
        )  # fmt: skip


def _numbered(data: RunData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys of rows: their object and the how manyth of it they are, in the order of visits."""
    owner = data.repeats.owner[rows]
    first = np.flatnonzero(np.diff(owner, prepend=-2))
    number = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
    return owner * 100_000 + number, rows
