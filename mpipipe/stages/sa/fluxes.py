"""Fluxes of objects band by band: means, distribution and variability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from mpipipe.data.association import FLUX_KINDS, PERCENTILES
from mpipipe.stages.sa.segments import weigh

_AB_ZERO = 31.4
"""AB magnitude of 1 nJy."""
_POGSON = 2.5 / np.log(10.0)
_DISTRIBUTION = (
    "psfFluxRms",
    "psfFluxChi2",
    "psfFluxMin",
    "psfFluxMax",
    *(f"psfFluxPercentile{percent:02d}" for percent in PERCENTILES),
    "psfFluxStetsonJ",
    "psfFluxVonNeumann",
)
"""In the order in which `_distributions` gives them."""


def fluxes(
    rows: np.ndarray,
    bounds: np.ndarray,
    bands: tuple[str, ...],
    pair_interval: float,
) -> dict[str, np.ndarray]:
    """Columns of fluxes, magnitudes, colours and variability of objects.

    Saturated sources, those whose PSF fit failed, and those that are the light of several objects
    are left out of a band where there are others.

    Parameters
    ----------
    rows, bounds
        Sources sorted by object, band and time, and where every band of every object begins.
    pair_interval
        Days within which successive visits are a pair of Stetson's J.
    """
    clean = ~(rows["flag_saturated"] | rows["flag_psfFlux"] | rows["flag_merged"])
    mjd = np.ascontiguousarray(rows["mjd"])
    columns: dict[str, np.ndarray] = {}
    for kind in FLUX_KINDS:
        flux = rows[f"{kind}Flux"].astype(float)
        error = rows[f"{kind}FluxErr"].astype(float)
        count, mean, mean_error = _means(flux, error, clean, bounds)
        for b, band in enumerate(bands):
            columns[f"{kind}FluxN_{band}"] = count[:, b]
            columns[f"{kind}FluxMean_{band}"] = mean[:, b]
            columns[f"{kind}FluxMeanErr_{band}"] = mean_error[:, b]
        if kind == "psf":
            columns |= _magnitudes(mean, mean_error, bands)
            columns |= _variability(flux, error, clean, bounds, mjd, bands, pair_interval)
    return columns


@njit(cache=True)
def _means(
    flux: np.ndarray, error: np.ndarray, clean: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, weighted mean and its error for every (object, band)."""
    shape = (len(bounds), bounds.shape[1] - 1)
    count = np.zeros(shape, np.int64)
    mean, mean_error = np.full(shape, np.nan), np.full(shape, np.nan)
    weights = np.empty(len(flux))
    for k in range(shape[0]):
        for b in range(shape[1]):
            i, j = bounds[k, b], bounds[k, b + 1]
            n, known = weigh(flux[i:j], error[i:j], clean[i:j], weights[i:j])
            count[k, b] = n
            if n > 0:
                mean[k, b], total = _mean(flux[i:j], weights[i:j])
                if known:
                    mean_error[k, b] = 1.0 / np.sqrt(total)
    return count, mean, mean_error


