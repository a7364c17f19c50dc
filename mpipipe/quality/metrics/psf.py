"""The PSF: seeing, ellipticity, and what its model leaves (TE1 to TE4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mpipipe.quality.scorecard.ccds import by_ccd
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, Requirement, srd, target
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import (
    Estimate,
    estimate,
    estimate_ratio,
    estimate_units,
    mean,
    median,
    rms,
)

BRIGHT = 100.0
"""Least SNR of the stars whose ellipticities are correlated."""
MOST_STARS = 400
"""Of a visit; of more some, evenly."""
LIMITS = {
    "TE1": srd(1e-5, 2e-5, 3e-5), "TE3": srd(2e-5, 4e-5, 6e-5), "TE4": srd(1e-7, 2e-7, 5e-7),
}  # fmt: skip
"""Of the sizes of correlations. The SRD asks TE1 of averages over the survey, TE3 and TE4 of single
images."""


def fwhm_arcsec(data: RunData) -> np.ndarray:
    """FWHM of each CCD-visit by its PSF; NaN without PSF or WCS."""
    scale = data.by_exposure("ic.wcsDetermination.pixel_scale")
    return np.asarray(data.by_exposure("ic.psfDetermination.fwhm") * scale)


def _of_ccds(
    data: RunData, key: str, title: str, values: np.ndarray, unit: str,
    requirement: Requirement | None = None,
) -> Measured:  # fmt: skip
    """Median over CCD-visits."""
    n = int(np.isfinite(values).sum())
    if not n:
        raise NotMeasurable("no CCD-visit has it")
    units = np.unique(data.exposures["visit"], return_inverse=True)[1]
    return Measured(
        key, title, *estimate(median, values, units, key), unit=unit, n=n, of="CCD-visits",
        requirement=requirement, ccds=data.contributions(values),
    )  # fmt: skip


@metric("psf.fwhm", "seeing", "PSF")
def fwhm(data: RunData) -> Iterator[Measured]:
    """FWHM of the PSF in the middle of a CCD, from its moments; median over the CCD-visits of the
    band."""
    values = fwhm_arcsec(data)
    for band in data.bands:
        of_band = np.where(data.exposures["band"] == band, values, np.nan)
        key, title = f"psf.fwhm.{band}", f"PSF FWHM, {band}"
        if np.isfinite(of_band).any():
            yield _of_ccds(data, key, title, of_band, "arcsec")
        else:
            yield Measured(key, title, why="no CCD-visit of the band has a PSF and a WCS")


@metric("psf.ellipticity", "ellipticity of the PSF", "PSF")
def ellipticity(data: RunData) -> Iterator[Measured]:
    """Size of the ellipticity, (ixx - iyy, 2 ixy) / (ixx + iyy), of the PSF model in the middle of
    a
    CCD; median over CCD-visits. The atmosphere and the telescope make it, the model only tells."""
    values = data.by_exposure("ic.psfDetermination.ellipticity")
    yield _of_ccds(data, "psf.ellipticity", "PSF ellipticity", values, "")


@metric("psf.size_residual", "size of stars against the PSF model", "PSF")
def size_residual(data: RunData) -> Iterator[Measured]:
    """Mean of (T of a star - T of the model) / T, T = ixx + iyy, of stars that were held out of the
    model; the mean over CCD-visits. The project's own target is 0.1 %."""
    values = 100.0 * data.by_exposure("ic.psfDetermination.validation_dT_mean")
    if not np.isfinite(values).any():
        raise NotMeasurable("no PSF was validated on stars held out of it")
    key = "psf.size_residual"
    yield Measured(
        key, "size of held-out stars against the model",
        *estimate(mean, values, np.arange(len(values)), key), unit="%",
        n=int(np.isfinite(values).sum()), of="CCD-visits",
        requirement=target(0.1, "own target", centre=0.0), ccds=data.contributions(values),
    )  # fmt: skip


class Correlations(NamedTuple):
    """Correlations of residual ellipticities at some distances, a row for each visit.

    Attributes
    ----------
    visit
        The visits that have pairs.
    sums
        (n, 3) weighted sums of e1 e1', of e2 e2', and of (e1 e2' + e2 e1') / 2.
    weight
        Sums of the weights.
    noise
        Expected size of each of the three where stars have nothing in common.
    n
        Pairs.
    """

    visit: np.ndarray
    sums: np.ndarray
    weight: np.ndarray
    noise: np.ndarray
    n: np.ndarray


