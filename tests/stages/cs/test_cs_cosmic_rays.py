"""Cosmic rays: found by shape and by the difference of snaps, stars and defects left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, is_set
from mpipipe.sim.toyfield import ToyField, ToyOptions, add_moffat, toy_field
from mpipipe.stages.cs.reject import RejectConfig
from mpipipe.stages.cs.source_detection import SourceDetectionConfig
from mpipipe.stages.stage import Clipboard

RunCs = Callable[..., Clipboard]
UNUSABLE = ("BAD", "SAT", "NO_DATA")


def found_and_false(field: ToyField, exposure: Exposure, snap: int) -> tuple[float, float]:
    """Share of pixels hit by > 5 sigma that are flagged, and false pixels per Mpixel."""
    sigma = np.sqrt(field.expected + 64)
    deposit = field.deposits[snap]
    usable = ~is_set(exposure.mask, UNUSABLE)
    flagged = is_set(exposure.mask, "CR") & usable
    wanted = (deposit > 5 * sigma) & usable
    near = ndimage.binary_dilation(deposit > sigma, np.ones((5, 5)))
    return flagged[wanted].mean(), (flagged & ~near).sum() / deposit.size * 1e6


@pytest.mark.parametrize("fwhm", [2.5, 4.25, 7.5])
@pytest.mark.parametrize("snaps", [[0], [0, 1]], ids=["one snap", "pair"])
def test_rays_are_found_and_stars_are_not(run_cs: RunCs, fwhm: float, snaps: list[int]) -> None:
    field = toy_field(ToyOptions(shape=(600, 640), fwhm=fwhm, stars=800.0), seed=11)
    result = run_cs([field.exposures[k] for k in snaps], n_stages=5)
    for k, exposure in zip(snaps, result["exposures"], strict=True):
        share, false = found_and_false(field, exposure, k)
        assert share > 0.985
        assert false < 8  # four pixels of half a Mpixel


def test_three_snaps_work_alike(run_cs: RunCs) -> None:
    field = toy_field(ToyOptions(n_snaps=3), seed=2)
    result = run_cs(field.exposures)
    for k, exposure in enumerate(result["exposures"]):
        share, false = found_and_false(field, exposure, k)
        assert share > 0.985 and false < 12
    assert result["calexp"].n_snaps == 3


def test_no_star_is_eaten_in_sharp_seeing(run_cs: RunCs) -> None:
    options = ToyOptions(shape=(600, 640), fwhm=2.2, cosmic_rays=0.0, galaxies=0.0)
    field = toy_field(options, seed=5)
    for snaps in ([0], [0, 1]):
        result = run_cs([field.exposures[k] for k in snaps], n_stages=5)
        for exposure in result["exposures"]:
            assert is_set(exposure.mask, "CR").sum() <= 2


def test_a_hit_on_a_star_shows_on_the_difference(run_cs: RunCs, field: ToyField) -> None:
    snaps = [exposure.copy() for exposure in field.exposures]
    star = field.stars[np.argsort(field.stars["flux"])[-12]]
    y, x = round(star["y"]), round(star["x"])
    snaps[1].image[y, x] += 0.15 * snaps[1].image[y, x] + 2500
    pair = run_cs(snaps, n_stages=5)["exposures"]
    assert is_set(pair[1].mask, "CR")[y, x]
    assert not is_set(pair[0].mask, "CR")[y, x]


def test_saturated_stars_bleeds_and_bad_pixels_stay(
    run_cs: RunCs, flat: Callable[..., Exposure]
) -> None:
    exposure = flat((300, 300))
    scene = np.zeros((300, 300))
    add_moffat(scene, 150, 150, 4e6, 4.0)
    exposure.image += scene.astype(np.float32)
    exposure.image[60:240, 150] = 1e5  # a bleed
    exposure.mask[exposure.image > 6e4] |= VALUE["SAT"]
    exposure.variance += scene.astype(np.float32)
    exposure.image[30, 40:44] = 9000
    exposure.mask[30, 40:44] |= VALUE["BAD"]
    result = run_cs([exposure], n_stages=3)["exposures"][0]
    assert is_set(result.mask, "CR").sum() <= 1
    kept = is_set(exposure.mask, ("SAT", "BAD"))
    level = run_cs([exposure], n_stages=2)["exposures"][0].image[kept]
    np.testing.assert_array_equal(result.image[kept], level)


def trail(shape: tuple[int, int], fwhm: float, flux: float) -> np.ndarray:
    """A satellite's trail right across: a line as wide as the seeing."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = (y - 0.4 * x - 60) / np.hypot(1, 0.4)
    sigma = fwhm / 2.355
    return flux / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * (distance / sigma) ** 2)


