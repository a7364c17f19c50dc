"""Measurements at given positions: no bias at any flux, whatever stands beside; all is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.sim.toyfield import add_moffat
from mpipipe.stages import sfm
from mpipipe.stages.psf_photometry import Pixels
from mpipipe.stages.sfm.forced_measurement import ForcedMeasurementConfig, forced_measurement
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.stages.sfm.joint_fluxes import solve_close
from mpipipe.stages.sfm.measurement import registry
from mpipipe.stages.stage import Clipboard, check_chain, run_chain

from ..frames import FWHM, measured, sky, with_stars

SHAPE = (700, 720)
NOISE = 235.0
"""Of a PSF flux on this sky, about."""
BY_HEADER = ForcedMeasurementConfig(header_wcs=True, measurements=("circles",))


def header_wcs() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [300.0, 300.0]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs


def catalogue(x: np.ndarray, y: np.ndarray, **columns: np.ndarray) -> ReferenceStars:
    """What stands at these pixels."""
    ra, dec = header_wcs().all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
    rows = reference_rows({"id": np.arange(len(ra)) + 1, "ra": ra, "dec": dec, **columns}, ())
    return ReferenceStars(rows, (), "given")


def at(clipboard: Clipboard, positions: ReferenceStars | None, **changes: Any) -> np.ndarray:
    """Rows of forcedSrc."""
    given = {name: clipboard[name] for name in forced_measurement.needs if name != "positions"}
    config = changes.pop("config", BY_HEADER)
    rows = forced_measurement.run(config, positions=positions, **(given | changes))["forcedSrc"]
    assert rows.dtype == FORCED_SRC.dtype
    return np.asarray(rows)


def places(n: int, seed: int, step: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions on a grid, each somewhere in its pixel."""
    rng = np.random.default_rng(seed)
    columns = int(SHAPE[1] / step) - 1
    k = np.arange(n)
    x, y = step * (k % columns) + 0.75 * step, step * (k // columns) + 0.75 * step
    return x + rng.uniform(-0.5, 0.5, n), y + rng.uniform(-0.5, 0.5, n)


@pytest.fixture(scope="module")
def field() -> tuple[Clipboard, dict[str, np.ndarray]]:
    """Bright stars that make the PSF, faint ones, pairs of half a FWHM, and faint ones beside
    stars that are found."""
    x, y = places(256, 3)
    kind = np.arange(256) % 4
    faint = NOISE * np.array([0.0, 1.0, 3.0, 8.0])[np.arange(256) // 4 % 4]
    angle = np.arange(256) * 2.4
    stars = {
        "bright": np.stack([x, y, np.full(256, 3e4)], 1)[kind == 0],
        "faint": np.stack([x, y, faint], 1)[kind == 1],
        "pair": np.stack([x, y, np.full(256, 2e3)], 1)[kind == 2],
        "found": np.stack([x, y, np.full(256, 6e3)], 1)[kind == 3],
    }
    aside = 1.5 * FWHM * np.stack([np.cos(angle), np.sin(angle), np.zeros(256)], 1)[kind == 3]
    stars["mate"] = stars["pair"] + [0.35 * FWHM, 0.35 * FWHM, -1400.0]
    stars["beside"] = stars["found"] * [1.0, 1.0, 0.1] + aside
    every = [tuple(star) for group in stars.values() for star in group]
    exposure = with_stars(sky(SHAPE, seed=11), every)
    return measured(replace(exposure, wcs=header_wcs())), stars


def pulls(rows: np.ndarray, stars: np.ndarray, share: float) -> np.ndarray:
    return np.asarray((rows["psfInstFlux"] - share * stars[:, 2]) / rows["psfInstFluxErr"])


def test_fluxes_are_unbiased_down_to_none(field: tuple[Clipboard, dict[str, np.ndarray]]) -> None:
    """Faint ones, and each of the pairs, whose errors know of the other."""
    clipboard, stars = field
    groups = ("bright", "faint", "pair", "mate")
    every = np.concatenate([stars[name] for name in groups])
    rows = at(clipboard, catalogue(every[:, 0], every[:, 1]))
    np.testing.assert_array_equal(rows["objectId"], np.arange(len(every)) + 1)
    bright = slice(0, len(stars["bright"]))
    share = float(np.median(rows["psfInstFlux"][bright] / every[bright, 2]))
    assert 0.95 < share < 1.01
    pull = pulls(rows, every, share)[len(stars["bright"]) :]
    faint, pairs = np.split(pull, [64])
    for some in (faint, pairs):
        assert abs(some.mean()) < 3.0 / np.sqrt(len(some))
        assert 0.85 < some.std() < 1.15
    dark = rows[64:128][every[64:128, 2] == 0.0]
    assert (dark["psfInstFlux"] < 0).sum() > 3, "nothing is clipped"
    lone, paired = rows["psfInstFluxErr"][64:128], rows["psfInstFluxErr"][192:256]
    assert np.median(paired) > 1.2 * np.median(lone), "a neighbour costs knowledge"
    assert rows["flag_blended"][128:].all() and not rows["flag_shared"].any()


def test_detections_of_no_catalogue_are_taken_off(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    clipboard, stars = field
    beside = stars["beside"]
    rows = at(clipboard, catalogue(beside[:, 0], beside[:, 1]))
    pull = pulls(rows, beside, 0.985)
    assert abs(pull.mean()) < 3.0 / np.sqrt(len(pull)) and 0.75 < pull.std() < 1.3
    assert rows["flag_blended"].all()
    src = clipboard["src"]
    bright = stars["bright"]
    there = at(clipboard, catalogue(bright[:, 0], bright[:, 1]))
    assert (there["sourceId"] >= 0).all()
    same = src[np.searchsorted(src["id"], there["sourceId"])]
    assert np.hypot(same["x"] - there["x"], same["y"] - there["y"]).max() < 0.5
    np.testing.assert_allclose(there["psfInstFlux"], same["psfInstFlux"], rtol=0.03)


def test_all_measurements_and_pixels_are_told(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    clipboard, stars = field
    bright = stars["bright"][:12]
    config = ForcedMeasurementConfig(header_wcs=True)
    rows = at(clipboard, catalogue(bright[:, 0], bright[:, 1]), config=config)
    np.testing.assert_allclose(rows["x"], bright[:, 0], atol=1e-6)
    for name in ("apInstFlux_3", "gaussInstFlux", "kronInstFlux", "ixx", "apCorr"):
        assert np.isfinite(rows[name]).all(), name
    assert not rows["flag_aperture"].any() and rows["flag_footprint"].all()
    assert set(config.measurements) == set(registry())


def test_positions_outside_or_nowhere_are_left_out(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    x = np.array([-0.6, -0.4, 300.0, 719.4, 719.6, 300.0, np.nan, 3e5])
    y = np.array([300.0, 300.0, 300.0, 300.0, 300.0, 699.6, 300.0, 10.0])
    rows = at(field[0], catalogue(x, y))
    assert rows["objectId"].tolist() == [2, 3, 4]
    assert rows["flag_edge"].tolist() == [True, False, True]
    assert (np.isfinite(rows["psfInstFlux"]) | rows["flag_psfFlux"]).all()


def test_no_position_gives_no_row(field: tuple[Clipboard, dict[str, np.ndarray]]) -> None:
    nothing = np.empty(0)
    assert len(at(field[0], catalogue(nothing, nothing))) == 0
    assert len(at(field[0], None)) == 0


def test_the_order_of_the_catalogue_does_not_matter(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    clipboard, stars = field
    given = catalogue(*stars["pair"][:, :2].T)
    turned = replace(given, rows=given.rows[::-1])
    assert at(clipboard, given).tobytes() == at(clipboard, turned).tobytes()


def test_two_positions_in_one_place_share_its_light(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    clipboard, stars = field
    x, y, _ = stars["bright"][5]
    alone = at(clipboard, catalogue(np.array([x]), np.array([y])))
    both = at(clipboard, catalogue(np.array([x, x + 0.1]), np.array([y, y])))
    assert both["flag_shared"].all() and not alone["flag_shared"].any()
    assert (both["psfInstFlux"] == alone["psfInstFlux"]).all()
    assert both["x"][1] == pytest.approx(x + 0.1, abs=1e-6)


def test_stars_are_where_they_have_moved_to(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    years = 10.0
    epoch = np.array([60000.0 - 365.25 * years])
    motion = {"pm_ra": np.array([-200.0]), "pm_dec": np.array([0.0])}
    there = catalogue(np.array([300.0]), np.array([300.0]), epoch=epoch, **motion)
    row = at(field[0], there)[0]
    assert row["x"] == pytest.approx(310.0, abs=0.02)  # east is to the left
    assert row["refRa"] == there.rows["ra"][0] and row["ra"] < row["refRa"]
    assert row["mjd"] == pytest.approx(60000.0 + 15.0 / 86400, abs=1e-9)
    assert row["band"] == b"r"


def test_pixels_without_a_value_are_told() -> None:
    x, y = places(60, 8)
    exposure = with_stars(sky(SHAPE, seed=12), [(*place, 3e4) for place in zip(x, y, strict=True)])
    exposure.image[:, 400:] = np.nan
    exposure.mask[:, 400:] |= VALUE["NO_DATA"]
    clipboard = measured(replace(exposure, wcs=header_wcs()))
    rows = at(clipboard, catalogue(x, y), config=ForcedMeasurementConfig(header_wcs=True))
    lost = rows["x"] > 405
    assert np.isnan(rows["psfInstFlux"][lost]).all()
    assert rows["flag_psfFlux"][lost].all() and rows["flag_bad"][lost].all()
    whole = rows["x"] < 380
    assert np.isfinite(rows["psfInstFlux"][whole]).all() and not rows["flag_bad"][whole].any()


def without_stars() -> Exposure:
    return replace(sky(SHAPE), wcs=header_wcs())


def test_without_a_psf_fluxes_are_flagged() -> None:
    clipboard = measured(without_stars())
    assert clipboard["psf"].is_guess
    rows = at(clipboard, catalogue(np.array([300.0]), np.array([300.0])))
    assert rows["flag_psfFlux"].all() and np.isfinite(rows["apInstFlux_3"]).all()
    assert np.isnan(rows["psfFlux"]).all(), "there is no zero point"


def test_without_a_wcs_nothing_is_measured_and_the_stage_is_named(
    field: tuple[Clipboard, dict[str, np.ndarray]],
) -> None:
    clipboard = field[0] | {"positions": catalogue(np.array([300.0]), np.array([300.0]))}
    with pytest.raises(BadDataError, match="--refcat"):
        at(clipboard, clipboard["positions"], config=ForcedMeasurementConfig())
    no_wcs = replace(clipboard["calexp"], wcs=None)
    with pytest.raises(BadDataError):
        at(clipboard, clipboard["positions"], calexp=no_wcs)
    failed: list[str] = []
    after = run_chain(
        sfm.FORCED, {}, dict(clipboard), failed=lambda step, error: failed.append(step.name)
    )
    assert failed == ["sfm.forcedMeasurement"]
    assert len(after["forcedSrc"]) == 0 and after["forcedSrc"].dtype == FORCED_SRC.dtype


def test_it_can_be_switched_off() -> None:
    given = ("calexp", "background", "planes", "psf", "positions", "reference",
             "aperture_correction", "psf_systematic", "sdqa", "warnings")  # fmt: skip
    found = check_chain(sfm.PIPELINE + sfm.FORCED, given, ("sfm.forcedMeasurement",))
    assert "forcedSrc" in found


class Gaussian:
    """Just what `solve_close` asks of a PSF."""

    def images(
        self, x: np.ndarray, y: np.ndarray, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        stamps = np.zeros((len(x), 21, 21))
        for stamp, one, other in zip(stamps, x, y, strict=True):
            add_moffat(stamp, 10 + one - np.round(one), 10 + other - np.round(other), 1.0, 3.0)
        return stamps.astype(dtype)


def test_close_groups_get_the_fluxes_of_least_squares() -> None:
    """Against a solution over all pixels of a wide radius, where both are the same."""
    psf, rng = Gaussian(), np.random.default_rng(4)
    x, y = np.array([30.2, 31.0, 30.4, 50.0]), np.array([30.0, 30.1, 31.3, 30.0])
    light = np.zeros((60, 70, len(x)))
    for k, stamp in enumerate(psf.images(x, y)):
        j, i = round(y[k]) - 10, round(x[k]) - 10
        light[j : j + 21, i : i + 21, k] = stamp
    image = (light @ [500.0, 300.0, -50.0, 100.0] + rng.normal(0, 5, (60, 70))).astype(np.float32)
    flat = np.full(image.shape, 25.0, np.float32)
    pixels = Pixels(image, flat, np.zeros(image.shape, bool))
    correction, factor = solve_close(pixels, image, psf, x, y, np.zeros(4), 30.0, 2.0)  # type: ignore[arg-type]
    design = light[:, :, :3].reshape(-1, 3)
    expected, *_ = np.linalg.lstsq(design, image.ravel().astype(float), rcond=None)
    np.testing.assert_allclose(correction[:3], expected, atol=0.5)
    covariance = np.linalg.inv(design.T @ design)
    growth = np.sqrt(np.diag(covariance) * np.square(design).sum(axis=0))
    np.testing.assert_allclose(factor[:3], growth, rtol=0.01)
    assert correction[3] == 0.0 and factor[3] == 1.0
    same = np.array([30.0, 30.0])
    nothing, _ = solve_close(pixels, image, psf, same, same, np.zeros(2), 30.0, 2.0)  # type: ignore[arg-type]
    assert not np.isfinite(nothing).any() or np.abs(nothing).max() < 1e12
