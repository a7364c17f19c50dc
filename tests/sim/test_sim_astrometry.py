"""The WCS: exact both ways, what its header says, and wrong where it should be."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.camera import Channel
from mpipipe.data.sections import Section
from mpipipe.sim.astrometry import CcdWcs, focal_plane, gnomonic, header_wcs, true_wcs
from mpipipe.sim.instrument import make_instrument
from mpipipe.sim.raw_files import channel_wcs
from mpipipe.sim.survey import Survey, preset
from mpipipe.sim.visits import plan_visit

X, Y = np.random.default_rng(1).uniform(-100.0, 4100.0, (2, 500))


def wcs_of(survey: Survey, ccd: int = 0) -> tuple[CcdWcs, CcdWcs]:
    instrument = make_instrument(survey)
    detector = instrument.detectors[ccd]
    visit = plan_visit(survey, 0, 2)
    place = focal_plane(instrument.camera, detector, instrument.detectors, survey)
    nominal = focal_plane(instrument.camera, detector, instrument.detectors)
    return true_wcs(place, survey, visit), header_wcs(nominal, visit)


@pytest.mark.parametrize("ccd", [0, 8])
def test_there_and_back_is_exact(ccd: int) -> None:
    wcs, _ = wcs_of(preset("full", n_ccds=9), ccd)
    x, y = wcs.sky_to_pixel(*wcs.pixel_to_sky(X, Y))
    assert np.abs(x - X).max() < 1e-9
    assert np.abs(y - Y).max() < 1e-9


def test_astropy_reads_the_same_from_the_header() -> None:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    wcs, _ = wcs_of(preset("full", n_ccds=9), 3)
    header = Header()
    for key, value in wcs.cards().items():
        header[key] = value
    ra, dec = WCS(header).all_pix2world(X, Y, 0)
    mine = wcs.pixel_to_sky(X, Y)
    assert np.abs(ra - mine[0]).max() * 3.6e6 < 1e-3
    assert np.abs(dec - mine[1]).max() * 3.6e6 < 1e-3


def test_distortion_has_the_size_asked_for() -> None:
    """A straight line fitted to the field leaves arcseconds, not nothing and not minutes."""
    wcs, _ = wcs_of(preset("full", distortion=3.0))
    xi, eta = gnomonic(*wcs.pixel_to_sky(X, Y), wcs.ra, wcs.dec)
    design = np.stack([X, Y, np.ones_like(X)], axis=1)
    rest = eta - design @ np.linalg.lstsq(design, eta, rcond=None)[0]
    assert 0.3 < np.abs(rest).max() * 3600.0 < 3.0


def test_header_is_wrong_by_its_pointing_error() -> None:
    off = []
    for seed in range(30):
        survey = preset("tiny", seed=seed, pointing_error=10.0, ccd_shift=0.0)
        wcs, header = wcs_of(survey)
        ra, dec = wcs.pixel_to_sky(np.array([255.5]), np.array([249.5]))
        hra, hdec = header.pixel_to_sky(np.array([255.5]), np.array([249.5]))
        off += [(hra - ra)[0] * np.cos(np.radians(dec[0])) * 3600, (hdec - dec)[0] * 3600]
    assert 7.0 < np.std(off) < 13.0
    assert np.abs(off).max() < 35.0


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_channel_header_places_the_same_sky_on_the_same_pixel(flips: tuple[bool, bool]) -> None:
    """A raw pixel must get the sky of the CCD pixel that it holds."""
    _, header = wcs_of(preset("tiny"))
    place = Section(64, 128, 250, 500, *flips)
    channel = Channel(name="A", datasec=Section(10, 74, 0, 250), detsec=place)
    image_y, image_x = np.indices((500, 512))
    raw_x = np.full((250, 84), -1)
    raw_y = np.full((250, 84), -1)
    raw_x[:, 10:74] = place.cut(image_x)
    raw_y[:, 10:74] = place.cut(image_y)
    on_raw = channel_wcs(channel, header).pixel_to_sky(np.array([20.0]), np.array([33.0]))
    on_ccd = header.pixel_to_sky(raw_x[33, [20]].astype(float), raw_y[33, [20]].astype(float))
    assert np.allclose(on_raw, on_ccd, rtol=0, atol=1e-12)
