"""A tiny visit that makes every kernel of cs, ic, sfm and forced measurement compile."""

from __future__ import annotations

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE
from mpipipe.data.raw import FrameInfo
from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.tan_sip import TanSip
from mpipipe.stages import cs, ic, sfm
from mpipipe.stages.ic.psf_determination import PsfDeterminationConfig
from mpipipe.stages.stage import Clipboard, StageConfig, run_chain

_SIZE = 240
_SCALE = 0.2
"""Arcsec per pixel."""
_POINTING = 10.0, 5.0
_SIGMA = 1.8


def run_tiny_visit() -> None:
    """Run cs, ic and sfm on two tiny synthetic snaps, with and without master noise, with two kinds
    of PSF."""
    for with_masters, kind in ((True, "pixel"), (False, "shapelet")):
        clipboard: Clipboard = {
            "exposures": [_snap(number, with_masters) for number in range(2)],
            "pixel_scale": _SCALE,
            "reference": _reference(),
            "positions": _reference(doubled=True),
            "sdqa": Sdqa(),
            "warnings": [],
        }
        configs: dict[str, StageConfig] = {"ic.psfDetermination": PsfDeterminationConfig(kind=kind)}
        # What so few stars do not allow is no matter here.
        run_chain(
            cs.PIPELINE + ic.PIPELINE + sfm.PIPELINE + sfm.FORCED,
            configs,
            clipboard,
            failed=lambda step, error: None,
        )


def _stars() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and flux of 25 stars that no symmetry maps onto each other."""
    rng = np.random.default_rng(7)
    x, y = (25.0 + 45.0 * np.indices((5, 5)).reshape(2, -1)) + rng.uniform(-8, 8, (2, 25))
    return x, y, 10 ** rng.uniform(4.3, 5.0, 25)


def _reference(*, doubled: bool = False) -> ReferenceStars:
    """The stars; each also a pixel further on, as one of a close pair."""
    x, y, flux = _stars()
    if doubled:
        x, y, flux = np.append(x, x + 1.0), np.append(y, y), np.append(flux, flux)
    cd = np.diag([-_SCALE / 3600, _SCALE / 3600])
    ra, dec = TanSip.make(_POINTING, (120.0, 120.0), cd, None, (_SIZE, _SIZE)).pixel_to_sky(x, y)
    columns = {"id": np.arange(len(x)), "ra": ra, "dec": dec, "mag_r": 30 - 2.5 * np.log10(flux)}
    return ReferenceStars(reference_rows(columns, ("r",)), ("r",), "tiny")


def _snap(number: int, with_masters: bool) -> Exposure:
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:_SIZE, :_SIZE]
    scene = np.full((_SIZE, _SIZE), 500.0)
    for at_x, at_y, flux in zip(*_stars(), strict=True):
        form = ((x - at_x) ** 2 + (y - at_y) ** 2) / _SIGMA**2
        scene += flux / (2 * np.pi * _SIGMA**2) * np.exp(-0.5 * form)
    image = scene + rng.normal(0, np.sqrt(scene))
    image[40 + 30 * number, 60:64] += 2000  # a cosmic ray
    image[140, 10] = np.nan
    image[100:103, 100:103] += 3000 * (number == 0)  # and something that moves
    info = FrameInfo(
        camera="", visit=0, snap=number, detector="", detector_number=0, kind="science", band="r",
        exposure_time=15.0, dark_time=15.0, mjd_start=60000.0, ra=_POINTING[0], dec=_POINTING[1],
    )  # fmt: skip
    mask = np.zeros(scene.shape, DTYPE)
    mask[80, 80] = VALUE["SAT"]
    sigma = np.ones(scene.shape, np.float32) if with_masters else None
    variance = scene.astype(np.float32)
    return Exposure(image.astype(np.float32), mask, variance, info, master_sigma=sigma)
