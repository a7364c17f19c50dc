"""The background of easy and of impossible frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, is_set
from mpipipe.sim.toyfield import ToyOptions, add_moffat, toy_field
from mpipipe.stages.cs.background_estimation import BackgroundEstimationConfig, without_bumps
from mpipipe.stages.cs.masked_background import disc_radius
from mpipipe.stages.mesh import mesh_background
from mpipipe.stages.stage import Clipboard

RunCs = Callable[..., Clipboard]
Maker = Callable[..., Exposure]
SIGMA = np.sqrt(2 * 964)
"""Noise of a pixel of two summed snaps of the synthetic fields."""


def test_a_gradient_is_followed(run_cs: RunCs, flat: Maker) -> None:
    snaps = [flat((500, 512), snap=k) for k in range(2)]
    slope = np.linspace(0, 120, 512, dtype=np.float32)[None, :]
    for snap in snaps:
        snap.image += slope
    result = run_cs(snaps)
    surface = result["background"].image()
    expected = 1800 + 2 * np.broadcast_to(slope, surface.shape)
    assert np.abs(surface - expected).max() < 0.12 * SIGMA
    assert abs((surface - expected).mean()) < 0.015 * SIGMA


def test_image_plus_background_is_the_sum_of_the_snaps(run_cs: RunCs, flat: Maker) -> None:
    snaps = [flat((300, 320), snap=k) for k in range(2)]
    result = run_cs(snaps)
    clean = result["calexp"].mask == 0
    total = result["calexp"].image + result["background"].image()
    np.testing.assert_allclose(total[clean], (snaps[0].image + snaps[1].image)[clean], atol=0.01)


def test_stars_hardly_lift_it(run_cs: RunCs) -> None:
    options = ToyOptions(shape=(900, 960), stars=300.0, galaxies=300.0, faintest=1000.0)
    field = toy_field(options, seed=4)
    result = run_cs(field.exposures)
    masked = (result["background"].level - 1800) / SIGMA
    coarse = sum(result["sdqa"].get("cs.backgroundEstimation.level", snap=k) for k in range(2))
    assert abs(masked) < 0.02
    assert abs(masked) < (coarse - 1800) / SIGMA


def test_a_galaxy_larger_than_the_cells_is_not_sky(run_cs: RunCs, flat: Maker) -> None:
    snaps = [flat((1200, 1200), snap=k) for k in range(2)]
    y, x = np.mgrid[:1200, :1200]
    galaxy = (400 * np.exp(-np.hypot(y - 610, x - 590) / 70)).astype(np.float32)
    for snap in snaps:
        snap.image += galaxy
        snap.variance += galaxy
    centre = (slice(510, 710), slice(490, 690))
    kept = []
    for remove in (True, False):
        off = BackgroundEstimationConfig(remove_bumps=remove)
        image = run_cs(snaps, {"cs.backgroundEstimation": off})["calexp"].image
        kept.append(image[centre].sum() / (2 * galaxy[centre].sum()))
    assert kept[0] > 0.95
    assert kept[1] < 0.87  # what a plain mesh leaves of it


@pytest.mark.parametrize("n", [8, 9, 16, 32])
@pytest.mark.parametrize("bow", [0.0, 60.0, -200.0])
def test_smooth_skies_are_left_alone(n: int, bow: float) -> None:
    y, x = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    rng = np.random.default_rng(n)
    values = 900 + 60 * x + bow * (x * x + y * y) + 15 * y**3 + rng.normal(0, 0.3, x.shape)
    background = Background(values, np.full(values.shape, 30.0), (n * 128, n * 128))
    np.testing.assert_array_equal(without_bumps(background).values, values)


def test_crowded_fields_raise_the_threshold(run_cs: RunCs) -> None:
    options = ToyOptions(shape=(400, 420), stars=12000.0, galaxies=0.0, cosmic_rays=0.0)
    result = run_cs(toy_field(options, seed=9).exposures)
    assert result["sdqa"].get("cs.crSplitCombine.mask_threshold") > 4
    assert abs(result["background"].level - 1800) / SIGMA < 1.0


@pytest.mark.parametrize("shape", [(500, 512), (65, 70), (20, 16), (9, 300)])
def test_small_frames_work(run_cs: RunCs, flat: Maker, shape: tuple[int, int]) -> None:
    result = run_cs([flat(shape, snap=k) for k in range(2)])
    assert result["background"].image().shape == shape
    assert abs(result["background"].level - 1800) < 1.5 * SIGMA


def test_everything_masked_is_a_warning(run_cs: RunCs, flat: Maker) -> None:
    snap = flat()
    snap.mask[:] |= VALUE["BAD"]
    result = run_cs([snap])
    assert result["background"].level == 0
    assert any("every pixel is masked" in text for text in result["warnings"])
    assert np.isfinite(result["calexp"].image).all()


def test_nan_becomes_no_data_and_spreads_nowhere(run_cs: RunCs, flat: Maker) -> None:
    snaps = [flat((300, 310), snap=k) for k in range(2)]
    for snap in snaps:
        snap.image[50:200, 40:230] = np.nan
    snaps[0].variance[5, 5] = np.inf
    snaps[0].variance[6, 6] = 0.0
    snaps[1].image[7, 7] = -np.inf
    result = run_cs(snaps)
    calexp = result["calexp"]
    assert np.isfinite(calexp.image).all() and np.isfinite(calexp.variance).all()
    assert is_set(calexp.mask, "NO_DATA")[50:200, 40:230].all()
    assert not is_set(calexp.mask, "NO_DATA")[5:8, 5:8].any()  # the other snap has them
    assert abs(result["background"].level - 1800) < 0.2 * SIGMA


def test_all_zero_frames_do_no_harm(run_cs: RunCs, flat: Maker) -> None:
    snaps = [flat(snap=k) for k in range(2)]
    for snap in snaps:
        snap.image[:] = 0
        snap.variance[:] = 64
    result = run_cs(snaps)
    assert not result["calexp"].image.any()
    assert result["background"].level == 0


def test_the_mesh_agrees_with_sep() -> None:
    import sep

    rng = np.random.default_rng(2)
    image = rng.normal(700, 25, (512, 640)).astype(np.float32)
    image += rng.exponential(4, image.shape).astype(np.float32)
    for _ in range(60):
        add_moffat(image, *rng.uniform(20, 490, 2), 2e4, 4.0)
    ours, filled = mesh_background(image, np.zeros(image.shape, bool), 128)
    theirs = sep.Background(image, bw=128, bh=128)
    assert filled == 0
    assert ours.image().mean() == pytest.approx(theirs.back().mean(), abs=0.5)
    assert ours.rms == pytest.approx(theirs.globalrms, rel=0.02)


def test_cells_without_sky_are_filled() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(100, 3, (400, 400)).astype(np.float32)
    exclude = np.zeros(image.shape, bool)
    exclude[100:200, :] = True
    image[exclude] = 1e6
    background, filled = mesh_background(image, exclude, 100)
    assert filled == pytest.approx(0.25)
    assert np.abs(background.values - 100).max() < 1


def test_discs_grow_with_flux_and_never_shrink_below_two_fwhm() -> None:
    flux = np.geomspace(1, 1e8, 50)
    radius = disc_radius(flux, np.full(50, 1.5), 4.0)
    assert radius[0] == 8.0
    assert (np.diff(radius) >= 0).all()
    assert radius[-1] > 100


def test_options_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="mesh"):
        BackgroundEstimationConfig(mesh=2)
