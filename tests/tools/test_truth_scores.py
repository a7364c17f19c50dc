"""The scores by which image characterization is judged, on errors that are known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")


@pytest.fixture(scope="module")
def scores(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_truth", repo / "tools" / "_truth.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_truth"] = module
    spec.loader.exec_module(module)
    return module


def gaussians(size: int, xx: float, yy: float, xy: float = 0.0, x: float = 0.0) -> np.ndarray:
    """Nine equal stamps of a Gaussian with these moments, shifted by x."""
    j, i = np.mgrid[:size, :size] - size // 2
    form = (yy * (i - x) ** 2 - 2 * xy * (i - x) * j + xx * j**2) / (xx * yy - xy**2)
    stamp = np.exp(-0.5 * form)
    return np.repeat(stamp[None] / stamp.sum(), 9, axis=0)


@pytest.fixture
def truth(scores: ModuleType):  # type: ignore[no-untyped-def]
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 60.0], [200, 150], [-5e-5, 5e-5]
    columns = [("kind", "i2"), ("x", "f8"), ("y", "f8"), ("flux", "f8")]
    sources = np.array(
        [
            (0, 100, 100, 1e4),
            (0, 108, 100, 100.0),  # one per cent of its neighbour: harmless
            (0, 200, 100, 1e4),
            (1, 206, 100, 1e3),  # a galaxy too near to the star before
            (0, 300, 100, 1e4),  # next to a full pixel
            (0, 3, 200, 1e4),  # at the edge
        ],
        dtype=columns,
    )
    spoiled = np.zeros((300, 400), bool)
    spoiled[103, 300] = True
    stamps = gaussians(31, 4.0, 4.0)
    centres = np.zeros((9, 2))
    return scores.CcdTruth(1, "ccd", "r", sources, stamps, centres, wcs, spoiled)


def test_a_known_size_and_ellipticity_are_found(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    found = scores.psf_errors(truth, gaussians(35, 4.4, 3.8, 0.1))
    assert found.size == pytest.approx(8.2 / 8.0 - 1, abs=1e-4)
    assert found.e1 == pytest.approx(0.6 / 8.2, abs=1e-4)
    assert found.e2 == pytest.approx(0.2 / 8.2, abs=1e-4)


def test_a_shift_of_the_model_is_no_error_of_the_psf(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    found = scores.psf_errors(truth, gaussians(31, 4.0, 4.0, x=0.2))
    assert np.abs(found.size).max() < 1e-4
    assert found.residual.max() < 1e-4


def test_the_residual_is_that_of_noise_put_in(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    noise = 1e-4 * np.random.default_rng(1).normal(size=truth.stamps.shape)
    found = scores.psf_errors(truth, truth.stamps + noise)
    j, i = np.mgrid[:31, :31] - 15
    circle = np.hypot(i, j) <= 3 * truth.fwhm
    wanted = 1e-4 * np.sqrt(circle.sum()) / np.linalg.norm(truth.stamps[0])
    assert np.median(found.residual) == pytest.approx(wanted, rel=0.1)


def test_errors_of_a_wcs_are_along_east_and_north(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    moved = truth.wcs.deepcopy()
    moved.wcs.crval = [150.0 + 7 / 3.6e6 / np.cos(np.radians(60.0)), 60.0 - 3 / 3.6e6]
    errors = scores.wcs_errors(truth, moved)
    assert errors[:, 0] == pytest.approx(7.0, abs=0.01)
    assert errors[:, 1] == pytest.approx(-3.0, abs=0.01)


def test_lone_stars_have_no_neighbour_no_full_pixel_and_no_edge(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    assert scores.isolated_stars(truth).tolist() == [0]


def test_the_correlation_is_that_of_all_pairs(scores: ModuleType) -> None:
    random = np.random.default_rng(2)
    groups = [scores.Ellipticities(*random.uniform(0.1, 1.0, (5, 40))) for _ in range(2)]
    edges = np.array([0.0, 0.2, 0.5])
    total, weights = np.zeros(2), np.zeros(2)
    for stars in groups:
        for i in range(40):
            for j in range(i):
                distance = np.hypot(stars.x[i] - stars.x[j], stars.y[i] - stars.y[j])
                place = int(np.searchsorted(edges, distance, side="right")) - 1
                if place < 2:
                    weight = (stars.noise[i] * stars.noise[j]) ** -2
                    product = stars.e1[i] * stars.e1[j] + stars.e2[i] * stars.e2[j]
                    total[place] += weight * product
                    weights[place] += weight
    xi, error = scores.ellipticity_correlation(groups, edges)
    assert xi == pytest.approx(total / weights, rel=1e-12)
    assert error == pytest.approx(np.sqrt(2 / weights), rel=1e-12)


def test_noise_of_the_correlation_is_what_it_says(scores: ModuleType) -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(200):
        x, y = random.uniform(0, 1, (2, 30))
        e1, e2 = 0.1 * random.normal(size=(2, 30))
        stars = scores.Ellipticities(x, y, e1, e2, np.full(30, 0.1))
        xi, error = scores.ellipticity_correlation([stars], np.array([0.0, 2.0]))
        found.append(xi[0] / error[0])
    assert np.std(found) == pytest.approx(1.0, abs=0.2)


def test_a_measured_source_is_the_nearest_true_one(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    x, y = np.array([200.5, 100.4, 350.0]), np.array([100.0, 100.0, 100.0])
    measured, true = scores.matched(x, y, truth, np.array([0, 2, 4]))
    assert measured.tolist() == [1, 0]
    assert true.tolist() == [0, 2]


def test_a_model_without_light_has_no_score(scores: ModuleType, truth) -> None:  # type: ignore[no-untyped-def]
    found = scores.psf_errors(truth, np.zeros((9, 31, 31)))
    assert np.isnan([found.size, found.e1, found.residual]).all()