@pytest.mark.parametrize("snaps", [[0], [0, 1]], ids=["one snap", "pair"])
def test_a_trail_is_no_cosmic_ray(run_cs: RunCs, snaps: list[int]) -> None:
    field = toy_field(ToyOptions(shape=(400, 640), cosmic_rays=100.0), seed=3)
    light = trail((400, 640), 4.0, 4000)
    rng = np.random.default_rng(0)
    first = field.exposures[0].copy()
    first.image += (light + np.sqrt(light) * rng.standard_normal(light.shape)).astype(np.float32)
    first.variance += light.astype(np.float32)
    result = run_cs([first, field.exposures[1]][: len(snaps)])
    on_trail = light > 100
    rays = ndimage.binary_dilation(field.deposits[0] > 20, np.ones((7, 7)))
    flagged = is_set(result["exposures"][0].mask, "CR") & on_trail & ~rays
    assert flagged.sum() <= 3
    if len(snaps) == 2:
        assert is_set(result["calexp"].mask, "STREAK")[light > 300].mean() > 0.95
        table = result["snap_sources"]
        assert table["flag_streak"].sum() > 10
        assert (table["snap"][table["flag_streak"]] == 0).all()


def test_a_mover_is_listed_and_stays(run_cs: RunCs, field: ToyField) -> None:
    snaps = [exposure.copy() for exposure in field.exposures]
    places = [(250.3, 260.6), (262.0, 270.0)]
    for snap, (y, x) in zip(snaps, places, strict=True):
        source = np.zeros(snap.shape)
        add_moffat(source, x, y, 8000, 4.0)
        snap.image += source.astype(np.float32)
        snap.variance += source.astype(np.float32)
    result = run_cs(snaps)
    table = result["snap_sources"]
    for number, (y, x) in enumerate(places):
        near = np.hypot(table["y"] - y, table["x"] - x) < 2
        assert near.sum() == 1
        row = table[near][0]
        assert row["snap"] == number and row["flux"] > 0 and not row["flag_cr"]
        assert not is_set(result["exposures"][number].mask, "CR")[round(y), round(x)]
        assert is_set(result["calexp"].mask, "SNAP_DIFF")[round(y), round(x)]


def test_a_hot_pixel_in_both_snaps_is_suspect_and_no_ray(
    run_cs: RunCs, flat: Callable[..., Exposure]
) -> None:
    snaps = [flat(snap=k) for k in range(2)]
    for snap in snaps:
        snap.image[90, 80] += 800
        snap.variance[90, 80] += 800
    result = run_cs(snaps)
    for exposure in result["exposures"]:
        assert is_set(exposure.mask, "SUSPECT")[90, 80]
        assert not is_set(exposure.mask, "CR")[90, 80]


def test_too_many_hits_are_not_believed(run_cs: RunCs, flat: Callable[..., Exposure]) -> None:
    exposure = flat()
    rng = np.random.default_rng(1)
    exposure.image[rng.random(exposure.shape) < 0.06] += 1000
    result = run_cs([exposure], {"cs.reject": RejectConfig(max_fraction=0.03)})
    assert not is_set(result["calexp"].mask, "CR").any()
    assert any("look like cosmic rays" in text for text in result["warnings"])


def test_unequal_seeing_makes_no_sources(run_cs: RunCs) -> None:
    field = toy_field(ToyOptions(fwhm=3.8, fwhm_ratio=1.12, cosmic_rays=30.0), seed=6)
    result = run_cs(field.exposures)
    assert result["sdqa"].get("cs.diffim.star_residual", snap=0) > 0.05
    assert len(result["snap_sources"]) <= 3
    assert result["sdqa"].get("cs.diffim.noise_ratio", snap=0) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("sky,read_noise", [(30.0, 5.0), (900.0, 8.0), (20000.0, 8.0)])
def test_noise_of_the_difference_is_as_predicted(
    run_cs: RunCs, sky: float, read_noise: float
) -> None:
    options = ToyOptions(sky=sky, read_noise=read_noise, master_sigma=6.0)
    result = run_cs(toy_field(options, seed=8).exposures, n_stages=4)
    ratio = result["sdqa"].get("cs.diffim.noise_ratio", snap=0)
    assert ratio == pytest.approx(1, abs=0.015)


def test_same_bits_every_time_and_in_any_order_of_seeds(run_cs: RunCs, field: ToyField) -> None:
    one, two = (run_cs(field.exposures) for _ in range(2))
    for plane in ("image", "mask", "variance"):
        np.testing.assert_array_equal(getattr(one["calexp"], plane), getattr(two["calexp"], plane))
    np.testing.assert_array_equal(one["snap_sources"], two["snap_sources"])
    # Growing sees hits of earlier rounds only: the frame turned upside down gives the same.
    turned = []
    for exposure in field.exposures:
        planes = {name: getattr(exposure, name)[::-1, ::-1].copy() for name in
                  ("image", "mask", "variance")}  # fmt: skip
        turned.append(Exposure(**planes, info=exposure.info))
    back = run_cs(turned, n_stages=3)["exposures"][0].mask[::-1, ::-1]
    there = run_cs(field.exposures, n_stages=3)["exposures"][0].mask
    differ = is_set(back, "CR") != is_set(there, "CR")
    assert differ.sum() <= 2  # the seeing's last digits depend on the direction of sums


def test_nothing_but_sky_gives_nothing(run_cs: RunCs, flat: Callable[..., Exposure]) -> None:
    result = run_cs(
        [flat((500, 512), snap=k) for k in range(2)],
        {"cs.sourceDetection": SourceDetectionConfig(threshold=6.0)},
    )
    assert is_set(result["calexp"].mask, "CR").sum() <= 2
    assert len(result["snap_sources"]) == 0
