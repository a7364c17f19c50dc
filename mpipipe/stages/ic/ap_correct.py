"""ic_apCorrect: from PSF fluxes to the light in the calibration aperture.

The ratio of the two fluxes of a star is noise of the aperture alone: an optimally weighted PSF
flux is part of the aperture's, so its variance is subtracted, not added. Sky that is left at the
stars puts the same number of electrons into every aperture: it is fitted beside the factor, as a
ratio that falls with 1 / flux, and held near zero by what such a residual is expected to be. An
annulus would measure the stars' own wings with it.

The factor is a polynomial of order 2 whose terms above the constant are held near 0 (a ridge), by
as much as cross-validation finds best: where stars are few it becomes constant by itself, and its
error still tells what variation may go unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.ccd_polynomial import MAX_ORDER, CcdPolynomial, n_terms, terms
from mpipipe.data.psf import Psf
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.ic.psf_flux_systematic import psf_flux_systematic
from mpipipe.stages.ic.robust_fit import MAD_TO_SIGMA, LinearFit, least_squares, robust_fit
from mpipipe.stages.stage import StageConfig, stage

_UNFIT = (
    "edge", "saturated", "bad", "cr", "interpolated", "suspect", "streak", "crowded", "centroid",
    "shape", "aperture", "psfFlux",
)  # fmt: skip
_LEAST_SNR = 50.0
_SIZE_TOLERANCE = 0.05
"""Of the PSF's T = ixx + iyy, beyond noise: larger are galaxies, smaller no stars at all."""
_GUESS_TOLERANCE = 0.3
"""The same where the PSF is a guess."""

_LEAST_STARS = 3
_FEW_STARS = 8
"""With fewer, how the factor varies is not looked for."""
_VARIATIONS = (0.003, 0.001, 0.01, 0.03)
"""Standard deviations that terms above the constant may have beforehand, the usual one first."""
_FLOOR = 5e-4
"""Error of a ratio that no number of photons goes below: flat field, pixels at the rim."""
_FOLDS = 5


class ApCorrectConfig(StageConfig):
    """Options of ic_apCorrect."""

    order: int = Field(
        default=2, ge=0, le=MAX_ORDER, description="order of the polynomial over the CCD"
    )
    clip: float = Field(default=3.0, gt=1.0, description="stars farther off are left out, sigma")
    sky_residual: float = Field(
        default=0.02,
        gt=0.0,
        description="sky expected to be left at the stars, in units of a pixel's noise",
    )
    unknown_error: float = Field(
        default=0.02, gt=0.0, description="error of the factor 1 where there are too few stars"
    )


@dataclass(frozen=True, eq=False)
class CorrectionFit:
    """The outcome of `fit_aperture_correction`.

    Attributes
    ----------
    correction
        What was sought.
    used
        (n,) bool: the stars it was made of.
    sky
        Electrons that sky left at the stars adds to the aperture.
    scatter
        Robust width of the ratios about the fit; NaN without one.
    """

    correction: ApertureCorrection
    used: np.ndarray
    sky: float
    scatter: float


def fallback(
    config: ApCorrectConfig, *, psf: Psf, icSrc: np.ndarray, sdqa: Sdqa, warnings: list[str]
) -> Mapping[str, Any]:
    """A factor of 1, with an error."""
    unknown = ApertureCorrection.unknown(config.unknown_error, psf.shape)
    return {
        "aperture_correction": unknown, "psf_systematic": _systematic(icSrc), "icSrc": icSrc,
    }  # fmt: skip


