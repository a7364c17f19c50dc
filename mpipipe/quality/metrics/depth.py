"""How deep exposures are, and how complete down to there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.quality.scorecard.footprints import footprints
from mpipipe.quality.scorecard.measured import (
    CONTRIBUTION,
    Measured,
    NotMeasurable,
    at_least,
    target,
)
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.repeats import NANOJANSKY_ZERO_POINT
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, mean, median

FAINT = 15.0
"""SNR up to which the error of a flux is that of the sky alone, nearly."""
LEAST = 5
"""Faint sources that an exposure needs to have a depth."""
BINS = ((5.0, 6.0, None), (6.0, 8.0, None), (8.0, 12.0, 0.90), (12.0, 20.0, 0.93),
        (20.0, 50.0, 0.96), (50.0, np.inf, 0.96))  # fmt: skip
"""Expected SNR from and to, and the project's own target; none where the measure is biased."""
MARGIN = 10.0
"""FWHM from an edge within which no object is expected to be measured."""


def noise(data: RunData) -> tuple[np.ndarray, np.ndarray]:
    """For each CCD-visit the typical error of the PSF flux of a faint point source, nJy, and of how
    many sources; NaN without."""
    return data.remember(("noise",), lambda: _noise(data))


def _noise(data: RunData) -> tuple[np.ndarray, np.ndarray]:
    rows = data.table(
        "src",
        ("visit", "ccdNumber", "snr", "psfFlux", "psfFluxErr", "flag_psfFlux", "flag_blended"),
    )
    place = data.at_exposures(rows["visit"], rows["ccdNumber"])
    fine = (place >= 0) & ~rows["flag_psfFlux"] & ~rows["flag_blended"] & (rows["snr"] < FAINT)
    fine &= (rows["psfFluxErr"] > 0) & np.isfinite(rows["psfFluxErr"])
    values, places = np.full(len(data.exposures), np.nan), place[fine]
    order = np.argsort(places, kind="stable")
    errors, places = rows["psfFluxErr"][fine][order], places[order]
    starts = np.searchsorted(places, np.arange(len(values) + 1))
    counts = np.diff(starts)
    for k in np.flatnonzero(counts >= LEAST).tolist():
        values[k] = np.median(errors[starts[k] : starts[k + 1]])
    return values, counts


@metric("depth", "5-sigma depth", "depth")
def depth(data: RunData) -> Iterator[Measured]:
    """AB magnitude of a point source whose PSF flux is five times its error: of the median error of
    lone sources of SNR below 15 of a CCD-visit; median over the CCD-visits of the band."""
    sigma, counts = noise(data)
    if not np.isfinite(sigma).any():
        raise NotMeasurable("no exposure has faint sources with calibrated fluxes")
    with np.errstate(invalid="ignore"):
        magnitudes = NANOJANSKY_ZERO_POINT - 2.5 * np.log10(5.0 * sigma)
    units = np.unique(data.exposures["visit"], return_inverse=True)[1]
    for band in data.bands:
        key, title = f"depth.{band}", f"5-sigma depth, {band}"
        of_band = np.where(data.exposures["band"] == band, magnitudes, np.nan)
        if not np.isfinite(of_band).any():
            yield Measured(key, title, why="no CCD-visit of the band has a zero point")
            continue
        yield Measured(
            key, title, *estimate(median, of_band, units, key), unit="mag",
            n=int(np.isfinite(of_band).sum()), of="CCD-visits",
            ccds=data.contributions(of_band, counts),
        )  # fmt: skip


@metric("completeness", "completeness by overlapping visits", "depth")
def completeness(data: RunData) -> Iterator[Measured]:
    """Share of the objects on a CCD-visit that were measured there, by the SNR they are expected to
    have in it: mean flux in the band, without sources that are the light of two objects, over the
    typical error of the CCD-visit. Objects count that at
    least two other visits have measured (one, where a run has but two), farther than 10 FWHM from
    the edges; sources that were found but kept out of objects count as missed. Fluxes of faint ones
    are too high in the mean, as they were measured where noise raised them, so the shares
    below SNR 8 are too low, and only reported. Targets are the project's own, of completeness
    against truth."""
    data.require_headers()
    sigma, _ = noise(data)
    prints = footprints(data)
    if not prints:
        raise NotMeasurable("no exposure has sources with positions")
    n_visits = len(np.unique(data.exposures["visit"][data.exposures["has_image"]]))
    if n_visits < 2:
        raise NotMeasurable("there is one visit only: nothing overlaps it")
    others = 1 if n_visits == 2 else 2
    expected, seen, place, units = _expectations(data, sigma, others)
    if not len(expected):
        raise NotMeasurable("no exposure lies on objects that other visits have measured")
    for low, high, wanted in BINS:
        inside = (expected >= low) & (expected < high)
        top = f"{high:g}" if np.isfinite(high) else "more"
        key, title = f"completeness.{low:g}-{top}", f"found at SNR {low:g} to {top}"
        if not inside.any():
            yield Measured(key, title, why="no object is expected to have such an SNR")
            continue
        values = 100.0 * seen[inside]
        yield Measured(
            key, title, *estimate(mean, values, units[inside], key), unit="%",
            n=int(inside.sum()), of="expected measurements",
            requirement=None if wanted is None else at_least(100.0 * wanted, "own target"),
            ccds=_shares(data, place[inside], values),
        )  # fmt: skip


