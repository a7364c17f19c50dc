"""The source table: positions, fluxes, errors, flags and ids; and frames that give nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy import ndimage
from scipy.spatial import cKDTree

from mpipipe.data.exposure import Exposure
from mpipipe.data.ids import split_source_id
from mpipipe.data.mask import VALUE, is_set
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.src import APERTURES
from mpipipe.sim.toyfield import ToyOptions, toy_field
from mpipipe.stages import cs, ic, sfm
from mpipipe.stages.sfm.measurements.circles import FLUXES
from mpipipe.stages.sfm.src_table import SRC
from mpipipe.stages.stage import check_chain, run_chain

from ..frames import measured, sky, with_stars

ALONE = (*ic.PIPELINE, *sfm.PIPELINE)
"""What runs on a calexp."""
CIRCLES = dict(zip(APERTURES, FLUXES, strict=True))


Star = tuple[float, float, float]


def grid(n: int, flux: float) -> list[Star]:
    """Stars 40 pixels apart, each somewhere within its pixel."""
    rng = np.random.default_rng(5)
    return [(30 + 40 * (k % 9) + rng.uniform(), 30 + 40 * (k // 9) + rng.uniform(), flux)
            for k in range(n)]  # fmt: skip


def test_the_chain_fits_behind_cs() -> None:
    given = ("exposures", "pixel_scale", "reference", "sdqa", "warnings")
    assert "src" in check_chain(cs.PIPELINE + ALONE, given)
    for step in sfm.PIPELINE:
        for name, option in step.config.model_fields.items():
            assert option.description, f"{step.name}.{name}"


def test_positions_and_fluxes_are_right_within_their_errors() -> None:
    field = toy_field(
        ToyOptions(
            shape=(1000, 1024),
            fwhm=3.0,
            stars=400.0,
            faintest=1500.0,
            galaxies=0.0,
            cosmic_rays=0.0,
        ),
        seed=21,
    )
    clipboard: dict[str, Any] = {
        "exposures": field.exposures,
        "pixel_scale": 0.2,
        "reference": None,
        "sdqa": Sdqa(),
        "warnings": [],
    }
    src = run_chain(cs.PIPELINE + ALONE, {}, clipboard, failed=lambda step, error: None)["src"]
    stars = field.stars
    distance, index = cKDTree(np.c_[src["x"], src["y"]]).query(np.c_[stars["x"], stars["y"]])
    tree = cKDTree(np.c_[stars["x"], stars["y"]])
    alone = tree.query(np.c_[stars["x"], stars["y"]], k=2)[0][:, 1] > 24
    use = alone & (distance < 1.5) & (stars["flux"] > 1500) & (stars["flux"] < 1e5)
    use &= ~src["flag_edge"][index] & ~src["flag_blended"][index]
    star, row = stars[use], src[index[use]]
    assert len(row) > 60
    for name in ("x", "y"):
        pull = (row[name] - star[name]) / row[f"{name}Err"]
        assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.25
    bright = star["flux"] > 1e4
    for radius, floor in ((1.5, 0.93), (2.0, 0.97), (3.0, 0.985)):
        flux, error = row[CIRCLES[radius].inst], row[CIRCLES[radius].inst_error]
        share = np.median(flux[bright] / (2 * star["flux"][bright]))
        assert floor < share < 1.01
        pull = (flux - share * 2 * star["flux"]) / error
        assert 0.75 < 1.4826 * np.median(np.abs(pull)) < 1.3


def test_ids_follow_the_content() -> None:
    src = measured(with_stars(sky(), grid(36, 2e4)))["src"]
    assert len(src) >= 36
    order = np.lexsort((src["peakX"], src["peakY"]))
    np.testing.assert_array_equal(order, np.arange(len(src)))
    for number, one in enumerate(src["id"]):
        assert split_source_id(one) == (20250602041014, 3, number)


def test_same_bits_every_time() -> None:
    one, two = (measured(with_stars(sky(), grid(40, 8e3)))["src"] for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_blends_have_a_parent() -> None:
    stars = [*grid(20, 3e4), (200.0, 350.0, 4e4), (209.0, 351.0, 2e4), (320.0, 350.0, 3e4)]
    src = measured(with_stars(sky(), stars))["src"]
    pair = src[(np.hypot(src["x"] - 204, src["y"] - 350) < 8)]
    assert len(pair) == 2 and pair["flag_blended"].all()
    brighter = pair[np.argmax(pair["snr"])]
    assert (pair["parent"] == brighter["id"]).all()
    lone = src[np.hypot(src["x"] - 320, src["y"] - 350) < 3]
    assert len(lone) == 1 and lone["parent"][0] == -1 and not lone["flag_blended"][0]


def test_flags_tell_what_is_near() -> None:
    stars = grid(30, 3e4)
    exposure = with_stars(sky(), stars)
    marks = {
        "SAT": "flag_saturated",
        "BAD": "flag_bad",
        "CR": "flag_cr",
        "INTRP": "flag_interpolated",
        "SUSPECT": "flag_suspect",
        "STREAK": "flag_streak",
    }
    for (plane, _), (x, y, _) in zip(marks.items(), stars, strict=False):
        exposure.mask[round(y), round(x)] |= VALUE[plane]
    src = measured(exposure)["src"]
    for k, flag in enumerate(marks.values()):
        x, y, _ = stars[k]
        near = np.hypot(src["x"] - x, src["y"] - y) < 3
        assert near.sum() == 1 and src[flag][near].all(), flag
        clean = np.hypot(src["x"] - stars[20][0], src["y"] - stars[20][1]) < 2
        assert not src[flag][clean].any()


def test_edges_are_flagged_and_do_no_harm() -> None:
    stars = [*grid(20, 3e4), (0.3, 200.0, 5e4), (419.0, 399.0, 5e4), (3.0, 0.0, 5e4)]
    src = measured(with_stars(sky(), stars))["src"]
    at_edge = src["flag_edge"]
    assert at_edge.sum() >= 3 and at_edge.sum() < 8
    assert src["flag_aperture"][at_edge].all()
    for name in ("x", "y"):
        assert np.isfinite(src[name]).all()
    cut = src["flag_aperture"]
    assert np.isnan(src[CIRCLES[3.0].inst][cut]).all()
    assert np.isfinite(src[CIRCLES[3.0].inst][~cut]).all()


def test_sky_coordinates_come_from_the_wcs() -> None:
    exposure = with_stars(sky(), grid(9, 3e4))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [100.0, 100.0]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    assert np.isnan(measured(exposure.copy())["src"]["ra"]).all()
    src = measured(replace(exposure, wcs=wcs))["src"]
    ra, dec = wcs.all_pix2world(src["x"], src["y"], 0)
    np.testing.assert_array_equal(src["ra"], ra)
    np.testing.assert_array_equal(src["dec"], dec)


def test_the_mask_knows_what_was_detected() -> None:
    exposure = with_stars(sky(), [(100.0, 120.0, 3e4)])
    exposure.image[300:304, 300:304] -= 300
    calexp = measured(exposure)["calexp"]
    assert is_set(calexp.mask, "DETECTED")[120, 100]
    assert is_set(calexp.mask, "DETECTED_NEGATIVE")[302, 302]
    assert not is_set(calexp.mask, "DETECTED")[302, 302]


def test_correlated_noise_widens_errors_and_not_the_table() -> None:
    exposure = sky((600, 620), level=4000.0)
    exposure.image = ndimage.gaussian_filter(exposure.image, 1.2).astype(np.float32)
    exposure.variance[:] = exposure.image.var()
    result = measured(with_stars(exposure, grid(40, 4e4)))
    sdqa: Sdqa = result["sdqa"]
    assert sdqa.get("sfm.sourceDetection.map_width") > 1.8
    assert sdqa.get("sfm.sourceDetection.n_negative") <= 2
    assert 40 <= len(result["src"]) <= 46
    assert sdqa.get("sfm.sourceMeasurement.noise_factor_2") > 2.5


def test_white_noise_gives_no_sources_and_factors_of_one() -> None:
    result = measured(sky((700, 720)))
    assert len(result["src"]) <= 1
    sdqa: Sdqa = result["sdqa"]
    assert sdqa.get("sfm.sourceDetection.map_width") == pytest.approx(1, abs=0.03)
    assert sdqa.get("sfm.sourceMeasurement.noise_factor_2") < 1.08
    assert np.isfinite(sdqa.get("sfm.sourceDetection.depth"))


def test_a_trail_is_flagged() -> None:
    exposure = with_stars(sky(), grid(20, 3e4))
    y, x = np.mgrid[:400, :420]
    light = 200 * np.exp(-0.5 * ((y - 0.1 * x - 280) / 1.7) ** 2)
    exposure.image += light.astype(np.float32)
    result = measured(exposure)
    on_trail = np.abs(result["src"]["y"] - 0.1 * result["src"]["x"] - 280) < 4
    assert on_trail.sum() > 5 and result["src"]["flag_streak"][on_trail].all()
    assert not result["src"]["flag_streak"][~on_trail].any()
    assert is_set(result["calexp"].mask, "DETECTED_STREAK").any()
    assert not is_set(result["calexp"].mask, "STREAK").any()


def whole_masked() -> Exposure:
    exposure = sky((60, 70))
    exposure.mask[:] |= VALUE["BAD"]
    return exposure


def all_nan() -> Exposure:
    exposure = sky((60, 70))
    exposure.image[:], exposure.variance[:] = np.nan, np.nan
    return exposure


def half_nan() -> Exposure:
    exposure = with_stars(sky(), grid(20, 3e4))
    exposure.image[:, 200:] = np.nan
    return exposure


def all_zero() -> Exposure:
    exposure = sky((60, 70))
    exposure.image[:], exposure.variance[:] = 0, 0
    return exposure


def all_saturated() -> Exposure:
    exposure = sky((200, 210))
    exposure.image[:] = 1e5
    exposure.mask[:] |= VALUE["SAT"]
    return exposure


@pytest.mark.parametrize(
    "make",
    [whole_masked, all_nan, half_nan, all_zero, all_saturated, lambda: sky((9, 12)),
     lambda: with_stars(sky(), [(200.0, 200.0, 1e5)])],
    ids=["masked", "nan", "half nan", "zero", "saturated", "tiny", "one star"],
)  # fmt: skip
def test_hopeless_frames_give_a_table(make: Callable[[], Exposure]) -> None:
    with np.errstate(all="raise", under="ignore"):
        src = measured(make())["src"]
    assert src.dtype == SRC.dtype
    for name in ("x", "y", "xErr"):
        assert np.isfinite(src[name]).all()
    for flux in CIRCLES.values():
        assert (np.isfinite(src[flux.inst]) | src["flag_aperture"]).all()
    assert (np.isfinite(src["psfInstFlux"]) | src["flag_psfFlux"]).all()


def test_one_star_alone_is_one_source() -> None:
    src = measured(with_stars(sky(), [(200.3, 180.6, 1e5)]))["src"]
    assert len(src) == 1
    assert src["x"][0] == pytest.approx(200.3, abs=0.05)
    assert src["y"][0] == pytest.approx(180.6, abs=0.05)
