"""A catalogue out of frames: known skies come back, what is no star does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpipipe.stages.selfref.catalogue import FramesCatalogue, catalogue_of
from mpipipe.stages.selfref.frame import Frame
from mpipipe.stages.selfref.magnitudes import ZERO
from tests.stages.selfref.frames_on_sky import OPTIONS, Sky

DITHERS = [(0, 0), (60, -40), (-80, 30), (20, 90), (110, 70), (-50, -100), (35, 15), (-90, 95)]


def made(frames: list[Frame]) -> FramesCatalogue:
    return catalogue_of(frames, OPTIONS)


def dithered(sky: Sky, **options: Any) -> list[Frame]:
    return [
        sky.frame(visit, at=at, turn=0.3 * visit, **options) for visit, at in enumerate(DITHERS)
    ]


def seen_by_all(sky: Sky, rows: np.ndarray) -> np.ndarray:
    """Which rows are in the middle of the field, which every dithered frame covers."""
    east = ((rows["ra"] - sky.ra0 + 180.0) % 360.0 - 180.0) * np.cos(np.radians(sky.dec0)) * 3600.0
    return np.asarray((np.abs(east) < 330.0) & (np.abs(rows["dec"] - sky.dec0) < 330.0 / 3600.0))


def linear_free(sky: Sky, rows: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Offsets less a linear map of the sky, which is common to all frames: their headers'."""
    east = (rows["ra"] - sky.ra0 + 180.0) % 360.0 - 180.0
    design = np.stack([np.ones(len(rows)), east, rows["dec"] - sky.dec0], axis=1)
    weight = np.where(np.abs(off - np.median(off)) < 1.0, 1.0 / rows["ra_error"], 0.0)
    fitted = np.linalg.lstsq(design * weight[:, None], off * weight, rcond=None)[0]
    return np.asarray(off - design @ fitted)


def places(found: FramesCatalogue) -> list[int | None]:
    return [report.group for report in found.frames]


@pytest.mark.parametrize("ra", [150.0, 0.01])
def test_a_known_sky_comes_back(ra: float) -> None:
    """Positions but for a common shift, magnitudes but for a constant; also around RA 0."""
    sky = Sky(ra, -35.0)
    clouds = [0.0, 0.3, 0.1, 1.2, 0.0, 0.5, 0.7, 0.05]
    frames = [
        sky.frame(visit, at=at, turn=0.2 * visit, zero_point=28.0 - clouds[visit])
        for visit, at in enumerate(DITHERS)
    ]
    found = made(frames)
    assert places(found) == [0] * 8 and found.n_groups == 1
    star, east, north, is_star = sky.matched(found.rows)
    assert len(np.unique(star[is_star])) == is_star.sum() > 120
    assert is_star[seen_by_all(sky, found.rows)].all()
    many = is_star & (found.rows["ra_error"] < 12.0)
    assert many.sum() > 80
    for off in (east, north):
        # Headers are off by up to 3 arcsec; their mean by less.
        assert abs(np.median(off[many])) < 2.5
        assert np.std(linear_free(sky, found.rows, off)[many]) < 0.02
    apart = found.rows["mag_r"] - sky.magnitude["r"][star]
    assert np.std(apart[many] - np.median(apart[many])) < 0.004
    extinction = np.array([report.extinction for report in found.frames])
    assert np.allclose(extinction, clouds, atol=0.004)
    assert extinction.min() == pytest.approx(0.0, abs=1e-9)
    best = max(report.zero_point for report in found.frames)
    assert best == pytest.approx(ZERO + 2.5 * np.log10(30.0))
    assert found.rms < 1.3 * 0.02


def test_errors_are_those_of_the_positions() -> None:
    sky = Sky(80.0, 10.0)
    rows = made(dithered(sky)).rows
    star, east, north, found = sky.matched(rows)
    for off, error in ((east, "ra_error"), (north, "dec_error")):
        pull = 1e3 * (linear_free(sky, rows, off) / rows[error])[found]
        assert 0.6 < 1.4826 * np.median(np.abs(pull)) < 1.4
    assert np.all(rows["pm_ra"] != rows["pm_ra"]) and np.all(np.diff(rows["ra"]) >= 0.0)
    assert rows["epoch"] == pytest.approx(60000.0035, abs=0.004)


def test_frames_without_a_wcs_find_their_places_by_their_pointing_or_by_others() -> None:
    sky = Sky(10.0, 60.0)
    frames = [
        sky.frame(
            visit,
            at=at,
            turn=0.1 * visit + (77.0 if visit == 5 else 0.0),
            has_header=visit < 2,
            pointing_error=np.nan if visit in (3, 6) else 60.0,
        )
        for visit, at in enumerate(DITHERS)
    ]
    found = made(frames)
    assert places(found) == [0] * 8
    assert [np.isnan(report.header_offset) for report in found.frames] == [False] * 2 + [True] * 6
    assert found.rms < 1.3 * 0.02


