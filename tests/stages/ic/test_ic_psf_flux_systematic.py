"""The part of PSF fluxes' errors that is no noise, found on populations that have a known one."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.stages.ic.psf_flux_systematic import PsfFluxSystematic, psf_flux_systematic

SKY = 20.0
AREA = np.pi * 12.0**2
PSF_AREA = 36.0


def measured(seed: int, n: int, share: float, neighbours: float = 0.0) -> PsfFluxSystematic:
    """Of stars of magnitudes 16 to 20, a tenth of which has a bright neighbour in the aperture."""
    rng = np.random.default_rng((seed, n))
    true = 10 ** rng.uniform(4.6, 6.2, n)
    psf_variance, variance = PSF_AREA * SKY**2 + true, AREA * SKY**2 + true
    common = true + np.sqrt(psf_variance) * rng.normal(size=n)
    light = common + np.sqrt(variance - psf_variance) * rng.normal(size=n)
    light += neighbours * rng.exponential(1.0, n)
    light *= np.where(rng.uniform(size=n) < 0.05, 1 + 0.05 * rng.exponential(1.0, n), 1.0)
    flux = common * (1.0 + share * rng.normal(size=n)) / 1.01
    errors = np.sqrt(variance), np.sqrt(psf_variance)
    return psf_flux_systematic((light, errors[0]), (flux, errors[1]), np.full(n, 1.01))


@pytest.mark.parametrize("share", [1e-3, 3e-3, 1e-2])
def test_known_share(share: float) -> None:
    """Right in the mean, with an error that covers it; 40 held-out stars of a CCD."""
    found = [measured(seed, 40, share) for seed in range(30)]
    assert np.mean([one.share for one in found]) == pytest.approx(share, rel=0.35)
    pulls = [(one.share - share) / one.error for one in found]
    assert np.sqrt(np.mean(np.square(pulls))) < 1.6


def test_many_stars_without_any() -> None:
    assert measured(1, 2000, 0.0).share < 5e-4


def test_faint_neighbours_are_not_taken_for_it() -> None:
    """Some hundred electrons in the apertures are no share of the flux."""
    found = [measured(seed, 200, 2e-3, neighbours=300.0).share for seed in range(10)]
    assert np.mean(found) == pytest.approx(2e-3, rel=0.25)


def test_no_stars_give_what_is_usual() -> None:
    none = psf_flux_systematic((np.empty(0),) * 2, (np.empty(0),) * 2, np.empty(0))
    assert 1e-3 < none.share < 4e-3 and none.error > 0.5 * none.share and none.n_stars == 0
    spoilt = np.array([np.nan, -1.0, 0.0])
    same = psf_flux_systematic((spoilt, np.ones(3)), (np.ones(3), np.ones(3)), np.ones(3))
    assert same == none


def test_total_error() -> None:
    total = PsfFluxSystematic(0.002, 0.001, 9).total(np.array([1e6, 10.0]), np.array([1e3, 5.0]))
    np.testing.assert_allclose(total, [np.hypot(1e3, 2e3), 5.0], rtol=1e-4)
