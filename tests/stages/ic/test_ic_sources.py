"""The best and brightest sources: found, measured within their errors, flagged where need be."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.icsrc import CALIBRATION_RADIUS
from mpipipe.data.ids import split_source_id
from mpipipe.data.mask import VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages import ic
from mpipipe.stages.stage import Clipboard, StageConfig, run_chain

from ..frames import FWHM, sky, with_stars

CHAIN = ic.PIPELINE[:3]


def measured(calexp: Exposure, configs: dict[str, StageConfig] | None = None) -> Clipboard:
    clipboard: dict[str, Any] = {"calexp": calexp, "sdqa": Sdqa(), "warnings": []}
    return run_chain(CHAIN, configs or {}, clipboard)


def stars(n: int, flux: float, seed: int = 3) -> list[tuple[float, float, float]]:
    """Stars 45 pixels apart, each somewhere within its pixel."""
    rng = np.random.default_rng(seed)
    return [
        (30 + 45 * (k % 9) + rng.uniform(), 30 + 45 * (k // 9) + rng.uniform(), flux)
        for k in range(n)
    ]


def test_positions_and_fluxes_hold_within_their_errors() -> None:
    true = stars(72, 6e4)
    rows = measured(with_stars(sky(), true))["icSrc"]
    assert len(rows) == len(true)
    x, y, flux = (np.array(column) for column in zip(*true, strict=True))
    nearest = np.argmin(np.hypot(rows["x"][:, None] - x, rows["y"][:, None] - y), axis=1)
    x, y, flux = x[nearest], y[nearest], flux[nearest]
    assert np.std((rows["x"] - x) / rows["xErr"]) < 1.3
    assert np.std((rows["y"] - y) / rows["yErr"]) < 1.3
    assert abs(np.mean(rows["x"] - x)) < 0.01 and abs(np.mean(rows["y"] - y)) < 0.01
    # A Moffat has some light outside of 3 FWHM.
    ratio = rows["apInstFlux"] / flux
    assert 0.96 < np.median(ratio) < 1.0
    assert np.std(ratio) < 1.4 * np.median(rows["apInstFluxErr"] / flux)
    assert not any(rows[name].any() for name in rows.dtype.names if name.startswith("calib_"))
    assert np.isnan(rows["psfFlux"]).all() and rows["flag_psfFlux"].all()


def test_ids_lead_back_to_visit_and_ccd() -> None:
    exposure = with_stars(sky(), stars(20, 6e4))
    rows = measured(exposure)["icSrc"]
    assert len(set(rows["id"].tolist())) == len(rows)
    for number, identifier in enumerate(rows["id"].tolist()):
        assert split_source_id(identifier) == (exposure.info.visit, 3, number)


def test_where_stars_are_few_the_threshold_is_lowered() -> None:
    # SNR 7: below the usual threshold, above the low one.
    faint = stars(9, 7 * np.sqrt(1000 * 2.266 * FWHM**2))
    found = measured(with_stars(sky(), faint))
    assert found["sdqa"].get("ic.sourceDetection.threshold") == 5.0
    assert 7 <= len(found["icSrc"]) <= 11


def test_a_field_of_stars_keeps_the_high_threshold() -> None:
    found = measured(with_stars(sky(), stars(72, 6e4)))
    assert found["sdqa"].get("ic.sourceDetection.threshold") == 10.0


def test_an_empty_field_gives_an_empty_table_and_says_that_the_seeing_is_a_guess() -> None:
    found = measured(sky())
    assert len(found["icSrc"]) < 3
    assert any("no star to measure the seeing" in warning for warning in found["warnings"])


def test_a_frame_without_one_good_pixel_gives_nothing() -> None:
    exposure = sky()
    exposure.image[:] = np.nan
    exposure.mask |= VALUE["NO_DATA"]
    assert len(measured(exposure)["icSrc"]) == 0


def test_a_saturated_star_a_hit_one_and_one_at_the_edge_are_flagged() -> None:
    true = [*stars(72, 6e4), (2.0, 200.0, 6e4)]
    exposure = with_stars(sky(), true)
    (x0, y0, _), (x1, y1, _) = true[10], true[20]
    exposure.mask[round(y0), round(x0)] |= VALUE["SAT"]
    exposure.mask[round(y1) + 1, round(x1)] |= VALUE["CR"]
    rows = measured(exposure)["icSrc"]
    flags = {name: rows[rows[name]] for name in ("flag_saturated", "flag_cr", "flag_edge")}
    assert [len(found) for found in flags.values()] == [1, 1, 1]
    assert abs(flags["flag_saturated"]["x"][0] - x0) < 1
    assert abs(flags["flag_cr"]["y"][0] - y1) < 1
    assert flags["flag_edge"]["peakX"][0] < 5


def test_a_neighbour_that_matters_is_told_and_one_that_does_not_is_not() -> None:
    true = stars(36, 1e5)
    (x0, y0, _), (x1, y1, _) = true[4], true[13]
    reach = 2.2 * FWHM
    assert reach < CALIBRATION_RADIUS * FWHM
    exposure = with_stars(sky(), [*true, (x0 + reach, y0, 3e4), (x1 + 30.0, y1, 3e4)])
    rows = measured(exposure)["icSrc"]
    near = np.hypot(rows["x"] - x0, rows["y"] - y0) < reach + 2
    assert near.sum() == 2 and rows["flag_crowded"][near].all()
    assert not rows["flag_crowded"][~near].any()


def test_a_trail_is_a_streak_and_stars_beside_it_are_not() -> None:
    exposure = with_stars(sky(), stars(36, 6e4))
    y, x = np.mgrid[: exposure.shape[0], : exposure.shape[1]]
    distance = (y - 0.02 * x - 366) / np.hypot(1, 0.02)
    exposure.image += (400 * np.exp(-0.5 * (distance / (FWHM / 2.355)) ** 2)).astype(np.float32)
    found = measured(exposure)
    rows = found["icSrc"]
    on_trail = np.abs(rows["y"] - 0.02 * rows["x"] - 366) < FWHM
    assert found["sdqa"].get("ic.sourceDetection.n_streak") == 1
    assert on_trail.any() and rows["flag_streak"][on_trail].all()
    assert not rows["flag_streak"][~on_trail].any()


def test_pixels_that_are_nan_spoil_nothing() -> None:
    exposure = with_stars(sky(), stars(72, 6e4))
    exposure.image[100, 100] = exposure.variance[200, 200] = np.nan
    rows = measured(exposure)["icSrc"]
    assert len(rows) == 72
    assert np.isfinite(rows["apInstFlux"]).all()