@stage(
    "ic.apCorrect",
    needs=("psf", "icSrc", "sdqa", "warnings"),
    adds=("aperture_correction", "psf_systematic", "icSrc"),
    config=ApCorrectConfig,
    fallback=fallback,
)
def ap_correct(
    config: ApCorrectConfig, *, psf: Psf, icSrc: np.ndarray, sdqa: Sdqa, warnings: list[str]
) -> Mapping[str, Any]:
    """Fit the ratio of aperture to PSF flux over the CCD on good stars."""
    good = good_stars(icSrc, psf)
    stars = icSrc[good]
    fit = fit_aperture_correction(
        (stars["x"], stars["y"]),
        (stars["apInstFlux"], stars["apInstFluxErr"]),
        (stars["psfInstFlux"], stars["psfInstFluxErr"]),
        psf.shape,
        area=np.pi * psf.radius**2,
        config=config,
    )
    correction = fit.correction
    rows = icSrc.copy()
    rows["calib_apcorr_used"] = False
    rows["calib_apcorr_used"][np.flatnonzero(good)[fit.used]] = True
    if not correction.n_stars:
        warnings.append(f"{len(stars)} stars are too few for an aperture correction: 1 is taken")
    ny, nx = psf.shape
    factor, error = correction.at(0.5 * (nx - 1), 0.5 * (ny - 1))
    sdqa.add("ic.apCorrect.n_stars", correction.n_stars)
    sdqa.add("ic.apCorrect.factor", float(factor))
    sdqa.add("ic.apCorrect.error", float(error))
    sdqa.add("ic.apCorrect.variation", _variation(correction))
    sdqa.add("ic.apCorrect.scatter", fit.scatter)
    sdqa.add("ic.apCorrect.sky", fit.sky, "electron")
    systematic = _systematic(rows)
    sdqa.add("ic.apCorrect.psf_flux_systematic", systematic)
    return {"aperture_correction": correction, "psf_systematic": systematic, "icSrc": rows}


def good_stars(rows: np.ndarray, psf: Psf) -> np.ndarray:
    """Which rows of `icSrc` are stars whose two fluxes are both sound, (n,) bool.

    Those of the PSF, and others of SNR above 50 that have its size.
    """
    flags = np.any([rows[f"flag_{name}"] for name in _UNFIT], axis=0)
    fluxes = [rows[f"{kind}InstFlux{err}"] for kind in ("ap", "psf") for err in ("", "Err")]
    measured = np.all([np.isfinite(flux) & (flux > 0) for flux in fluxes], axis=0)
    good: np.ndarray = measured & ~flags & np.isfinite(rows["x"] + rows["y"])
    snr = np.zeros(len(rows))
    snr[good] = (rows["psfInstFlux"] / rows["psfInstFluxErr"])[good]
    of_psf = rows["calib_psf_used"] | rows["calib_psf_reserved"]
    others = np.flatnonzero(good & ~of_psf & (snr > _LEAST_SNR))
    if len(others):
        size = psf.moments(rows["x"][others], rows["y"][others])[:, :2].sum(axis=1)
        ratio = (rows["ixx"][others] + rows["iyy"][others]) / size
        tolerance = _GUESS_TOLERANCE if psf.is_guess else _SIZE_TOLERANCE
        # The error of T of a Gaussian is 2 T / SNR (Bernstein & Jarvis 2002).
        alike = np.abs(ratio - 1.0) < tolerance + 3.0 * 2.0 / snr[others]
        good[others[~alike]] = False
    return good & (of_psf | (snr > _LEAST_SNR))


def fit_aperture_correction(
    position: tuple[np.ndarray, np.ndarray],
    aperture: tuple[np.ndarray, np.ndarray],
    psf: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    *,
    area: float,
    config: ApCorrectConfig | None = None,
) -> CorrectionFit:
    """Aperture correction of these stars; with too few of them, 1 with an error.

    Parameters
    ----------
    position
        x, y, each (n,), pixels.
    aperture, psf
        Flux and error, each (n,), electrons, finite and positive.
    shape
        (ny, nx) of the CCD.
    area
        Of the calibration aperture, pixels.
    """
    config = config or ApCorrectConfig()
    n_stars = len(position[0])
    if n_stars >= _LEAST_STARS:
        fit = _Ratios.of(position, aperture, psf, shape, area, config).fit_best()
        if fit.n_used >= _LEAST_STARS:
            n = n_terms(config.order)
            factors = CcdPolynomial(fit.coefficients[:n], fit.covariance[:n, :n], shape)
            correction = ApertureCorrection(factors, fit.n_used, fit.n_used < _FEW_STARS)
            scatter = MAD_TO_SIGMA * float(np.median(np.abs(fit.residuals[fit.used])))
            return CorrectionFit(correction, fit.used, float(fit.coefficients[n]), scatter)
    unknown = ApertureCorrection.unknown(config.unknown_error, shape)
    return CorrectionFit(unknown, np.zeros(n_stars, bool), 0.0, float("nan"))


