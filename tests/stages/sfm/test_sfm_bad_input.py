"""What a frame can suffer from: every source of it is flagged, nothing is silently zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages import cs, ic, sfm
from mpipipe.stages.sfm.src_table import FLUXES, SRC
from mpipipe.stages.stage import run_chain

from ..frames import measured, sky, with_stars

Star = tuple[float, float, float]
SHAPE = (500, 520)
GALAXY = (250.0, 240.0)


def stars(flux: float = 3e4) -> list[Star]:
    """A grid, each star somewhere within its pixel."""
    rng = np.random.default_rng(8)
    return [
        (30 + 46 * i + rng.uniform(), 30 + 46 * j + rng.uniform(), flux)
        for j in range(10)
        for i in range(10)
    ]


def field() -> Exposure:
    return with_stars(sky(SHAPE), stars())


def no_variance() -> Exposure:
    exposure = field()
    exposure.variance[:] = 0
    return exposure


def negative_variance() -> Exposure:
    exposure = field()
    exposure.variance[:] = -5
    return exposure


def patches_of_variance() -> Exposure:
    exposure = field()
    exposure.variance[:200, :200], exposure.variance[300:, :200] = 0, -7
    exposure.variance[300:, 300:] = np.inf
    return exposure


def nan_in_stars() -> Exposure:
    exposure = field()
    for x, y, _ in stars()[::3]:
        exposure.image[round(y), round(x)] = np.nan
    exposure.image[100:180, 250:340], exposure.variance[350:, :60] = np.nan, np.nan
    exposure.image[400:404, 300:304] = np.inf
    return exposure


def under_bleeds() -> Exposure:
    exposure = field()
    for x, _, _ in stars()[:10:2]:
        column = round(x)
        exposure.image[:, column - 1 : column + 2] = 1e5
        exposure.mask[:, column - 1 : column + 2] |= VALUE["SAT"]
    return exposure


def satellites() -> Exposure:
    """From corner to corner, as bright as can be; and a second one."""
    exposure = field()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for slope, offset, width in ((0.97, 0.0, 2.0), (-0.5, 400.0, 3.0)):
        away = (y - slope * x - offset) / np.hypot(1, slope)
        exposure.image += (2e3 * np.exp(-0.5 * (away / width) ** 2)).astype(np.float32)
    return exposure


def large_galaxy(flux: float = 1e7, scale: float = 30.0) -> Exposure:
    """A disc of 10 scale lengths, larger than any mesh of a background, among the stars."""
    exposure = field()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = np.exp(-np.hypot(x - GALAXY[0], (y - GALAXY[1]) / 0.6) / scale)
    light *= flux / light.sum()
    exposure.image += (light + np.sqrt(light) * _noise()).astype(np.float32)
    exposure.variance += light.astype(np.float32)
    return exposure


def _noise() -> np.ndarray:
    return np.random.default_rng(3).standard_normal(SHAPE)


def all_streak() -> Exposure:
    exposure = field()
    exposure.mask[:] |= VALUE["STREAK"]
    return exposure


def at_all_edges() -> Exposure:
    ny, nx = SHAPE
    rim = [(float(x), y, 4e4) for x in range(10, nx, 40) for y in (-1.0, 0.4, ny - 1.2, ny - 0.4)]
    rim += [(x, float(y), 4e4) for y in range(10, ny, 40) for x in (-0.8, 1.0, nx - 0.6)]
    return with_stars(sky(SHAPE), [*stars(), *rim])


SUFFERING = (
    no_variance, negative_variance, patches_of_variance, nan_in_stars, under_bleeds, satellites,
    large_galaxy, all_streak, at_all_edges,
)  # fmt: skip
FLAGS = {"psf": "psfFlux", "ap": "aperture", "gauss": "shape", "disc": "disc", "dev": "dev"}
"""Flags that are not called as their flux is."""


def flag_of(flux: str) -> str:
    return f"flag_{FLAGS.get(flux, flux)}"


@pytest.mark.parametrize("make", SUFFERING)
def test_nothing_fails_silently(make: Callable[[], Exposure]) -> None:
    with np.errstate(all="raise", under="ignore"):
        src = measured(make())["src"]
    assert src.dtype == SRC.dtype
    for name in ("x", "y", "xErr", "yErr", "snr"):
        assert np.isfinite(src[name]).all(), name
    for flux in FLUXES:
        value, error = src[flux.inst], src[flux.inst_error]
        failed = src[flag_of(flux.name)]
        assert (np.isfinite(value) | failed).all(), flux.inst
        assert ((value != 0) | failed).all(), flux.inst
        assert ((error > 0) | ~np.isfinite(value) | failed).all(), flux.inst_error


def test_stars_under_a_bleed_say_so() -> None:
    src = measured(under_bleeds())["src"]
    for x, y, _ in stars()[:10:2]:
        near = src[np.hypot(src["x"] - x, src["y"] - y) < 6]
        assert near["flag_saturated"].all()
    clean = stars()[15]
    there = src[np.hypot(src["x"] - clean[0], src["y"] - clean[1]) < 2]
    assert len(there) == 1 and not there["flag_saturated"][0]


def test_satellites_leave_the_other_stars_alone() -> None:
    """Every star off the trails is there, without a flag and with its flux."""
    src = measured(satellites())["src"]
    n_off = 0
    for x, y, flux in stars():
        away = min(abs(y - 0.97 * x) / np.hypot(1, 0.97), abs(y + 0.5 * x - 400) / np.hypot(1, 0.5))
        if away < 20:
            continue
        n_off += 1
        row = src[np.hypot(src["x"] - x, src["y"] - y) < 1]
        assert len(row) == 1 and not row["flag_streak"][0]
        assert row["psfInstFlux"][0] * row["apCorr"][0] == pytest.approx(flux, rel=0.06)
    assert n_off > 20


def test_a_galaxy_larger_than_the_mesh_is_one_source() -> None:
    """It is no heap of sources, says what of it can not be measured, and spares far stars."""
    exposure = large_galaxy()
    exposure.image += 1000
    clipboard: dict[str, Any] = {
        "exposures": [exposure],
        "pixel_scale": 0.2,
        "reference": None,
        "sdqa": Sdqa(),
        "warnings": [],
    }
    stages = (*cs.PIPELINE, *ic.PIPELINE, *sfm.PIPELINE)
    src = run_chain(stages, {}, clipboard, failed=lambda step, error: None)["src"]
    x, y = src["x"] - GALAXY[0], (src["y"] - GALAXY[1]) / 0.6
    centre = src[np.hypot(x, y) < 4]
    assert len(centre) == 1 and centre["extendedness"][0] > 0.9
    assert len(src) < len(stars()) + 20
    n_far = 0
    for x, y, flux in stars():
        if np.hypot(x - GALAXY[0], (y - GALAXY[1]) / 0.6) < 240:
            continue
        row = src[np.hypot(src["x"] - x, src["y"] - y) < 1]
        n_far += 1
        assert len(row) == 1
        assert row["psfInstFlux"][0] * row["apCorr"][0] == pytest.approx(flux, rel=0.1)
    assert n_far > 40


def test_without_a_psf_there_are_apertures(monkeypatch: pytest.MonkeyPatch) -> None:
    """When ic makes none, a guess by the seeing stands in: positions and circles still hold."""

    def fails(config: object, **needed: object) -> None:
        raise BadDataError("there are no stars")

    step = next(step for step in ic.PIPELINE if step.name == "ic.psfDetermination")
    broken = step.__class__(**(vars(step) | {"run": fails}))
    pipeline = tuple(broken if one is step else one for one in ic.PIPELINE)
    monkeypatch.setattr(ic, "PIPELINE", pipeline)
    result = measured(field())
    src = result["src"]
    assert result["psf"].is_guess and len(src) == len(stars())
    assert (np.isfinite(src["psfInstFlux"]) | src["flag_psfFlux"]).all()
    assert not src["flag_aperture"].any()
    np.testing.assert_allclose(src["apInstFlux_3"], 3e4, rtol=0.12)
