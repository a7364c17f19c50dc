"""The WCS: right to the errors of the stars, and nothing that is bad gets through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.icsrc import ICSRC
from mpipipe.data.raw import FrameInfo
from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.tan_sip import TanSip
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.sim.toystars import ToyLists, ToyStars, toy_lists
from mpipipe.stages.ic.wcs_determination import (
    WcsDeterminationConfig,
    choose_stars,
    wcs_determination,
)
from mpipipe.stages.ic.wcs_verification import WcsVerificationConfig, wcs_verification

EPOCH = 60600.0
NAN = float("nan")
TYPICAL = ToyStars(offset=(20.0, -30.0), rotation=0.1, scale=1.001, distortion=2.0)


def clipboard(options: ToyStars, field: ToyLists, **info: Any) -> dict[str, Any]:
    """What the stages take: `field` as an exposure, its sources and its catalogue."""
    rows = ICSRC.empty(len(field.x))
    rows["id"] = np.arange(len(rows)) + 1
    rows["x"], rows["y"] = field.x, field.y
    rows["xErr"] = rows["yErr"] = field.error
    rows["snr"] = 1.5 / field.error
    rows["apInstFlux"] = rows["psfInstFlux"] = 10 ** (-0.4 * (field.mag - 28.0))
    rows["ixx"] = rows["iyy"] = 4.0
    n = len(field.ra)
    error = np.full(n, options.reference_error)
    stars = reference_rows(
        {
            "id": np.arange(n) + 1000,
            "ra": field.ra,
            "dec": field.dec,
            "ra_error": error,
            "dec_error": error,
            "pm_ra": np.zeros(n),
            "pm_dec": np.zeros(n),
            "epoch": np.full(n, EPOCH),
            "mag_r": field.reference_mag,
            "mag_r_error": np.full(n, 0.01),
        },
        ("r",),
    )
    facts = FrameInfo("cam", 1, 0, "ccd", 0, "science", "r", 30.0, 30.0, EPOCH)
    facts = replace(facts, **({"ra": options.ra, "dec": options.dec} | info))
    plane = np.broadcast_to(np.float32(0), options.shape)
    mask = np.broadcast_to(np.int32(0), options.shape)
    return {
        "calexp": Exposure(plane, mask, plane, facts, wcs=field.header.to_astropy()),
        "icSrc": rows,
        "reference": ReferenceStars(stars, ("r",), "toy"),
        "pixel_scale": options.pixel_scale,
        "sdqa": Sdqa(),
        "warnings": [],
    }


def solved(given: dict[str, Any], **config: Any) -> WcsSolution:
    """Determination and verification in turn; changes `given` as a chain would."""
    inputs = {name: given[name] for name in wcs_determination.needs}
    given |= wcs_determination.run(WcsDeterminationConfig(**config), **inputs)
    verified(given)
    solution = given["wcs_solution"]
    assert isinstance(solution, WcsSolution)
    return solution


def verified(given: dict[str, Any]) -> None:
    inputs = {name: given[name] for name in wcs_verification.needs}
    given |= wcs_verification.run(WcsVerificationConfig(), **inputs)


def errors(field: ToyLists, sip: TanSip, shape: tuple[int, int]) -> np.ndarray:
    """Errors on a grid over the CCD, (2, n) mas."""
    x, y = (c.ravel() for c in np.meshgrid(*(np.linspace(0, n - 1, 15) for n in shape[::-1])))
    found = np.stack(sip.sky_to_pixel(*field.wcs.pixel_to_sky(x, y)))
    return (found - [x, y]) * field.wcs.pixel_scale * 1e3


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_without_errors_the_recovery_is_exact() -> None:
    options = replace(TYPICAL, n=150, outliers=0.0, centroid_error=1e-9, reference_error=1e-9)
    field = toy_lists(options, 1)
    solution = solved(clipboard(options, field), max_order=3)
    assert solution.kind == "sip" and solution.order == 3
    # What is left is the distortion that another tangent point adds.
    assert np.abs(errors(field, solution.sip, options.shape)).max() < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_two_hundred_stars_reach_a_few_mas(seed: int) -> None:
    options = replace(TYPICAL, n=300, outliers=0.3)
    field = toy_lists(options, seed)
    given = clipboard(options, field)
    solution = solved(given)
    off = errors(field, solution.sip, options.shape)
    assert rms(off) < 5.0
    assert solution.order == 3
    assert 0.3 < rms(off) / solution.error < 2.0
    assert solution.rms_ra == pytest.approx(solution.expected_rms, rel=0.35)
    assert solution.header_offset == pytest.approx(36.06, abs=1.0)
    matches = given["icMatch"]
    assert len(matches) == solution.n_matched > 180
    true = field.star[matches["id"] - 1] + 1000
    assert (true == matches["refId"]).mean() > 0.98
    assert given["icSrc"]["calib_astrometry_used"].sum() == solution.n_used
    assert given["sdqa"].get("ic.wcsDetermination.order") == 3


@pytest.mark.parametrize(
    ("n", "highest", "limit"), [(8, 1, 200.0), (16, 2, 100.0), (32, 3, 60.0), (80, 4, 15.0)]
)
def test_few_stars_get_a_simple_model(n: int, highest: int, limit: float) -> None:
    options = replace(TYPICAL, n=n, outliers=0.0, distortion=0.5)
    field = toy_lists(options, 2)
    solution = solved(clipboard(options, field))
    assert solution.order <= highest
    assert rms(errors(field, solution.sip, options.shape)) < limit


@pytest.mark.parametrize("n", [3, 4, 5])
def test_three_to_five_stars_move_the_header(n: int) -> None:
    options = ToyStars(n=n, outliers=0.0, offset=(4.0, -3.0), distortion=0.2)
    field = toy_lists(options, 3)
    given = clipboard(options, field)
    solution = solved(given)
    assert (solution.kind, solution.order, solution.n_used) == ("shift", 0, n)
    assert rms(errors(field, solution.sip, options.shape)) < 300.0
    assert any("move the header" in warning for warning in given["warnings"])


def test_outliers_do_not_move_the_fit() -> None:
    options = replace(TYPICAL, n=300, outliers=0.0)
    field = toy_lists(options, 4)
    given = clipboard(options, field)
    given["icSrc"]["x"][::10] += 1.0
    solution = solved(given)
    assert rms(errors(field, solution.sip, options.shape)) < 6.0
    assert given["icSrc"]["calib_astrometry_used"][::10].mean() < 0.1


def test_no_header_but_a_rough_pointing() -> None:
    options = replace(TYPICAL, n=200, offset=(200.0, 100.0), rotation=137.0, parity=-1)
    field = toy_lists(options, 5)
    given = clipboard(options, field)
    given["calexp"].wcs = None
    solution = solved(given)
    assert rms(errors(field, solution.sip, options.shape)) < 8.0
    assert solution.sip.parity == -1


def test_a_header_that_is_all_wrong_leaves_the_pointing() -> None:
    options = replace(TYPICAL, n=200, rotation=90.0)
    field = toy_lists(options, 6)
    assert rms(errors(field, solved(clipboard(options, field)).sip, options.shape)) < 8.0


def test_neither_header_nor_pointing() -> None:
    options = replace(TYPICAL, n=100)
    given = clipboard(options, toy_lists(options, 7), ra=NAN, dec=NAN)
    given["calexp"].wcs = None
    with pytest.raises(BadDataError, match="place on the sky is unknown"):
        solved(given)


@pytest.mark.parametrize("n", [5, 20, 300])
def test_the_wrong_field_is_refused(n: int) -> None:
    options = replace(TYPICAL, n=n, outliers=0.0)
    given = clipboard(options, toy_lists(options, 8))
    given["reference"] = clipboard(options, toy_lists(options, 9))["reference"]
    with pytest.raises(BadDataError, match="beyond chance"):
        solved(given)


def test_without_a_catalogue_there_is_no_solution() -> None:
    options = replace(TYPICAL, n=50)
    given = clipboard(options, toy_lists(options, 10))
    given["reference"] = None
    inputs = {name: given[name] for name in wcs_determination.needs}
    given |= wcs_determination.run(WcsDeterminationConfig(), **inputs)
    verified(given)
    assert given["wcs_solution"] is None and len(given["icMatch"]) == 0


def test_no_sources_at_all() -> None:
    options = replace(TYPICAL, n=50)
    given = clipboard(options, toy_lists(options, 10))
    given["icSrc"] = given["icSrc"][:0]
    with pytest.raises(BadDataError, match="beyond chance"):
        solved(given)


def test_an_unknown_time_makes_larger_errors() -> None:
    options = replace(TYPICAL, n=200)
    field = toy_lists(options, 11)
    known = solved(clipboard(options, field))
    unknown = solved(clipboard(options, field, mjd_start=NAN))
    assert unknown.expected_rms > known.expected_rms + 20.0
    assert rms(errors(field, unknown.sip, options.shape)) < 15.0


def test_stars_are_chosen_by_flags_size_and_brightness() -> None:
    options = replace(TYPICAL, n=400, outliers=0.0)
    rows = clipboard(options, toy_lists(options, 12))["icSrc"]
    rows["calib_psf_used"][:40] = True
    rows["ixx"][50:100] = 9.0
    rows["flag_crowded"][100:150] = True
    first, *_, last = choose_stars(rows, WcsDeterminationConfig())
    assert not np.isin(np.arange(50, 150), first).any()
    assert rows["snr"][first].min() >= 30.0
    assert len(last) == len(rows)


def test_the_same_bits_again() -> None:
    options = replace(TYPICAL, n=200)
    first, again = (solved(clipboard(options, toy_lists(options, 13))) for _ in range(2))
    assert first.sip.cards() == again.sip.cards()


# Verification


def good(n: int = 300) -> tuple[ToyStars, dict[str, Any]]:
    options = replace(TYPICAL, n=n, outliers=0.2)
    given = clipboard(options, toy_lists(options, 20))
    solved(given)
    return options, given


def refused(given: dict[str, Any], sip: TanSip, reason: str, **changes: Any) -> None:
    given["wcs_solution"] = replace(given["wcs_solution"], sip=sip, **changes)
    with pytest.raises(BadDataError, match=reason):
        verified(given)


def test_a_wrong_match_is_refused() -> None:
    _, given = good()
    sip = given["wcs_solution"].sip
    refused(given, replace(sip, x=sip.x + 57.0), "match")


def test_a_folded_distortion_is_refused() -> None:
    _, given = good()
    sip = given["wcs_solution"].sip
    a = sip.a.copy()
    a[3, 0] -= 1e-7
    refused(given, replace(sip, a=a), "folds")


def test_a_wrong_scale_is_refused() -> None:
    _, given = good()
    sip = given["wcs_solution"].sip
    refused(given, replace(sip, cd=sip.cd * 1.05), "scale is off by")


def test_a_solution_that_holds_on_half_of_the_ccd_is_refused() -> None:
    options, given = good()
    right = given["icSrc"]["x"] > options.shape[1] / 2
    given["icSrc"]["y"][right] += 40.0
    sip = given["wcs_solution"].sip
    refused(given, sip, "right half of the CCD is unmatched")


def test_half_a_ccd_without_sources_is_no_fault_of_the_wcs() -> None:
    options, given = good()
    given["icSrc"] = given["icSrc"][given["icSrc"]["x"] < options.shape[1] / 2]
    verified(given)


def test_a_trend_of_the_residuals_is_refused() -> None:
    options, given = good()
    given["icSrc"]["y"] += 5.0 * (given["icSrc"]["x"] / options.shape[1] - 0.5) ** 2
    solution = given["wcs_solution"]
    refused(given, solution.sip, "depend on position", scatter=120.0)


def test_residuals_far_beyond_their_errors_are_refused() -> None:
    _, given = good()
    refused(given, given["wcs_solution"].sip, "residuals of 150 mas", rms_ra=150.0, rms_dec=150.0)


def test_stars_held_out_must_follow() -> None:
    _, given = good()
    refused(given, given["wcs_solution"].sip, "held out are off by 400 mas", cv_rms=400.0)


def test_an_error_that_grows_beyond_the_stars_is_refused() -> None:
    _, given = good()
    refused(given, given["wcs_solution"].sip, "where there are no stars", max_error=900.0)
