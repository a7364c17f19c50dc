"""The detector: charge is kept, corrections can undo what it does, numbers are as asked."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.camera import Linearity
from mpipipe.sim import cosmic_rays
from mpipipe.sim.detector import (
    DEAD,
    HOT,
    LOW,
    brighter_fatter,
    dark_rate,
    defect_map,
    full_well_map,
    linear_signal,
    measured_signal,
    response,
    spill,
)
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.survey import Survey, preset


def ccd_of(survey: Survey) -> str:
    return make_instrument(survey).detectors[0].name


def test_bleeding_keeps_charge_and_stays_in_its_column() -> None:
    rng = np.random.default_rng(3)
    charge = rng.uniform(0, 50, (200, 7)).astype(np.float32)
    charge[90:95, 3] = 1500.0
    well = np.full_like(charge, 100.0)
    before = charge.astype(float).sum(axis=0)
    untouched = charge[:, [0, 1, 2, 4, 5, 6]].copy()
    state = spill(charge, well)
    assert np.allclose(charge.sum(axis=0, dtype=float), before, rtol=1e-6)
    assert np.array_equal(charge[:, [0, 1, 2, 4, 5, 6]], untouched)
    assert charge.max() <= 100.0
    column = state[:, 3]
    reached = np.flatnonzero(column)
    assert (np.diff(reached) == 1).all()
    assert (column == 1).sum() == 5
    # Half goes up, half down.
    assert abs((reached > 94).sum() - (reached < 90).sum()) < 20


def test_charge_beyond_the_edge_is_lost() -> None:
    charge = np.zeros((10, 1), dtype=np.float32)
    charge[0] = 300.0
    state = spill(charge, np.full_like(charge, 100.0))
    assert charge.sum() == pytest.approx(200.0)
    assert state[1, 0] == 2


@pytest.mark.parametrize(
    "linearity",
    [
        Linearity(kind="polynomial", coefficients=(1.1e-7, 3e-13)),
        Linearity(kind="polynomial", coefficients=(-4e-7,)),
        Linearity(kind="table", coefficients=(0, 0, 30000, 30500, 60000, 62000)),
        Linearity(),
    ],
)
def test_the_cameras_correction_undoes_non_linearity(linearity: Linearity) -> None:
    linear = np.linspace(0, 60000, 500, dtype=np.float32)
    back = linear_signal(measured_signal(linear, linearity), linearity)
    assert np.abs(back - linear).max() < 0.01


def test_response_averages_to_one_over_the_camera() -> None:
    survey = preset("tiny", n_ccds=4, low_response=1e-3)
    means, scatter = [], []
    for detector in make_instrument(survey).detectors:
        flat = response(survey, detector.name, "r")
        good = defect_map(survey, detector.name) == 0
        means.append(flat[good].mean(dtype=float))
        scatter.append(np.std(np.diff(flat[:100], axis=1)[good[:100, 1:] & good[:100, :-1]]))
        low = defect_map(survey, detector.name) & LOW != 0
        assert flat[low].max() < 0.7
    # Dust and the sampling of pixel response are all that is left.
    assert np.mean(means) == pytest.approx(1.0, abs=5e-4)
    assert np.mean(scatter) / np.sqrt(2) == pytest.approx(survey.pixel_response, rel=0.1)


def test_defects_are_as_many_as_asked_and_do_what_they_say() -> None:
    survey = preset("tiny", hot_pixels=1e-3, dead_columns=2)
    ccd = ccd_of(survey)
    defects = defect_map(survey, ccd)
    hot = defects & HOT != 0
    assert 0.7e-3 < hot.mean() < 1.3e-3
    dark = dark_rate(survey, ccd)
    assert np.allclose(dark[~hot], survey.dark_current)
    assert np.median(dark[hot]) == pytest.approx(survey.hot_rate, rel=0.5)
    dead = (defects & DEAD != 0).any(axis=0)
    assert dead.sum() == 2
    assert (response(survey, ccd, "r")[defects & DEAD != 0] == 0).all()


def test_a_full_pixel_is_seen_as_saturated(survey: Survey) -> None:
    """The raw level of the full well must lie above the camera file's saturation."""
    chip = make_chip(survey, ccd_of(survey))
    well = full_well_map(survey, chip)
    for channel, gain in zip(chip.kind.channels, chip.gain, strict=True):
        assert channel.detsec is not None and channel.saturation is not None
        linear = channel.detsec.cut(well)[:1, :1] / gain
        raw = measured_signal(linear.astype(np.float32), channel.linearity) + survey.bias_level
        assert channel.saturation + 200 < raw[0, 0] <= 65535


def test_brighter_fatter_keeps_charge_and_widens() -> None:
    y, x = np.indices((31, 31)) - 15.0
    charge = (5e4 * np.exp(-(x * x + y * y) / 8.0)).astype(np.float32)
    moved = brighter_fatter(charge, 1e-6)
    assert moved.sum(dtype=float) == pytest.approx(charge.sum(dtype=float), rel=1e-6)
    r2 = x * x + y * y
    assert (moved * r2).sum() > 1.005 * (charge * r2).sum()


class TestCosmicRays:
    def hits(self, survey: Survey, *key: object, seconds: float = 100.0) -> tuple:
        chip = make_chip(survey, ccd_of(survey))
        return cosmic_rays.hits(survey, chip.detector, (2000, 2048), 10.0, seconds, *key)

    def test_differ_between_snaps_and_repeat_for_the_same(self, survey: Survey) -> None:
        first, second = self.hits(survey, 1, 0), self.hits(survey, 1, 1)
        again = self.hits(survey, 1, 0)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first[0][:50], second[0][:50])

    def test_rate_and_charge(self, survey: Survey) -> None:
        from scipy.ndimage import label

        y, x, charge = self.hits(survey, "rate")
        image = np.zeros((2000, 2048))
        image[y, x] = charge
        _, n = label(image > 0, np.ones((3, 3)))
        expected = survey.cosmic_rays * 4.096e6 * 1e-6 * 100.0
        assert abs(n - expected) < 5 * np.sqrt(expected)
        # About 80 electrons a micron, through at least 100 microns for muons.
        assert 5_000 < charge.sum() / n < 60_000

    def test_muons_are_thin(self, survey: Survey) -> None:
        """Sharper than any star: most of a track's charge lies within a pixel of its line."""
        chip = make_chip(survey, ccd_of(survey))
        image = np.zeros((60, 60), dtype=np.float32)
        depth = np.linspace(0, 1, 200)
        track = (np.linspace(10, 50, 200), np.full(200, 30.2), np.full(200, 50.0), depth)
        cosmic_rays._deposit(image, *track, survey.diffusion)
        assert image.sum() == pytest.approx(10_000.0, rel=0.01)
        assert image[29:32].sum() > 0.99 * image.sum()
        assert chip.detector.name
