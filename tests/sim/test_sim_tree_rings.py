"""Tree rings: displacement and areas belong together, light is kept, flats show them."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.sim.detector import response
from mpipipe.sim.exposures import simulate_visit
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.survey import preset
from mpipipe.sim.tree_rings import displaced, pixel_area, ring_centre

RINGS = preset("tiny", n_ccds=1, tree_rings=0.05, galaxy_mag_max=25.1)
PLAIN = preset("tiny", n_ccds=1, galaxy_mag_max=25.1)
CCD = make_instrument(RINGS).detectors[0].name


def test_areas_are_those_of_the_displaced_pixels() -> None:
    """The area of a pixel is the light that falls between where its corners look."""
    chip = make_chip(RINGS, CCD)
    area = pixel_area(RINGS, chip)
    ny, nx = chip.shape
    y, x = np.mgrid[20 : ny - 20 : 7, 20 : nx - 20 : 7].astype(float)
    step = 0.5
    ax, ay = displaced(RINGS, chip, x + step, y)
    bx, by = displaced(RINGS, chip, x - step, y)
    cx, cy = displaced(RINGS, chip, x, y + step)
    dx, dy = displaced(RINGS, chip, x, y - step)
    stretched = (ax - bx) * (cy - dy) - (ay - by) * (cx - dx)
    found = area[y.astype(int), x.astype(int)]
    assert np.abs(found - 1.0 / stretched).max() < 5e-4
    assert 0.002 < np.std(found) < 0.02
    assert area.mean() == pytest.approx(1.0, abs=1e-3)


def test_the_displacement_is_radial_and_as_large_as_asked() -> None:
    chip = make_chip(RINGS, CCD)
    x0, y0 = ring_centre(RINGS, chip)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 512, 5000), rng.uniform(0, 500, 5000)
    new_x, new_y = displaced(RINGS, chip, x, y)
    assert np.std(np.hypot(new_x - x0, new_y - y0) - np.hypot(x - x0, y - y0)) == pytest.approx(
        0.05, rel=0.3
    )
    across = (new_x - x) * (y - y0) - (new_y - y) * (x - x0)
    assert np.abs(across).max() < 1e-9
    assert displaced(PLAIN, chip, x, y)[0] is x


def test_flats_have_them_and_stars_are_only_moved() -> None:
    chip = make_chip(RINGS, CCD)
    ratio = response(RINGS, CCD, "r").copy()
    plain = response(PLAIN, CCD, "r")
    good = plain > 0.5
    assert np.allclose(ratio[good] / plain[good], pixel_area(RINGS, chip)[good], rtol=1e-6)
    first, second = (simulate_visit(survey, CCD, 0)[1] for survey in (PLAIN, RINGS))
    assert np.array_equal(first.sources.flux, second.sources.flux)
    moved = np.hypot(second.sources.x - first.sources.x, second.sources.y - first.sources.y)
    assert 0.02 < np.sqrt(np.mean(moved**2)) < 0.1
    # The charge of the sources is the same: what is calibrated by the flat is over the area.
    sky = first.sky
    light = ((second.expected - sky) * pixel_area(RINGS, chip)).sum()
    assert light == pytest.approx((first.expected - sky).sum(), rel=2e-3)
