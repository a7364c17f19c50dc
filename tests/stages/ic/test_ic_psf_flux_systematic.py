"""Errors of PSF fluxes beyond their noise are stated by the light that the PSF was made of."""

import numpy as np
import pytest

from mpipipe.stages.ic.psf_flux_systematic import psf_flux_systematic


def test_more_light_makes_a_better_model() -> None:
    few = psf_flux_systematic(np.full(20, 450.0))
    many = psf_flux_systematic(np.full(300, 500.0))
    assert 1e-3 < few < 4e-3
    assert 4e-4 < many < 8e-4


def test_without_stars_it_is_the_share_of_a_guess() -> None:
    worst = psf_flux_systematic(np.zeros(0))
    assert worst > 0.01
    assert psf_flux_systematic(np.array([np.nan])) == worst
    assert psf_flux_systematic(np.array([0.1])) == worst


def test_stars_without_a_flux_do_not_count() -> None:
    snr = np.full(50, 300.0)
    with_lost = np.append(snr, [np.nan, np.inf]).astype(np.float32)
    assert psf_flux_systematic(with_lost) == pytest.approx(psf_flux_systematic(snr))