def test_fields_that_share_no_stars_are_groups_of_their_own() -> None:
    one, other = Sky(200.0, 5.0), Sky(220.0, 5.0, seed=2)
    frames = [*dithered(one)[:4], *dithered(other)[:4]]
    frames.append(Sky(240.0, 5.0, seed=3).frame(99, has_header=False))
    found = made(frames)
    assert places(found) in ([0] * 4 + [1] * 4 + [None], [1] * 4 + [0] * 4 + [None])
    assert found.n_groups == 2 and found.n_parts == {"r": 2}
    assert "match" in found.frames[-1].reason
    for sky in (one, other):
        assert sky.matched(found.rows)[3].sum() > 80


def test_nothing_stands_on_frames_without_any_wcs() -> None:
    found = made(dithered(Sky(30.0, 0.0), has_header=False))
    assert places(found) == [None] * 8 and len(found.rows) == 0
    assert all("no frame has a WCS" in report.reason for report in found.frames)


def test_a_hot_pixel_is_no_star() -> None:
    """It is in every frame at the same pixel, and at another place on the sky."""
    sky = Sky(150.0, 2.0)
    frames = dithered(sky, hot=((333.3, 444.4), (700.0, 120.0)), n_false=0)
    found = made(frames)
    assert found.n_on_detector == 16
    assert sky.matched(found.rows)[3].all()


def test_a_pattern_of_hot_pixels_does_not_match_itself() -> None:
    sky = Sky(150.0, 2.0, n_stars=150)
    hot = tuple(map(tuple, np.random.default_rng(5).uniform(20, 980, (120, 2))))
    found = made(dithered(sky, hot=hot))
    assert places(found) == [0] * 8
    assert sky.matched(found.rows)[3][seen_by_all(sky, found.rows)].all()


def test_stars_of_a_telescope_that_does_not_move_are_kept() -> None:
    sky = Sky(150.0, 2.0)
    frames = [sky.frame(visit) for visit in range(6)]
    found = made(frames)
    assert places(found) == [0] * 6 and found.n_on_detector == 0
    assert len(found.rows) > 100


def test_what_is_seen_once_stays_only_where_nobody_else_looked() -> None:
    sky = Sky(150.0, 2.0, width=0.7, n_stars=800)
    frames = dithered(sky, n_false=30)
    frames.append(sky.frame(50, at=(700.0, 0.0), n_false=0))
    rows = made(frames).rows
    assert sky.matched(rows)[3][seen_by_all(sky, rows)].all()
    east = ((rows["ra"] - 150.0) * np.cos(np.radians(2.0))) * 3600.0
    once = east > 700.0
    assert once.sum() > 30
    assert np.median(rows["ra_error"][once]) > 2.0 * np.median(rows["ra_error"][np.abs(east) < 300])


def test_a_mosaic_of_bands_and_ccds_holds_together() -> None:
    """Neighbours overlap by a fifth; the far ends share no stars. Bands have their own zeros."""
    sky = Sky(310.0, -20.0, width=0.9, n_stars=1500)
    frames = []
    for visit in range(6):
        for number in range(2):
            at = (-1000.0 + 800.0 * number + 40.0 * visit, 200.0 * (visit % 3))
            frames.append(
                sky.frame(
                    visit, at=at, ccd=f"ccd{number}", band="rg"[visit % 2],
                    zero_point=28.0 - 0.1 * visit, n_false=5,
                )
            )  # fmt: skip
    found = made(frames)
    assert places(found) == [0] * 12 and found.bands == ("g", "r")
    assert found.n_parts == {"g": 1, "r": 1}
    star, _, _, is_star = sky.matched(found.rows)
    for band in "gr":
        apart = (found.rows[f"mag_{band}"] - sky.magnitude[band][star])[is_star]
        apart = apart[np.isfinite(apart)]
        assert 1.4826 * np.median(np.abs(apart - np.median(apart))) < 0.004
    assert found.rms < 1.3 * 0.02


def test_the_same_frames_give_the_same_bits() -> None:
    frames = dithered(Sky(123.0, 45.0))
    assert made(frames).rows.tobytes() == made(frames).rows.tobytes()


def test_empty_frames_do_no_harm() -> None:
    sky = Sky(123.0, 45.0)
    frames = dithered(sky)
    frames[3] = frames[3].only(np.zeros(len(frames[3]), dtype=bool))
    frames[4] = frames[4].only(np.arange(len(frames[4])) < 2)
    found = made(frames)
    assert [report.group for report in found.frames] == [0, 0, 0, None, None, 0, 0, 0]
    assert "only 0 sources" in found.frames[3].reason
    assert len(made([]).rows) == 0 and len(made([frames[3]]).rows) == 0


def test_neighbours_that_overlap_by_half_are_one_group() -> None:
    """Whatever the step: the part that others cover is counted, not where points fall."""
    sky = Sky(45.0, -70.0, n_stars=1500, width=0.9)
    for step in (437.0, 500.0, 563.0):
        frames = [sky.frame(visit, at=(step * (visit - 2), 0.0)) for visit in range(5)]
        assert places(made(frames)) == [0] * 5
