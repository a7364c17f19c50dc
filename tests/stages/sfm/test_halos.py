"""Halos: wings beyond PSF models are taken off for others, and for others only."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.guess_psf import GuessPsf
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.seeing import default_seeing
from mpipipe.stages.sfm.halos import take_off_halos
from mpipipe.stages.sfm.source_stamps import Ground, Piece, extended_discs
from mpipipe.stages.sfm.src_table import SRC

SHAPE = (201, 211)
FWHM, NOISE, HALF = 3.5, 5.0, 12
PSF = GuessPsf(2.2, 1.9, 0.1, 2 * HALF + 1, 10.5, SHAPE)


def source(x: float, y: float, flux: float) -> np.ndarray:
    src = SRC.empty(1)
    src["x"], src["y"], src["psfInstFlux"], src["psfInstFluxErr"] = x, y, flux, 100.0
    src["psfChi2"] = 1.0
    return src


def wings(x: float, y: float, at_20: float) -> np.ndarray:
    j, i = np.mgrid[: SHAPE[0], : SHAPE[1]]
    r = np.hypot(i - x, j - y)
    light = at_20 * (20 / np.maximum(r, 2)) ** 3
    return light.astype(np.float32)


def outside(x: float, y: float, inner: int) -> np.ndarray:
    j, i = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.maximum(abs(i - round(x)), abs(j - round(y))) > inner


@pytest.fixture
def unknown() -> np.ndarray:
    return np.zeros(SHAPE, bool)


def test_wings_beyond_the_model_are_taken_off(unknown: np.ndarray) -> None:
    beyond = outside(100.3, 98.7, HALF)
    light = np.where(beyond, wings(100.3, 98.7, 10.0), 0).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, NOISE, SHAPE).astype(np.float32)
    src = source(100.3, 98.7, 1e9)
    left, halos = take_off_halos(light + noise, unknown, NOISE, PSF, src)
    rest = left - noise
    assert np.abs(rest[beyond]).max() < 0.2 * light[beyond].max()
    assert np.median(np.abs(rest[beyond])) < 0.1 * NOISE
    assert not rest[~beyond].any()
    assert halos.index.tolist() == [0]
    assert (np.diff(halos.light[0]) <= 0).all() and halos.light[0, -1] == 0


def test_the_own_stamp_keeps_its_halo(unknown: np.ndarray) -> None:
    light = wings(100.3, 98.7, 10.0)
    src = source(100.3, 98.7, 1e9)
    left, halos = take_off_halos(light, unknown, NOISE, PSF, src)
    planes = MeasurementPlanes(unknown, np.full(SHAPE, NOISE**2, np.float32), default_seeing(FWHM))
    ground = Ground(
        left, planes, unknown, PsfModels(PSF, len(src)), extended_discs(planes, FWHM, src), halos
    )
    src["psfInstFlux"] = 0  # without the model
    stamp = Piece(ground, src, 0).stamps(np.array([0]), 40).light[0]
    np.testing.assert_allclose(stamp, light[59:140, 60:141], rtol=1e-4, atol=1e-3)


def test_a_saturated_star_without_a_flux_is_taken_off_as_a_whole(unknown: np.ndarray) -> None:
    unknown[94:104, 96:105] = True
    light = wings(100.3, 98.7, 10.0)
    src = source(100.3, 98.7, np.nan)
    src["flag_saturated"] = True
    left, halos = take_off_halos(light, unknown, NOISE, PSF, src)
    ring = outside(100.3, 98.7, 9)
    assert halos.inner.tolist() == [-1]
    assert np.abs(left[ring]).max() < 0.3 * light[ring].max()
    assert np.median(np.abs(left[ring])) < 0.6


def test_sources_of_usual_brightness_have_none(unknown: np.ndarray) -> None:
    image = np.ones(SHAPE, np.float32)
    lost = source(np.nan, np.nan, np.nan)
    lost["flag_saturated"] = True
    for src in (source(100.0, 90.0, 2000.0), lost, SRC.empty(0)):
        left, halos = take_off_halos(image, unknown, NOISE, PSF, src)
        assert left is image and (halos.index == -1).all() and len(halos.light) == 0


def test_a_frame_of_nothing_known_gives_no_halo(unknown: np.ndarray) -> None:
    unknown[:] = True
    left, halos = take_off_halos(
        np.zeros(SHAPE, np.float32), unknown, NOISE, PSF, source(100.0, 90.0, 1e9)
    )
    assert not left.any() and not halos.light.any()