@metric("TE", "correlation of residual ellipticities", "PSF")
def te(data: RunData) -> Iterator[Measured]:
    """E1, E2, Ex: means of e1 e1', e2 e2', (e1 e2' + e2 e1') / 2 over pairs of stars in a visit, e
    the ellipticity of a star of SNR 100 or more by its adaptive moments less that of the PSF model
    at its place. Pairs are weighted by the square of the SNR of both, as noise is not correlated
    but scatters; intervals are over visits. TE1, TE2: E1 + E2 of single visits, averaged over
    visits, at up to 1 arcmin (TE1) and from 5 arcmin on (TE2): the size of TE1 is judged by the
    SRD's numbers, though the SRD asks them of E1, E2 and Ex of averages over the whole survey,
    which single visits do not give; so TE2 is only reported. TE3, TE4: at the same distances the
    median over visits of the size of E1, of E2 and of Ex, the largest of the three, by the SRD's
    numbers for single images (of which it allows 15 % beyond them: told beside). Sizes do not
    average out: where a visit has few pairs, the stars' noise, told beside, is most of TE3, TE4.
    The SRD asks all of r and i."""
    for band in data.bands:
        try:
            near, far = _correlations(data, band)
        except NotMeasurable as reason:
            for name in ("TE1", "TE2", "TE3", "TE4"):
                yield Measured(f"{name}.{band}", f"{name}, {band}", why=str(reason))
            continue
        yield _average(data, "TE1", f"correlation at ≤ 1 arcmin, {band}", near, band)
        yield _average(data, "TE2", f"correlation at ≥ 5 arcmin, {band}", far, band)
        yield _of_images(
            data, "TE3", f"correlation at ≤ 1 arcmin, median visit, {band}", near, band
        )
        yield _of_images(data, "TE4", f"correlation at ≥ 5 arcmin, median visit, {band}", far, band)


def _average(data: RunData, name: str, title: str, found: Correlations, band: str) -> Measured:
    """E1 + E2, over all visits."""
    key, title = f"{name}.{band}", f"{name} {title}"
    if not len(found.visit):
        return Measured(key, title, why="no visit has two bright stars at such distances")
    total = found.sums[:, 0] + found.sums[:, 1]
    asked = LIMITS.get(name)
    return Measured(
        key, title, *estimate_ratio(total, found.weight, key), n=int(found.n.sum()), of="pairs",
        requirement=None if asked is None else Requirement(asked.limits, "SRD", centre=0.0),
        note=f"{len(found.visit)} visits", ccds=_of_visits(data, found, total / found.weight),
    )  # fmt: skip


def _of_images(data: RunData, name: str, title: str, found: Correlations, band: str) -> Measured:
    """The largest of the medians over visits of the sizes of E1, E2, Ex."""
    key, title = f"{name}.{band}", f"{name} {title}"
    if not len(found.visit):
        return Measured(key, title, why="no visit has two bright stars at such distances")
    sizes = np.abs(found.sums / found.weight[:, None])
    asked = LIMITS[name]

    order = np.argsort(sizes, axis=0)

    def largest(counts: np.ndarray) -> np.ndarray:
        medians = [median(of[by], counts[..., by]) for of, by in zip(sizes.T, order.T, strict=True)]
        return np.max(medians, axis=0)

    value: Estimate = estimate_units(largest, sizes, len(sizes), key)
    worst = sizes.max(axis=1)
    beyond = 100.0 * float(np.mean(worst > asked.limits["design"]))
    return Measured(
        key, title, *value, n=int(found.n.sum()), of="pairs", requirement=asked,
        note=f"{len(worst)} visits, {beyond:.0f} % of them beyond the design's; noise of stars "
        f"makes about {0.6745 * float(np.median(found.noise)):.1g}",
        ccds=_of_visits(data, found, worst),
    )  # fmt: skip


def _of_visits(data: RunData, found: Correlations, values: np.ndarray) -> np.ndarray:
    """Contributions of CCD-visits: all CCDs of a visit have its number."""
    of_visit = dict(zip(found.visit.tolist(), values.tolist(), strict=True))
    return data.contributions(
        np.array([of_visit.get(visit, np.nan) for visit in data.exposures["visit"].tolist()])
    )


