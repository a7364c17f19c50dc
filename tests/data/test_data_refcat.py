"""Reference stars stand where astropy says that they do at any time, with errors that grow."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.refcat import (
    UNKNOWN_POSITION_ERROR,
    UNKNOWN_PROPER_MOTION,
    ReferenceStars,
    reference_rows,
    reference_schema,
)

J2016 = 57388.5


def stars_of(**columns: object) -> ReferenceStars:
    n_rows = len(np.atleast_1d(np.asarray(columns["ra"])))
    filled = {name: np.broadcast_to(value, n_rows) for name, value in columns.items()}
    filled.setdefault("id", np.arange(n_rows))
    return ReferenceStars(reference_rows(filled, ("g", "r")), ("g", "r"), "test")


@pytest.mark.parametrize("mjd", [47892.0, J2016, 61000.3])
@pytest.mark.filterwarnings("ignore:ERFA function")
def test_epoch_against_astropy(mjd: float) -> None:
    """Proper motion and parallax of stars as near as the nearest, at the poles too, to 0.1 mas."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord, get_body_barycentric
    from astropy.time import Time
    from astropy.utils import iers

    rng = np.random.default_rng(1)
    n = 300
    ra = rng.uniform(0.0, 360.0, n)
    dec = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, n)))
    dec[:3] = 89.9999, -89.9999, 90.0
    parallax = 10.0 ** rng.uniform(-1.0, 2.8, n)
    # 50 km/s across the line of sight.
    motion = parallax * rng.normal(0.0, 10.0, (2, n))
    stars = stars_of(
        ra=ra, dec=dec, pm_ra=motion[0], pm_dec=motion[1], parallax=parallax, epoch=J2016
    )
    rows = stars.rows
    exact = SkyCoord(
        ra * u.deg,
        dec * u.deg,
        distance=1000.0 / rows["parallax"].astype(float) * u.pc,
        pm_ra_cosdec=rows["pm_ra"].astype(float) * u.mas / u.yr,
        pm_dec=rows["pm_dec"].astype(float) * u.mas / u.yr,
        radial_velocity=0.0 * u.km / u.s,
        obstime=Time(J2016, format="mjd", scale="tai"),
    )
    with iers.conf.set_temp("auto_download", False):
        time = Time(mjd, format="mjd", scale="tai")
        moved = exact.apply_space_motion(new_obstime=time)
        earth = get_body_barycentric("earth", time, ephemeris="builtin")
        seen = SkyCoord(moved.cartesian.without_differentials() - earth)
    placed = stars.at_epoch(mjd)
    apart = SkyCoord(placed.ra * u.deg, placed.dec * u.deg).separation(seen).to_value(u.mas)
    assert apart.max() < 0.1
    assert np.all((placed.ra >= 0.0) & (placed.ra < 360.0))


def test_earth_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parallaxes need no table of leap seconds, so nothing is looked for on the network."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("somebody wants to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    placed = stars_of(ra=10.0, dec=5.0, parallax=700.0, epoch=J2016).at_epoch(88000.0)
    assert 0.2 < np.hypot(placed.ra - 10.0, placed.dec - 5.0)[0] * 3600.0 < 0.8


def test_unknown_is_not_made_up() -> None:
    """Stars without motion, parallax or epoch stay where they are, with errors that say so."""
    nan = np.nan
    stars = stars_of(
        ra=[1.0, 2.0, 3.0, 4.0],
        dec=[0.0, 0.0, 0.0, 0.0],
        ra_error=[1.0, 1.0, nan, 0.0],
        dec_error=1.0,
        pm_ra=[nan, 100.0, nan, 0.0],
        pm_dec=[nan, 0.0, nan, 0.0],
        pm_ra_error=[nan, 0.5, nan, 0.0],
        parallax=[-3.0, nan, nan, 0.0],
        epoch=[J2016, J2016, nan, J2016],
    )
    placed = stars.at_epoch(J2016 + 3652.5)
    assert placed.ra == pytest.approx([1.0, 2.0 + 1000.0 / 3.6e6, 3.0, 4.0], abs=1e-12)
    assert placed.ra_error == pytest.approx(
        [
            np.hypot(1.0, 10.0 * UNKNOWN_PROPER_MOTION),
            np.hypot(1.0, 5.0),
            UNKNOWN_POSITION_ERROR,
            UNKNOWN_POSITION_ERROR,
        ]
    )
    assert np.all(np.isfinite(placed.dec_error))


def test_a_schema_has_a_magnitude_and_its_error_for_each_band() -> None:
    names = reference_schema(("g", "gaia_rp")).dtype.names or ()
    assert names[-4:] == ("mag_g", "mag_g_error", "mag_gaia_rp", "mag_gaia_rp_error")
    with pytest.raises(KeyError, match="mag_z"):
        reference_rows({"id": np.zeros(1), "ra": np.zeros(1), "mag_z": np.zeros(1)}, ("g",))


def test_no_stars() -> None:
    placed = stars_of(ra=[], dec=[], id=[]).at_epoch(60000.0)
    assert len(placed) == 0
