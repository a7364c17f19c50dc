"""Detection: what hides beside others is found, what models leave is not; blends add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, is_set
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.footprints import grow_footprints, spread_footprints
from mpipipe.stages.matched_filter import lower_width, tail_width
from mpipipe.stages.sfm.doubtful import CAUSES
from mpipipe.stages.sfm.source_measurement import MONSTER

from ..frames import FWHM, measured, sky, with_stars

Star = tuple[float, float, float]


def stars_for_a_psf(seed: int = 3) -> list[Star]:
    """A grid in the upper part of an 800 x 420 frame; below y = 380 there is room."""
    rng = np.random.default_rng(seed)
    y, x = 400 + 44.0 * np.indices((9, 9)).reshape(2, -1)
    x = x - 400 + 30
    move = rng.uniform(-8, 8, (2, 81))
    flux = 10 ** rng.uniform(4.3, 5.0, 81)
    return [
        (float(a), float(b), float(c))
        for a, b, c in zip(x + move[0], np.minimum(y + move[1], 780), flux, strict=True)
    ]


def frame(extra: list[Star]) -> Exposure:
    return with_stars(sky((800, 420)), [*stars_for_a_psf(), *extra])


def near(src: np.ndarray, x: float, y: float, reach: float) -> np.ndarray:
    return src[np.hypot(src["x"] - x, src["y"] - y) < reach]


def add_galaxy(exposure: Exposure, x: float, y: float, flux: float, a: float, b: float) -> None:
    """An elliptical disc, turned by 30 degrees, wide enough to need no PSF."""
    j, i = np.mgrid[: exposure.shape[0], : exposure.shape[1]]
    cos, sin = np.cos(0.52), np.sin(0.52)
    u, v = cos * (i - x) + sin * (j - y), cos * (j - y) - sin * (i - x)
    light = np.exp(-np.hypot(u / a, v / b))
    light *= flux / light.sum()
    noise = np.sqrt(light) * np.random.default_rng(4).standard_normal(light.shape)
    exposure.image += (light + noise).astype(np.float32)


def test_a_star_in_the_shoulder_of_a_brighter_one_is_found() -> None:
    result = measured(frame([(200.2, 200.4, 1e5), (205.0, 201.0, 1.5e4)]))
    found = near(result["src"], 202, 200.5, 12)
    assert len(found) == 2
    fainter = found[np.argmin(found["psfInstFlux"])]
    assert fainter["detectionPass"] > 0 and not fainter["flag_near_saturated"]
    assert np.hypot(fainter["x"] - 205, fainter["y"] - 201) < 0.3
    assert fainter["psfInstFlux"] == pytest.approx(1.5e4, rel=0.1)
    assert (found["nChild"] == 2).all() and len(set(found["parent"])) == 1
    assert result["sdqa"].get("sfm.sourceDetection.n_redetected") >= 1


def test_a_galaxy_leaves_no_sources() -> None:
    exposure = frame([])
    add_galaxy(exposure, 200.3, 190.6, 2e5, 6.0, 3.5)
    src = measured(exposure)["src"]
    assert len(near(src, 200.3, 190.6, 40)) <= 2


def test_a_star_on_a_galaxy_is_found() -> None:
    exposure = frame([(212.0, 200.0, 2e4)])
    add_galaxy(exposure, 200.3, 190.6, 2e5, 6.0, 3.5)
    src = measured(exposure)["src"]
    assert len(near(src, 212.0, 200.0, 1.5)) == 1


def test_a_bright_star_leaves_no_sources() -> None:
    src = measured(frame([(200.3, 180.7, 3e6)]))["src"]
    assert len(near(src, 200.3, 180.7, 50)) == 1


def test_peaks_are_in_reading_order_whatever_pass_found_them() -> None:
    found = measured(frame([(200.2, 200.4, 1e5), (205.0, 201.0, 1.5e4)]))["detections"]
    np.testing.assert_array_equal(np.lexsort((found.x, found.y)), np.arange(len(found.y)))
    assert (found.labels[found.y, found.x] == found.footprint + 1).all()


def test_fluxes_of_children_add_up_to_their_parent() -> None:
    pair = [(200.2, 200.4, 1e5), (208.0, 203.0, 4e4), (100.0, 100.0, 3e4)]
    result = measured(frame(pair))
    src, found = result["src"], result["detections"]
    image = np.where(result["planes"].unusable, 0, result["calexp"].image).astype(float)
    whole = np.bincount(found.labels.ravel(), image.ravel())[1:]
    parts = np.bincount(found.footprint, src["footprintInstFlux"])
    np.testing.assert_allclose(parts, whole, rtol=1e-4)
    np.testing.assert_allclose(src["parentInstFlux"], whole[found.footprint], rtol=1e-4)
    one, two = (near(src, x, y, 2.0) for x, y, _ in pair[:2])
    assert len(one) == len(two) == 1
    ratio = one["footprintInstFlux"][0] / two["footprintInstFlux"][0]
    assert ratio == pytest.approx(2.5, rel=0.1)
    assert (src["footprintInstFluxErr"] > 0).all() and not src["flag_footprint"].any()


def test_a_monster_blend_is_flagged_and_whole() -> None:
    rng = np.random.default_rng(8)
    crowd = [
        (float(60 + 9 * (k % 30) + rng.uniform()), float(40 + 9 * (k // 30) + rng.uniform()), 4e4)
        for k in range(600)
    ]
    src = measured(frame(crowd))["src"]
    inside = src[src["y"] < 250]
    assert len(inside) > 580
    assert inside["flag_monster"].mean() > 0.9 and inside["nChild"].max() > MONSTER
    assert not src["flag_monster"][src["y"] > 420].any()


def test_a_satellite_over_the_whole_frame_is_one_trail() -> None:
    exposure = frame([])
    j, i = np.mgrid[:800, :420]
    exposure.image += (2000 * np.exp(-0.5 * ((j - 0.4 * i - 100) / 2.5) ** 2)).astype(np.float32)
    src = measured(exposure)["src"]
    on_trail = np.abs(src["y"] - 0.4 * src["x"] - 100) < 10
    assert on_trail.any() and src["flag_streak"][on_trail].all()
    assert (src["detectionPass"][on_trail] == 0).all()


def test_surroundings_of_saturated_stars_are_flagged() -> None:
    exposure = frame([(200.0, 200.0, 5e5), (207.0, 200.0, 3e4), (100.0, 100.0, 3e4)])
    exposure.mask[199:202, 199:202] |= VALUE["SAT"]
    result = measured(exposure)
    assert near(result["src"], 207, 200, 2.5)["flag_near_saturated"].all()
    assert not near(result["src"], 100, 100, 2)["flag_near_saturated"].any()
    assert result["sdqa"].get("sfm.sourceDetection.n_doubtful_saturated") >= 1


def test_stars_on_edges_and_beside_missing_pixels() -> None:
    exposure = frame([(1.0, 200.0, 5e4), (200.0, 0.0, 5e4), (300.0, 200.0, 5e4)])
    exposure.image[195:206, 302:330] = np.nan
    result = measured(exposure)
    src = result["src"]
    for x, y in ((1, 200), (200, 0)):
        assert near(src, x, y, 3)["flag_edge"].any()
    assert len(near(src, 300, 200, 4)) >= 1
    assert result["sdqa"].get("sfm.sourceDetection.n_doubtful_edge") >= 2
    assert np.isfinite(src["snr"]).all()


def test_every_cause_is_counted() -> None:
    sdqa: Sdqa = measured(sky((60, 70)))["sdqa"]
    for cause in CAUSES:
        assert sdqa.get(f"sfm.sourceDetection.n_doubtful_{cause}") == 0


def test_without_a_psf_there_is_one_pass() -> None:
    src = measured(with_stars(sky(), [(200.0, 200.0, 1e5), (204.8, 200.0, 1.5e4)]))["src"]
    assert (src["detectionPass"] == 0).all()


def test_detected_pixels_are_those_of_the_footprints() -> None:
    result = measured(frame([(100.0, 100.0, 3e4)]))
    marked = is_set(result["calexp"].mask, "DETECTED")
    np.testing.assert_array_equal(marked, result["detections"].labels > 0)
    assert marked[100, 100] and marked[100, 100 + round(FWHM)]


def test_faint_sources_do_not_widen_the_tail() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1, 400_000)
    assert tail_width(noise) == pytest.approx(1, abs=0.01)
    with_light = noise + rng.exponential(1.0, noise.size) * (rng.random(noise.size) < 0.25)
    assert tail_width(with_light) < 1.04 < lower_width(with_light)
    assert np.isnan(tail_width(np.full(100, np.nan)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ny=st.integers(1, 25), nx=st.integers(1, 25),
       steps=st.integers(0, 3))  # fmt: skip
def test_grown_footprints_keep_their_cores_and_count(
    seed: int, ny: int, nx: int, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    map_ = rng.normal(0, 1, (ny, nx)).astype(np.float32)
    y, x = np.nonzero(map_ > 1.5)
    labels, of_peak, cores = grow_footprints(map_, 1.0, y, x)
    before = labels.copy()
    grown = spread_footprints(labels, cores, steps)
    assert (labels[before > 0] == before[before > 0]).all()
    for k in range(len(grown)):
        j, i = np.nonzero(labels == k + 1)
        assert grown["n_pixels"][k] == len(j)
        assert (grown["y0"][k], grown["y1"][k]) == (j.min(), j.max())
        assert (grown["x0"][k], grown["x1"][k]) == (i.min(), i.max())
    assert (labels[y, x] == of_peak + 1).all()
