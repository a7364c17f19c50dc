"""The measurements of extended sources on exposures: neighbours, edges, nothing at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE

from ..frames import measured, sky, with_stars

NAMES = ("gauss", "ellipse", "kron", "petro")


def measure(calexp: Exposure) -> np.ndarray:
    return np.asarray(measured(calexp)["src"])


def stars(n: int = 49, flux: float = 8e4) -> list[tuple[float, float, float]]:
    rng = np.random.default_rng(5)
    return [(45 + 52 * (k % 7) + rng.uniform(), 45 + 52 * (k // 7) + rng.uniform(), flux)
            for k in range(n)]  # fmt: skip


def row_at(src: np.ndarray, x: float, y: float) -> np.ndarray:
    distance = np.hypot(src["x"] - x, src["y"] - y)
    assert distance.min() < 1.5
    return src[np.argmin(distance)]


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    """Stars, one of them with a brighter neighbour at 3 FWHM."""
    return measure(with_stars(sky(), [*stars(), (171.5, 175.5, 8e4), (183.0, 178.0, 2e5)]))


def test_all_fluxes_of_a_star_are_its_psf_flux(field: np.ndarray) -> None:
    alone = field[(field["psfInstFlux"] > 4e4) & ~field["flag_blended"]]
    assert len(alone) > 30
    for name in NAMES:
        ratio = alone[f"{name}InstFlux"] / alone["psfInstFlux"]
        assert np.median(ratio) == pytest.approx(1, abs=0.01), name
    for name in ("Ixx", "Iyy"):
        own = alone[f"i{name[1:]}"]
        assert np.median(own / alone[f"psf{name}"]) == pytest.approx(1, abs=0.02)


def test_stars_are_no_galaxies(field: np.ndarray) -> None:
    bright = field[field["psfInstFlux"] > 4e4]
    assert np.median(bright["extendedness"]) < 0.1
    point = bright[bright["extendedness"] < 0.1]
    assert point["flag_model_point"].all()
    assert point["flag_exp"].all() and np.isnan(point["expInstFlux"]).all()


def test_a_neighbour_is_taken_off(field: np.ndarray) -> None:
    row = row_at(field, 171.5, 175.5)
    for name in NAMES:
        assert row[f"{name}InstFlux"] == pytest.approx(row["psfInstFlux"], rel=0.06), name
    alone = field[~field["flag_blended"] & (field["psfInstFlux"] > 4e4)]
    assert row["blendedness"] > np.median(alone["blendedness"]) + 0.002


def test_masked_pixels_and_edges_give_flags_or_sound_values() -> None:
    exposure = with_stars(sky(), [*stars(), (3.0, 200.0, 5e4), (417.5, 397.0, 5e4)])
    exposure.image[80:120, 104:108] = np.nan
    exposure.mask[80:120, 104:108] |= VALUE["BAD"]
    src = measure(exposure)
    for name, flags in (("gauss", ("flag_shape",)), ("kron", ("flag_kron",)),
                        ("petro", ("flag_petro",)), ("exp", ("flag_exp",))):  # fmt: skip
        lost = ~np.isfinite(src[f"{name}InstFlux"])
        flagged = np.any([src[one] for one in flags], axis=0)
        assert flagged[lost].all(), name
    near = row_at(src, *stars()[8][:2])
    assert near["petroInstFlux"] == pytest.approx(near["psfInstFlux"], rel=0.05)


def test_reasons_come_with_flags(field: np.ndarray) -> None:
    for whole, reasons in (
        ("flag_shape", ("diverged", "masked")),
        ("flag_kron", ("small", "cut", "dark")),
        ("flag_petro", ("crossing", "cut", "dark")),
    ):
        for reason in reasons:
            assert field[whole][field[f"{whole}_{reason}"]].all()


@pytest.mark.parametrize("what", ["empty", "lost"])
def test_frames_without_sources(what: str) -> None:
    exposure = sky((120, 130))
    if what == "lost":
        exposure = replace(exposure, image=np.full((120, 130), np.nan, np.float32))
    src = measure(exposure)
    for name in ("exp", "petro"):
        lost = ~np.isfinite(src[f"{name}InstFlux"])
        assert src[f"flag_{name}"][lost].all()
