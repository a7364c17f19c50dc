"""The aperture correction: known answers, few stars, sky left at the stars, wrong stars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mpipipe.data.icsrc import ICSRC
from mpipipe.data.psf import Psf
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.ic.ap_correct import (
    ApCorrectConfig,
    ap_correct,
    fit_aperture_correction,
    good_stars,
)

SHAPE = (2000, 2048)
FWHM = 4.0
RADIUS = 3 * FWHM
AREA = np.pi * RADIUS**2
SKY = 20.0
"""Noise of a pixel, electrons."""
MOMENT = (FWHM / 2.354820045) ** 2

Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]
GRID = np.meshgrid(np.linspace(0, 2047, 9), np.linspace(0, 1999, 9))


def flat(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1.003 + 0.0 * u


def bowl(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1.0 + 0.006 * u - 0.01 * u * v + 0.005 * v**2


def at(surface: Surface, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return surface(2 * x / 2047 - 1, 2 * y / 1999 - 1)


def stars(
    seed: int, n: int, surface: Surface, sky: float = 0.0, neighbours: float = 0.0
) -> np.ndarray:
    """Rows of icSrc whose two fluxes share their photons, as those of real stars do.

    `sky` is left in each aperture (electrons); a share of the stars has `neighbours`.
    """
    rng = np.random.default_rng((seed, n))
    rows = ICSRC.empty(n)
    rows["id"] = np.arange(n)
    rows["x"], rows["y"] = rng.uniform(0, 2047, n), rng.uniform(0, 1999, n)
    flux = 10 ** rng.uniform(3.9, 5.5, n)
    psf_variance = 4 * np.pi * MOMENT * SKY**2 + flux
    aperture_variance = AREA * SKY**2 + flux
    psf = flux + np.sqrt(psf_variance) * rng.normal(size=n)
    rest = np.sqrt(aperture_variance - psf_variance) * rng.normal(size=n)
    aperture = at(surface, rows["x"], rows["y"]) * psf + rest + sky
    blended = rng.uniform(size=n) < neighbours
    aperture *= np.where(blended, 1 + rng.exponential(0.04, n), 1.0)
    rows["psfInstFlux"], rows["psfInstFluxErr"] = psf, np.sqrt(psf_variance)
    rows["apInstFlux"], rows["apInstFluxErr"] = aperture, np.sqrt(aperture_variance)
    rows["ixx"] = rows["iyy"] = MOMENT
    rows["calib_psf_used"] = True
    return rows


def fitted(rows: np.ndarray) -> Any:
    return fit_aperture_correction(
        (rows["x"], rows["y"]),
        (rows["apInstFlux"], rows["apInstFluxErr"]),
        (rows["psfInstFlux"], rows["psfInstFluxErr"]),
        SHAPE,
        area=AREA,
    )


def errors_and_pulls(n: int, surface: Surface, seeds: int, **more: float) -> tuple[float, float]:
    """Rms error of the factor over the CCD, and of the error by the quoted one."""
    errors, pulls = [], []
    for seed in range(seeds):
        factor, error = fitted(stars(seed, n, surface, **more)).correction.at(*GRID)
        errors.append(factor - at(surface, *GRID))
        pulls.append(errors[-1] / error)
    return float(np.std(errors)), float(np.sqrt(np.mean(np.square(pulls))))


@pytest.mark.parametrize(
    ("n", "surface", "rms"),
    [(8, flat, 5e-3), (20, flat, 3e-3), (50, flat, 1.5e-3), (200, flat, 1e-3), (200, bowl, 1.2e-3)],
)
def test_factor_over_the_ccd(n: int, surface: Surface, rms: float) -> None:
    """As good as photons allow, with errors that are what they say."""
    error, pull = errors_and_pulls(n, surface, 25)
    assert error < rms
    assert 0.6 < pull < 1.3


def test_variation_is_worth_finding() -> None:
    """A constant factor would be off by 6 e-3."""
    error, _ = errors_and_pulls(200, bowl, 10)
    assert error < 0.2 * at(bowl, *GRID).std()


def test_neighbours_are_left_out() -> None:
    error, pull = errors_and_pulls(100, flat, 25, neighbours=0.1)
    assert error < 1.5e-3 and pull < 1.4


def test_sky_left_at_the_stars_is_no_factor() -> None:
    """300 electrons in each aperture (0.03 of a pixel's noise): 1 % of the stars in the middle."""
    fits = [fitted(stars(seed, 100, flat, sky=300.0)) for seed in range(25)]
    factors = [float(fit.correction.at(1023.5, 999.5)[0]) for fit in fits]
    assert np.mean(factors) == pytest.approx(1.003, abs=6e-4)
    assert np.mean([fit.sky for fit in fits]) == pytest.approx(300.0, rel=0.4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_stars_give_one_with_an_error(n: int) -> None:
    fit = fitted(stars(1, n, flat))
    factor, error = fit.correction.at(*GRID)
    assert (factor == 1.0).all() and (error == ApCorrectConfig().unknown_error).all()
    assert fit.correction.is_simplified and fit.correction.n_stars == 0
    assert not fit.used.any()


@pytest.mark.parametrize("n", [3, 5])
def test_few_stars_give_a_simplified_one(n: int) -> None:
    """Hardly any variation, and an error that tells what may go unseen."""
    fit = fitted(stars(2, n, bowl))
    assert fit.correction.is_simplified
    error, pull = errors_and_pulls(n, bowl, 40)
    assert error < 0.02 and pull < 2.0


def test_nonsense_gives_a_value() -> None:
    """Fluxes that have nothing to do with each other, all at one place."""
    rows = stars(3, 30, flat)
    rows["x"] = rows["y"] = 7.0
    rng = np.random.default_rng(1)
    rows["apInstFlux"] = 10 ** rng.uniform(-3, 7, 30)
    factor, error = fitted(rows).correction.at(*GRID)
    assert np.isfinite(factor).all() and np.isfinite(error).all()


class RoundPsf(Psf):
    """A PSF of which only the moments are asked for."""

    kind = "round"
    fwhm, radius, shape = FWHM, RADIUS, SHAPE

    def __init__(self, n_stars: int = 50) -> None:
        self.n_stars = n_stars

    @property
    def size(self) -> int:
        raise NotImplementedError

    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        raise NotImplementedError

    def moments(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.tile([MOMENT, MOMENT, 0.0], (len(x), 1))

    def arrays(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Psf:
        raise NotImplementedError


def test_which_stars_are_good() -> None:
    """No flag, sound fluxes, and the PSF's own stars or bright ones of its size."""
    rows = stars(4, 10, flat)
    rows["psfInstFluxErr"] = rows["psfInstFlux"] / 200
    rows["calib_psf_used"][1:] = False
    rows["ixx"][2:4] *= 1.3  # a galaxy
    rows["ixx"][2:4], rows["iyy"][3] = 1.3 * MOMENT, 0.7 * MOMENT
    rows["psfInstFluxErr"][4] = rows["psfInstFlux"][4] / 20
    rows["flag_crowded"][5] = rows["flag_saturated"][6] = True
    rows["psfInstFlux"][7], rows["apInstFlux"][8] = np.nan, -5.0
    expected = [True, True, False, True, False, False, False, False, False, True]
    assert good_stars(rows, RoundPsf()).tolist() == expected


def test_stage_marks_its_stars_and_tells_its_numbers() -> None:
    rows, sdqa = stars(5, 60, flat), Sdqa()
    rows["flag_crowded"][:10] = True
    before = rows.copy()
    warnings: list[str] = []
    made = ap_correct.run(
        ApCorrectConfig(), psf=RoundPsf(), icSrc=rows, sdqa=sdqa, warnings=warnings
    )
    used = made["icSrc"]["calib_apcorr_used"]
    assert not used[:10].any() and used[10:].sum() > 45
    assert sdqa.get("ic.apCorrect.n_stars") == used.sum()
    assert sdqa.get("ic.apCorrect.factor") == pytest.approx(1.003, abs=0.003)
    assert 0 < sdqa.get("ic.apCorrect.error") < 0.003
    assert not warnings
    np.testing.assert_array_equal(rows, before)


def test_stage_without_stars_warns() -> None:
    warnings: list[str] = []
    made = ap_correct.run(
        ApCorrectConfig(), psf=RoundPsf(0), icSrc=ICSRC.empty(), sdqa=Sdqa(), warnings=warnings
    )
    assert made["aperture_correction"].is_simplified
    assert "too few" in warnings[0]
    given = {"psf": RoundPsf(), "icSrc": ICSRC.empty(), "sdqa": Sdqa(), "warnings": warnings}
    assert ap_correct.fallback is not None
    made = ap_correct.fallback(ApCorrectConfig(), **given)
    assert made["aperture_correction"].at(0.0, 0.0)[0] == 1.0
