"""PSFs by Piff: fitted to known stars, kept as plain arrays; and what is said without Piff."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from mpipipe.data.circle import sum_inside
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.piff_psf import PiffPsf
from mpipipe.stages.ic.piff_psf_fit import fit_piff
from mpipipe.stages.ic.psf_stars import PsfFit, PsfOptions
from tests.stages.ic.toy_psf import SHAPE, toy_stars, true_image


def made_up(order: int = 1) -> PiffPsf:
    """A round Gaussian on 9 x 9 points that grows along x; needs no Piff to be made."""
    y, x = np.mgrid[-4:5, -4:5]
    grid = np.zeros((9, 9, (order + 1) * (order + 2) // 2))
    grid[..., 0] = np.exp(-(x * x + y * y) / 5.0) / 15.7
    if order:
        grid[..., 2] = 0.05 * grid[..., 0] * (x * x + y * y - 4.0) / 5.0
    return PiffPsf(grid, 1.0, 7, 13, SHAPE, 5.5, 3.7, 30)


@pytest.fixture(scope="module")
def fitted() -> PsfFit:
    pytest.importorskip("piff", reason="Piff is not installed (pip install mpipipe[piff])")
    return fit_piff(toy_stars(12), PsfOptions((0,)))


def test_without_piff_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piff", None)
    with pytest.raises(ConfigError, match=r"pip install mpipipe\[piff\]"):
        fit_piff(toy_stars(3), PsfOptions((0,)))
    with pytest.raises(ConfigError, match=r"pip install mpipipe\[piff\]"):
        made_up().image(100.0, 100.0)


def test_arrays_need_no_piff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piff", None)
    back = PiffPsf.from_arrays(made_up().arrays())
    np.testing.assert_array_equal(back.grid, made_up().grid)
    assert (back.size, back.order, back.fwhm, back.n_stars) == (13, 1, 3.7, 30)


@pytest.mark.parametrize("name", ["grid", "scale_radius_fwhm", "lanczos_side_stars", "shape"])
def test_other_arrays_make_no_model(name: str) -> None:
    arrays = made_up().arrays()
    for wrong in (None, arrays[name][:-1], np.full_like(arrays[name], -1)):
        changed = {key: value for key, value in arrays.items() if key != name}
        if wrong is not None:
            changed[name] = wrong
        if name == "grid" and wrong is not None and wrong.shape == arrays[name].shape:
            changed[name] = np.full_like(arrays[name], np.nan)
        with pytest.raises(ValueError):
            PiffPsf.from_arrays(changed)


def test_images_sum_to_one_and_follow_the_field() -> None:
    pytest.importorskip("piff", reason="Piff is not installed (pip install mpipipe[piff])")
    psf = made_up()
    x, y = np.array([0.0, 300.3, 1199.0, 640.5]), np.array([999.0, 10.7, 0.0, 499.5])
    for image, dx, dy in zip(psf.images(x, y), x - np.round(x), y - np.round(y), strict=True):
        assert sum_inside(image, dx, dy, psf.radius) == pytest.approx(1.0)
    left, right = psf.moments(np.array([10.0, 1190.0]), np.array([500.0, 500.0]))
    assert right[0] > 1.05 * left[0]


def test_same_bits_from_arrays() -> None:
    pytest.importorskip("piff", reason="Piff is not installed (pip install mpipipe[piff])")
    psf = made_up(2)
    back = PiffPsf.from_arrays(psf.arrays())
    x, y = np.array([5.2, 700.4]), np.array([900.9, 3.3])
    np.testing.assert_array_equal(back.images(x, y)[::-1], psf.images(x[::-1], y[::-1]))


def test_the_profile_is_found(fitted: PsfFit) -> None:
    x, y = 600.3, 499.8
    expected = true_image(x, y, fitted.psf.size // 2)
    expected /= sum_inside(expected, x - round(x), y - round(y), fitted.psf.radius)
    error = fitted.psf.image(x, y) - expected
    assert np.sqrt((error**2).sum() / (expected**2).sum()) < 0.05
    assert fitted.used.sum() >= 9 and fitted.order == 0


def test_nothing_to_fit_is_told() -> None:
    pytest.importorskip("piff", reason="Piff is not installed (pip install mpipipe[piff])")
    stars = toy_stars(2)
    with pytest.raises(BadDataError, match="Piff"):
        fit_piff(replace(stars, bad=np.ones_like(stars.bad)), PsfOptions((0,)))