@njit(cache=True)
def _mean(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean, and the sum of the weights."""
    total, weight = 0.0, 0.0
    for i in range(len(values)):
        if weights[i] > 0.0:
            total += weights[i] * values[i]
            weight += weights[i]
    return total / weight, weight


def _magnitudes(
    mean: np.ndarray, error: np.ndarray, bands: tuple[str, ...]
) -> Mapping[str, np.ndarray]:
    """AB magnitudes of every band, and colours of neighbouring ones."""
    known = np.where(mean > 0.0, mean, np.nan)
    magnitude, magnitude_error = _AB_ZERO - 2.5 * np.log10(known), _POGSON * error / known
    columns = {}
    for b, band in enumerate(bands):
        columns[f"psfMag_{band}"] = magnitude[:, b]
        columns[f"psfMagErr_{band}"] = magnitude_error[:, b]
    for b, (blue, red) in enumerate(zip(bands, bands[1:], strict=False)):
        columns[f"psfColor_{blue}_{red}"] = magnitude[:, b] - magnitude[:, b + 1]
        columns[f"psfColorErr_{blue}_{red}"] = np.hypot(
            magnitude_error[:, b], magnitude_error[:, b + 1]
        )
    return columns


def _variability(
    flux: np.ndarray,
    error: np.ndarray,
    clean: np.ndarray,
    bounds: np.ndarray,
    mjd: np.ndarray,
    bands: tuple[str, ...],
    pair_interval: float,
) -> dict[str, np.ndarray]:
    from scipy.special import chdtrc

    percents = np.array(PERCENTILES, float)
    table, normalised = _distributions(flux, error, clean, bounds, mjd, percents, pair_interval)
    columns = {
        f"{name}_{band}": table[:, b, place]
        for b, band in enumerate(bands)
        for place, name in enumerate(_DISTRIBUTION)
    }
    chi2, dof, stetson = _overall(table[:, :, 1], normalised, bounds, mjd, pair_interval)
    columns["variabilityChi2"] = np.where(dof > 0, chi2, np.nan)
    columns["variabilityDof"] = dof
    columns["constancyProbability"] = np.where(dof > 0, chdtrc(np.maximum(dof, 1), chi2), np.nan)
    columns["stetsonJ"] = stetson
    return columns


@njit(cache=True)
def _distributions(
    flux: np.ndarray,
    error: np.ndarray,
    clean: np.ndarray,
    bounds: np.ndarray,
    mjd: np.ndarray,
    percents: np.ndarray,
    pair_interval: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(n_objects, n_bands, len(_DISTRIBUTION)), and every source's normalised residual.

    That is (flux - mean) / error times sqrt(n / (n - 1)) (Stetson 1996, PASP 108, 851); NaN for
    sources that are not taken.
    """
    n_objects, n_bands = len(bounds), bounds.shape[1] - 1
    n_percents = len(percents)
    table = np.full((n_objects, n_bands, 6 + n_percents), np.nan)
    normalised = np.full(len(flux), np.nan)
    weights = np.empty(len(flux))
    for k in range(n_objects):
        for b in range(n_bands):
            i, j = bounds[k, b], bounds[k, b + 1]
            n, known = weigh(flux[i:j], error[i:j], clean[i:j], weights[i:j])
            if n == 0:
                continue
            row = table[k, b]
            taken = flux[i:j][weights[i:j] > 0.0]
            in_order = np.sort(taken)
            row[2], row[3] = in_order[0], in_order[-1]
            for p in range(n_percents):
                row[4 + p] = _percentile(in_order, percents[p])
            if n < 2:
                continue
            variance, successive = _spread(taken)
            row[0] = np.sqrt(variance)
            if n > 2 and variance > 0.0:
                row[5 + n_percents] = successive / variance
            if known:
                mean, _ = _mean(flux[i:j], weights[i:j])
                row[1] = _normalise(flux[i:j], weights[i:j], mean, n, normalised[i:j])
                row[4 + n_percents] = _stetson(normalised[i:j], mjd[i:j], pair_interval)
    return table, normalised


@njit(cache=True)
def _percentile(in_order: np.ndarray, percent: float) -> float:
    """Linear between the values."""
    place = 0.01 * percent * (len(in_order) - 1)
    low = min(int(place), len(in_order) - 1)
    high = min(low + 1, len(in_order) - 1)
    return in_order[low] + (place - low) * (in_order[high] - in_order[low])


@njit(cache=True)
def _spread(values: np.ndarray) -> tuple[float, float]:
    """Variance, and mean square of successive differences (von Neumann 1941)."""
    n = len(values)
    mean = 0.0
    for value in values:
        mean += value / n
    variance, successive = 0.0, 0.0
    for i in range(n):
        variance += (values[i] - mean) ** 2 / (n - 1)
        if i > 0:
            successive += (values[i] - values[i - 1]) ** 2 / (n - 1)
    return variance, successive


@njit(cache=True)
def _normalise(
    values: np.ndarray, weights: np.ndarray, mean: float, n: int, normalised: np.ndarray
) -> float:
    """Fill the normalised residuals of the values taken; give their chi2."""
    chi2 = 0.0
    bias = np.sqrt(n / (n - 1))
    for i in range(len(values)):
        if weights[i] > 0.0:
            residual = (values[i] - mean) * np.sqrt(weights[i])
            chi2 += residual * residual
            normalised[i] = bias * residual
    return chi2


@njit(cache=True)
def _stetson(normalised: np.ndarray, mjd: np.ndarray, pair_interval: float) -> float:
    """Stetson's J (1996, PASP 108, 851) of residuals in order of time; NaN without any."""
    total, n_terms = 0.0, 0
    waiting = -1
    for i in range(len(normalised)):
        if not np.isfinite(normalised[i]):
            continue
        if waiting >= 0 and mjd[i] - mjd[waiting] <= pair_interval:
            product = normalised[waiting] * normalised[i]
            waiting = -1
        else:
            if waiting >= 0:
                single = normalised[waiting] ** 2 - 1.0
                total += np.sign(single) * np.sqrt(abs(single))
                n_terms += 1
            waiting = i
            continue
        total += np.sign(product) * np.sqrt(abs(product))
        n_terms += 1
    if waiting >= 0:
        single = normalised[waiting] ** 2 - 1.0
        total += np.sign(single) * np.sqrt(abs(single))
        n_terms += 1
    return total / n_terms if n_terms > 0 else np.nan


@njit(cache=True)
def _overall(
    chi2: np.ndarray,
    normalised: np.ndarray,
    bounds: np.ndarray,
    mjd: np.ndarray,
    pair_interval: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """chi2 and degrees of freedom over all bands, Stetson's J of all bands in order of time."""
    n_objects, n_bands = chi2.shape
    totals, dof = np.zeros(n_objects), np.zeros(n_objects, np.int64)
    stetson = np.full(n_objects, np.nan)
    for k in range(n_objects):
        start, end = bounds[k, 0], bounds[k, n_bands]
        for b in range(n_bands):
            if np.isfinite(chi2[k, b]):
                totals[k] += chi2[k, b]
                dof[k] -= 1
        for i in range(start, end):
            dof[k] += np.isfinite(normalised[i])
        order = np.argsort(mjd[start:end], kind="mergesort")
        stetson[k] = _stetson(normalised[start:end][order], mjd[start:end][order], pair_interval)
    return totals, dof, stetson