def _expectations(
    data: RunData, sigma: np.ndarray, others: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For objects on exposures: expected SNR, whether seen, place of the exposure, the object."""
    found = data.repeats
    s, o = found.sources, found.objects
    n_objects = len(o["objectId"])
    visits, visit = np.unique(s["visit"], return_inverse=True)
    known = found.owner >= 0
    n_seen = np.bincount(found.owner[known], minlength=n_objects)
    keys = np.unique(found.owner[known] * len(visits) + visit[known])
    scale = _pixel_scale(data)
    parts: list[tuple[np.ndarray, ...]] = []
    means = {band: _mean_flux(data, band) for band in data.bands}
    for k, print_ in footprints(data).items():
        exposure = data.exposures[k]
        if not np.isfinite(sigma[k]) or exposure["visit"] not in visits:
            continue
        moment = int(np.searchsorted(visits, exposure["visit"]))
        flux = means[str(exposure["band"])]
        fwhm = float(np.median(s["fwhm"][visit == moment])) / scale
        margin = MARGIN * (fwhm if np.isfinite(fwhm) else 5.0)
        near = np.flatnonzero(np.isfinite(flux) & (n_seen >= others))
        near = near[print_.holds(o["ra"][near], o["dec"][near], margin)]
        wanted = near * len(visits) + moment
        at = np.clip(np.searchsorted(keys, wanted), 0, len(keys) - 1)
        is_seen = keys[at] == wanted
        enough = n_seen[near] - is_seen >= others
        near, is_seen = near[enough], is_seen[enough]
        parts.append((flux[near] / sigma[k], is_seen.astype(float), np.full(len(near), k), near))
    if not parts:
        return np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros(0, int)
    expected, seen, place, units = (np.concatenate(column) for column in zip(*parts, strict=True))
    return expected, seen, place.astype(int), units.astype(int)


def _mean_flux(data: RunData, band: str) -> np.ndarray:
    """Mean PSF flux of each object in a band, weighted by errors; NaN without. Sources that are the
    light of two objects tell of neither."""
    found = data.repeats
    s = found.sources
    error = s["psfFluxErr"].astype(float)
    fine = (found.owner >= 0) & found.in_band(band) & np.isfinite(s["psfFlux"]) & (error > 0)
    fine &= ~s["flag_merged"]
    weight = 1.0 / error[fine] ** 2
    n = len(found.objects["objectId"])
    owner = found.owner[fine]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.bincount(owner, weight * s["psfFlux"][fine], n)
        return np.asarray(sums / np.bincount(owner, weight, n))


def _pixel_scale(data: RunData) -> float:
    """Arcsec, of the run's exposures."""
    return float(np.nanmedian(data.by_exposure("ic.wcsDetermination.pixel_scale")))


def _shares(data: RunData, place: np.ndarray, values: np.ndarray) -> np.ndarray:
    n = len(data.exposures)
    counts = np.bincount(place, minlength=n)
    rows = np.zeros(n, CONTRIBUTION)
    rows["visit"], rows["ccd"], rows["n"] = data.exposures["visit"], data.exposures["ccd"], counts
    with np.errstate(invalid="ignore", divide="ignore"):
        rows["value"] = np.bincount(place, values, n) / counts
    return rows[counts >= LEAST]


@metric("detection.negative", "negative detections", "depth")
def negative(data: RunData) -> Iterator[Measured]:
    """Detections at 5 sigma on the image turned upside down, a Mpixel: as many false ones are to be
    expected among the positive. The project's own target is 1."""
    data.require_headers()
    e = data.exposures
    with np.errstate(invalid="ignore", divide="ignore"):
        mpix = e["nx"].astype(float) * e["ny"] / 1e6
        values = data.by_exposure("sfm.sourceDetection.n_negative") / np.where(
            mpix > 0, mpix, np.nan
        )
    key = "detection.negative"
    yield Measured(
        key, "negative detections a Mpixel", *estimate(mean, values, np.arange(len(values)), key),
        n=int(np.isfinite(values).sum()), of="CCD-visits", requirement=target(1.0, "own target"),
        ccds=data.contributions(values),
    )  # fmt: skip


@metric("detection.map_width", "noise of the detection map", "depth")
def map_width(data: RunData) -> Iterator[Measured]:
    """Robust width of the map that sources are found on, over what the variance plane says: 1 where
    noise is known. Undetected sources widen it. Median over CCD-visits."""
    values = data.by_exposure("sfm.sourceDetection.map_width")
    key = "detection.map_width"
    yield Measured(
        key, "width of the detection map", *estimate(median, values, np.arange(len(values)), key),
        n=int(np.isfinite(values).sum()), of="CCD-visits", ccds=data.contributions(values),
    )  # fmt: skip
