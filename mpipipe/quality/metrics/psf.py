"""The PSF: seeing, ellipticity, and what its model leaves (TE1, TE2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpipipe.quality.scorecard.ccds import by_ccd
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable, Requirement, srd, target
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, mean, median, rms

BRIGHT = 100.0
"""Least SNR of the stars whose ellipticities are correlated."""
MOST_STARS = 400
"""Of a visit; of more some, evenly."""


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


@metric("TE", "correlation of residual ellipticities", "PSF")
def te(data: RunData) -> Iterator[Measured]:
    """TE1, TE2: mean of e1 e1' + e2 e2' over pairs of stars in a visit, at distances up to 1 arcmin
    (TE1) and from 5 arcmin on (TE2), where e is the ellipticity of a star of SNR 100 or more by its
    adaptive moments less that of the PSF model at its place. Pairs are weighted by the square of
    the SNR of both, as noise is not correlated but scatters; intervals are over visits. The size of
    the number is judged. TE2 of the SRD is of the average over the survey, so that of single visits
    is only reported."""
    for band in data.bands:
        try:
            first, second = _correlations(data, band)
        except NotMeasurable as reason:
            for name in ("TE1", "TE2"):
                yield Measured(f"{name}.{band}", f"{name}, {band}", why=str(reason))
            continue
        limits = srd(1e-5, 2e-5, 3e-5)
        asked = Requirement(limits.limits, "SRD", centre=0.0)
        yield _te(data, f"TE1.{band}", f"TE1 correlation at ≤ 1 arcmin, {band}", first, asked)
        yield _te(data, f"TE2.{band}", f"TE2 correlation at ≥ 5 arcmin, {band}", second, None)


def _te(
    data: RunData, key: str, title: str, found: np.ndarray, asked: Requirement | None
) -> Measured:
    """From rows of visit, sum of weighted products, sum of weights, pairs."""
    has = found[:, 2] > 0
    if not has.any():
        return Measured(key, title, why="no visit has two bright stars at such distances")
    visits, total, weights, n = found[has].T
    each = total / weights
    # A mean with weights is that of values repeated: weights as shares, in steps of 1/1000.
    times = np.maximum(np.round(1000.0 * weights / weights.max()), 1).astype(int)
    order = np.repeat(np.arange(len(each)), times)
    value = float(total.sum() / weights.sum())
    interval = estimate(mean, each[order], order, key)
    e = data.exposures
    of_visit = dict(zip(visits.astype(int).tolist(), each.tolist(), strict=True))
    ccds = np.array([of_visit.get(v, np.nan) for v in e["visit"].tolist()])
    return Measured(
        key, title, value, interval.low, interval.high, n=int(n.sum()), of="pairs",
        requirement=asked, note=f"{len(each)} visits", ccds=data.contributions(ccds),
    )  # fmt: skip


def residual_ellipticities(data: RunData, rows: np.ndarray) -> np.ndarray:
    """(n, 2) ellipticities of sources less those of the PSF at their places."""
    s = data.repeats.sources

    def shape(xx: str, yy: str, xy: str) -> np.ndarray:
        ixx, iyy, ixy = (s[name][rows].astype(float) for name in (xx, yy, xy))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([ixx - iyy, 2.0 * ixy], axis=1) / (ixx + iyy)[:, None]

    return shape("ixx", "iyy", "ixy") - shape("psfIxx", "psfIyy", "psfIxy")


def _correlations(data: RunData, band: str) -> tuple[np.ndarray, np.ndarray]:
    """For each visit of the band: visit, sums of weighted products and of weights, pairs; at
    short and at long distances."""
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
    sums = np.zeros((2, len(visits), 4))
    for k, (start, end) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        part = np.arange(start, end)
        if len(part) > MOST_STARS:
            part = part[np.linspace(0, len(part) - 1, MOST_STARS).astype(int)]
        ra, dec = s["ra"][rows[part]], s["dec"][rows[part]]
        apart = _arcmin(ra, dec)
        weights = np.outer(weight[part], weight[part])
        products = weights * (residual[part] @ residual[part].T)
        upper = np.triu(np.ones_like(apart, bool), 1)
        for j, inside in enumerate((upper & (apart <= 1.0), upper & (apart >= 5.0))):
            sums[j, k] = visits[k], products[inside].sum(), weights[inside].sum(), inside.sum()
    return sums[0], sums[1]


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
