"""WCS and zero point in exposure files: what was found comes back, and can be found again."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from mpipipe.data.ccd_polynomial import CcdPolynomial
from mpipipe.data.exposure import Exposure
from mpipipe.data.photo_calib import PhotoCalib
from mpipipe.data.raw import FrameInfo
from mpipipe.data.tan_sip import TanSip
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.store.images import read_exposure, read_settled, settle

SHAPE = (120, 200)


def linear() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10.0, -30.0], [100.0, 60.0], [-5e-5, 5e-5]
    return wcs


def plain(wcs: WCS | None) -> Exposure:
    rng = np.random.default_rng(4)
    info = FrameInfo("cam", 12, 0, "R22_S11", 94, "science", "r", 30.0, 31.0, 60000.25)
    image = rng.normal(0, 20, SHAPE).astype(np.float32)
    return Exposure(
        image, np.zeros(SHAPE, np.int32), np.full(SHAPE, 400, np.float32), info, wcs=wcs
    )


def solution(order: int) -> WcsSolution:
    cd = np.array([[-5.1e-5, 1e-7], [2e-7, 5.05e-5]])
    a, b = np.zeros((order + 1, order + 1)), np.zeros((order + 1, order + 1))
    if order > 1:
        a[2, 0], b[1, 1], a[0, order] = 3e-7, -1.5e-7, 1e-9
    sip = TanSip.make((10.01, -30.02), (99.5, 58.25), cd, (a, b) if order > 1 else None, SHAPE)
    return WcsSolution(
        sip=sip, kind="sip" if order > 1 else "affine", order=order, n_matched=80, n_used=75,
        rms_x=0.02, rms_y=0.021, rms_ra=4.0, rms_dec=4.2, expected_rms=3.9, scatter=1.0, error=1.1,
        max_error=2.0, cv_rms=float("nan"), header_offset=12.5, log_chance=-80.0,
        is_relative=False, reference="gaia",
    )  # fmt: skip


def zero_point() -> PhotoCalib:
    return PhotoCalib(CcdPolynomial.constant(28.123, 0.002, SHAPE), 0.001, "r", None, 55, 0.012)


def characterized(exposure: Exposure, order: int) -> Exposure:
    found = solution(order)
    return replace(
        exposure,
        wcs=found.sip.to_astropy(),
        astrometry=found,
        initial_wcs=exposure.wcs,
        photo_calib=zero_point(),
    )


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("compression", ["quantized", "none"])
def test_what_was_found_comes_back(order: int, compression: str, tmp_path: Path) -> None:
    settled = settle(plain(linear()), compression)  # type: ignore[arg-type]
    written = replace(settled, exposure=characterized(settled.exposure, order))
    written.write(tmp_path / "e.fits", {})
    back = read_exposure(tmp_path / "e.fits")
    assert back.astrometry is not None
    expected = solution(order)
    for name in ("ra", "dec", "x", "y", "cd", "a", "b", "ap", "bp"):
        # A card holds 20 characters, a digit or two less than a float.
        np.testing.assert_allclose(
            getattr(back.astrometry.sip, name), getattr(expected.sip, name), rtol=3e-13
        )
    for name in ("kind", "order", "n_matched", "rms_x", "error", "reference", "is_relative"):
        assert getattr(back.astrometry, name) == getattr(expected, name)
    assert np.isnan(back.astrometry.cv_rms)
    assert back.photo_calib is not None and back.photo_calib.zero_point == 28.123
    assert back.initial_wcs is not None
    np.testing.assert_allclose(back.initial_wcs.wcs.crval, [10.0, -30.0])


def test_other_programs_find_the_new_wcs_on_every_plane(tmp_path: Path) -> None:
    settled = settle(plain(linear()))
    written = replace(settled, exposure=characterized(settled.exposure, 3))
    written.write(tmp_path / "e.fits", {})
    x, y = np.array([0.0, 50.0, 199.0]), np.array([0.0, 100.0, 119.0])
    sip = solution(3).sip
    expected = sip.pixel_to_sky(x, y)
    with fits.open(tmp_path / "e.fits") as hdus, warnings.catch_warnings():
        warnings.simplefilter("error")
        for plane in ("IMAGE", "MASK", "VARIANCE"):
            found = WCS(hdus[plane].header).all_pix2world(x, y, 0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert hdus[0].header["WCSKIND"] == "sip"
        assert hdus[0].header["MAGZERO"] == 28.123


@pytest.mark.parametrize("initial", [True, False])
def test_characterizing_again_begins_with_the_raw_header_and_gives_the_same_bits(
    initial: bool, tmp_path: Path
) -> None:
    settled = settle(plain(linear() if initial else None))
    written = replace(settled, exposure=characterized(settled.exposure, 3))
    first = written.write(tmp_path / "first.fits", {})
    again = read_settled(tmp_path / "first.fits")
    assert again.exposure.astrometry is None and again.exposure.photo_calib is None
    assert (again.exposure.wcs is not None) == initial
    second = replace(again, exposure=characterized(again.exposure, 3))
    assert second.write(tmp_path / "second.fits", {}) == first
    # A run that finds nothing this time leaves nothing of the last one behind.
    bare = again.write(tmp_path / "bare.fits", {})
    assert bare == settled.write(tmp_path / "never.fits", {})


@pytest.mark.parametrize(("wcs", "kind"), [(linear(), "header"), (None, "none")])
def test_without_a_solution_the_header_says_so(wcs: WCS | None, kind: str, tmp_path: Path) -> None:
    settle(plain(wcs)).write(tmp_path / "e.fits", {})
    with fits.open(tmp_path / "e.fits") as hdus:
        assert hdus[0].header["WCSKIND"] == kind
        assert "MAGZERO" not in hdus[0].header
        assert "INITIAL_WCS" not in hdus
    assert read_exposure(tmp_path / "e.fits").astrometry is None
