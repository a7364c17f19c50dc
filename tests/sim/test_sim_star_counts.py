"""Star counts of the Galaxy: known places, known numbers, and a sky that holds them."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.sim.sky import GALAXY, STAR, TILE, bulge_fraction, star_count, tile_objects
from mpipipe.sim.star_counts import cumulative_counts, galactic_place, stars_per_magnitude
from mpipipe.sim.survey import preset


def test_galactic_coordinates_are_astropys() -> None:
    from astropy.coordinates import SkyCoord

    for ra, dec in ((0.0, 0.0), (150.1, 2.2), (266.4, -28.9), (192.86, 27.13), (12.0, -80.0)):
        wanted = SkyCoord(ra, dec, unit="deg").galactic
        longitude, latitude = galactic_place(ra, dec)
        assert latitude == pytest.approx(wanted.b.deg, abs=1e-4)
        assert np.cos(np.radians(longitude - wanted.l.deg)) == pytest.approx(1.0, abs=1e-6)


def test_counts_at_the_pole_sum_to_the_integrated_formula() -> None:
    """The paper's separate fit to the integrated counts, which we do not use: 15 % is its claim."""
    v, pole = np.linspace(5.0, 20.0, 4000), 90.0
    counted = np.trapezoid(stars_per_magnitude(v - 0.2, 0.0, pole), v)
    disk = 925.0 * 10 ** (0.035 * 4.25) / (1.0 + 10 ** (-0.132 * 4.25)) ** 3
    spheroid = 1050.0 * 10 ** (0.087 * 2.5) / (1.0 + 10 ** (-0.180 * 2.5)) ** 2.5
    assert counted == pytest.approx(disk + spheroid, rel=0.15)


def test_there_are_more_towards_the_plane_and_the_centre() -> None:
    mag = np.array([16.0, 20.0, 24.0])
    pole, low, centre = (stars_per_magnitude(mag, *at) for at in ((0, 90), (180, 25), (0, 25)))
    assert (low > 1.5 * pole).all()
    assert (centre > low).all()
    assert np.array_equal(stars_per_magnitude(mag, 30.0, -40.0), stars_per_magnitude(mag, 30, 40))


def test_a_sky_by_the_galaxy_has_as_many_as_it_says() -> None:
    survey = preset("tiny", star_counts="galactic", galaxy_mag_max=25.1, ra=240.0, dec=5.0)
    rows = np.concatenate([tile_objects(survey, i, j) for i in range(6) for j in range(6)])
    mag = rows["mag_r"][rows["kind"] == STAR]
    for bright, faint in ((15.0, 20.0), (20.0, 24.0), (24.0, 27.0)):
        wanted = star_count(survey, bright, faint) * 36 * TILE**2
        found = ((mag > bright) & (mag < faint)).sum()
        assert abs(found - wanted) < 4.5 * np.sqrt(wanted)
    assert cumulative_counts(15.0, 20.0, 240.0, 5.0)[1][-1] == star_count(survey, 15.0, 20.0)
    with pytest.raises(ConfigError, match="Galactic latitude") as caught:
        preset("tiny", star_counts="galactic", ra=266.0, dec=-29.0)
    assert caught.value.key == "star_counts"


def test_bulges_are_redder_by_the_gradient_and_magnitudes_stay() -> None:
    plain = preset("tiny", galaxy_mag_max=25.1)
    graded = preset("tiny", galaxy_mag_max=25.1, galaxy_colour_gradient=0.4)
    rows = tile_objects(graded, 0, 0)
    assert np.array_equal(rows, tile_objects(plain, 0, 0))
    mixed = rows[(rows["kind"] == GALAXY) & (rows["bulge"] > 0.02) & (rows["bulge"] < 0.98)]
    g, r = (bulge_fraction(graded, mixed, band).astype(float) for band in "gr")
    assert np.array_equal(bulge_fraction(graded, mixed, "r"), mixed["bulge"])
    # g - r of the bulge less that of the disk.
    colour = -2.5 * np.log10((g / r) / ((1 - g) / (1 - r)))
    assert np.allclose(colour, 0.4, atol=1e-3)
    assert np.array_equal(bulge_fraction(plain, mixed, "u"), mixed["bulge"])