@dataclass(frozen=True, eq=False)
class _Ratios:
    """The linear problem: ratio = polynomial(x, y) + sky / flux."""

    design: np.ndarray
    ratio: np.ndarray
    variance: np.ndarray
    sky_error: float
    clip: float

    @classmethod
    def of(
        cls,
        position: tuple[np.ndarray, np.ndarray],
        aperture: tuple[np.ndarray, np.ndarray],
        psf: tuple[np.ndarray, np.ndarray],
        shape: tuple[int, int],
        area: float,
        config: ApCorrectConfig,
    ) -> _Ratios:
        """The problem that measured fluxes pose."""
        flux = np.asarray(psf[0], float)
        variance = np.abs(np.asarray(aperture[1], float) ** 2 - np.asarray(psf[1], float) ** 2)
        sky_variance = np.median(np.maximum(aperture[1] ** 2 - aperture[0], 0.0))
        # A residual common to all pixels adds up over the area, noise over its root.
        sky_error = max(config.sky_residual * float(np.sqrt(sky_variance * area)), 1e-3)
        polynomial = terms(position[0], position[1], shape, config.order)
        return cls(
            np.column_stack([polynomial, 1.0 / flux]),
            np.asarray(aperture[0], float) / flux,
            variance / flux**2 + _FLOOR**2,
            sky_error,
            config.clip,
        )

    def fit_best(self) -> LinearFit:
        """The robust fit with that variation which predicts stars left out best."""
        fit = self._fit(_VARIATIONS[0])
        if fit.n_used < _FEW_STARS or self.design.shape[1] == 2:
            return fit
        losses = [self._loss(variation, fit) for variation in _VARIATIONS]
        best = _VARIATIONS[int(np.argmin(losses))]
        return fit if best == _VARIATIONS[0] else self._fit(best)

    def _fit(self, variation: float) -> LinearFit:
        prior = self._prior(variation)
        return robust_fit(self.design, self.ratio, self.variance, clip=self.clip, prior=prior)

    def _prior(self, variation: float) -> np.ndarray:
        """What is known of the coefficients beforehand, see `least_squares`."""
        n_varying = self.design.shape[1] - 2
        return np.array([np.inf, *[variation] * n_varying, self.sky_error])

    def _loss(self, variation: float, reference: LinearFit) -> float:
        """Mean squared normalised residual of stars, predicted by the other folds."""
        u, v = self.design[:, 1], self.design[:, 2]
        place = np.lexsort((v, u))
        fold = np.empty(len(place), int)
        fold[place] = np.arange(len(place)) % _FOLDS
        total = 0.0
        for k in range(_FOLDS):
            fitted, out = reference.used & (fold != k), fold == k
            coefficients, _ = least_squares(
                self.design[fitted], self.ratio[fitted], reference.variance[fitted],
                self._prior(variation),
            )  # fmt: skip
            squares = (self.ratio - self.design @ coefficients) ** 2 / reference.variance
            total += float(np.minimum(squares[out], self.clip**2).sum())
        return total / len(place)


def _systematic(rows: np.ndarray) -> float:
    """Share of PSF fluxes that is in no noise, by the stars that the PSF was made of."""
    stars = rows[rows["calib_psf_used"]]
    return psf_flux_systematic(stars["psfInstFlux"] / stars["psfInstFluxErr"])


def _variation(correction: ApertureCorrection) -> float:
    """Standard deviation of the factor over the CCD."""
    ny, nx = correction.shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9))
    return float(correction.at(x, y)[0].std())