def residual_ellipticities(data: RunData, rows: np.ndarray) -> np.ndarray:
    """(n, 2) ellipticities of sources less those of the PSF at their places."""
    s = data.repeats.sources

    def shape(xx: str, yy: str, xy: str) -> np.ndarray:
        ixx, iyy, ixy = (s[name][rows].astype(float) for name in (xx, yy, xy))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([ixx - iyy, 2.0 * ixy], axis=1) / (ixx + iyy)[:, None]

    return shape("ixx", "iyy", "ixy") - shape("psfIxx", "psfIyy", "psfIxy")


def _correlations(data: RunData, band: str) -> tuple[Correlations, Correlations]:
    """Of the visits of a band: at short distances, and at long ones."""
    found = data.repeats
    s = found.sources
    fine = found.is_star & found.is_sound & found.in_band(band) & (found.snr >= BRIGHT)
    rows = np.flatnonzero(fine)
    residual = residual_ellipticities(data, rows)
    known = np.isfinite(residual).all(axis=1) & (np.abs(residual) < 0.5).all(axis=1)
    rows, residual = rows[known], residual[known]
    if not len(rows):
        raise NotMeasurable("no bright star of the band has a shape")
    order = np.lexsort((s["id"][rows], s["visit"][rows]))
    rows, residual = rows[order], residual[order]
    weight = np.minimum(found.snr[rows], 1000.0) ** 2
    visits, starts = np.unique(s["visit"][rows], return_index=True)
    sums = np.zeros((2, len(visits), 6))
    for k, (start, end) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        part = np.arange(start, end)
        if len(part) > MOST_STARS:
            part = part[np.linspace(0, len(part) - 1, MOST_STARS).astype(int)]
        sums[:, k] = _of_visit(
            _arcmin(s["ra"][rows[part]], s["dec"][rows[part]]), residual[part], weight[part]
        )
    return _chosen(visits, sums[0]), _chosen(visits, sums[1])


def _of_visit(apart: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(2, 6) of short and of long distances: weighted sums of the three products, sum of weights,
    square of the noise of the sums, pairs."""
    weights = np.outer(weight, weight)
    one, two = residual.T
    cross = np.outer(one, two)
    products = [np.outer(one, one), np.outer(two, two), 0.5 * (cross + cross.T)]
    upper = np.triu(np.ones_like(apart, bool), 1)
    sums = np.zeros((2, 6))
    for row, inside in zip(sums, (upper & (apart <= 1.0), upper & (apart >= 5.0)), strict=True):
        of_pairs = weights[inside]
        both = [of_pairs * product[inside] for product in products]
        squares = float(np.mean([(values**2).sum() for values in both[:2]]))
        row[:] = [*(values.sum() for values in both), of_pairs.sum(), squares, len(of_pairs)]
    return sums


def _chosen(visits: np.ndarray, sums: np.ndarray) -> Correlations:
    has = sums[:, 5] > 0
    weight = sums[has, 3]
    noise = np.sqrt(sums[has, 4]) / weight
    return Correlations(visits[has], sums[has, :3], weight, noise, sums[has, 5])


def _arcmin(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(n, n) distances."""
    a, d = np.radians(ra), np.radians(dec)
    v = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    square = np.maximum(2.0 - 2.0 * (v @ v.T), 0.0)
    return np.asarray(np.degrees(2.0 * np.arcsin(np.sqrt(square) / 2.0)) * 60.0)


@metric("psf.ellipticity_residual", "ellipticity of stars against the model", "PSF")
def ellipticity_residual(data: RunData) -> Iterator[Measured]:
    """rms, a component, of the ellipticity of stars of SNR 100 or more less that of the PSF model
    at
    their places. The noise of the stars' moments is most of it."""
    found = data.repeats
    rows = np.flatnonzero(found.is_star & found.is_sound & (found.snr >= BRIGHT))
    residual = residual_ellipticities(data, rows)
    known = np.isfinite(residual).all(axis=1) & (np.abs(residual) < 0.5).all(axis=1)
    rows, values = rows[known], residual[known]
    if not len(rows):
        raise NotMeasurable("no bright star has a shape")
    key = "psf.ellipticity_residual"
    s = found.sources
    both = np.tile(rows, 2)
    yield Measured(
        key, "ellipticity of stars against the model, rms",
        *estimate(rms, values.T.ravel(), found.owner[both], key), n=len(rows), of="measurements",
        ccds=by_ccd(data, s["visit"][both], s["ccdNumber"][both], values.T.ravel(), rms),
    )  # fmt: skip
