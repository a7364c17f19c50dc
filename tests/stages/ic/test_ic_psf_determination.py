"""The PSF stage: a true model of stars that vary over the field, and a way on whatever comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.moments import adaptive_moments
from mpipipe.data.sdqa import Sdqa
from mpipipe.sim.toyfield import add_moffat
from mpipipe.stages import ic
from mpipipe.stages.ic.psf_determination import (
    FITS,
    PsfDeterminationConfig,
    psf_determination,
)
from mpipipe.stages.stage import Clipboard, run_chain

from ..frames import FWHM, sky, with_stars

BEFORE = tuple(
    step
    for step in ic.PIPELINE
    if step.name in ("ic.initialize", "ic.sourceDetection", "ic.sourceMeasurement")
)


def run(calexp: Exposure, **options: Any) -> Clipboard:
    """The chain up to the PSF; the clipboard holds `failed` if the fallback was taken."""
    clipboard: dict[str, Any] = {"calexp": calexp, "sdqa": Sdqa(), "warnings": []}
    clipboard["failed"] = []
    config = {psf_determination.name: PsfDeterminationConfig(**options)}
    return run_chain(
        (*BEFORE, psf_determination),
        config,
        clipboard,
        failed=lambda _, error: clipboard["failed"].append(error),
    )


def stars(n: int, flux: float = 2e5, seed: int = 3) -> list[tuple[float, float, float]]:
    rng = np.random.default_rng(seed)
    return [
        (30 + 45 * (k % 9) + rng.uniform(), 30 + 45 * (k // 9 % 8) + rng.uniform(), flux)
        for k in range(n)
    ]


def true_moments() -> np.ndarray:
    light = np.zeros((61, 61))
    add_moffat(light, 30.0, 30.0, 1e7, FWHM)
    return adaptive_moments(light[None])[0, :3]


def test_the_model_is_the_stars() -> None:
    """72 stars of SNR 400: size and shape within their noise, fluxes within their errors."""
    true = stars(72)
    result = run(with_stars(sky(), true))
    psf, rows, sdqa = result["psf"], result["icSrc"], result["sdqa"]
    assert not result["failed"]
    assert psf.kind == "pixel"
    assert rows["calib_psf_used"].sum() == psf.n_stars
    assert psf.n_stars + rows["calib_psf_reserved"].sum() == 72
    assert not (rows["calib_psf_used"] & rows["calib_psf_reserved"]).any()
    found = psf.moments(np.array([50.0, 350.0]), np.array([70.0, 350.0]))
    np.testing.assert_allclose(found[:, :2], true_moments()[None, :2].repeat(2, 0), rtol=0.01)
    x, y, flux = (np.array(column) for column in zip(*true, strict=True))
    distance = np.hypot(rows["x"] - x[:, None], rows["y"] - y[:, None])
    order = distance.argmin(axis=1)
    pull = (rows["x"][order] - x) / rows["xErr"][order]
    assert pull.std() == pytest.approx(1, abs=0.35)
    # A constant share of the light lies outside the calibration radius.
    ratio = rows["psfInstFlux"][order] / flux
    pull = (ratio / np.median(ratio) - 1) * flux / rows["psfInstFluxErr"][order]
    assert pull.std() == pytest.approx(1, abs=0.35)
    assert 0.97 < np.median(ratio) < 1
    assert sdqa.get("ic.psfDetermination.validation_chi2") == pytest.approx(1, abs=0.15)
    assert abs(sdqa.get("ic.psfDetermination.validation_dT_mean")) < 0.01


@pytest.mark.parametrize("n", [1, 3, 5, 10])
def test_few_stars_make_a_simpler_model(n: int) -> None:
    result = run(with_stars(sky(), stars(n, flux=4e5)))
    psf = result["psf"]
    assert psf.n_stars == n
    assert not psf.is_guess
    assert result["sdqa"].get("ic.psfDetermination.order") <= (0 if n < 5 else 1)
    size = psf.moments(np.array([200.0]), np.array([200.0]))[0, :2].sum()
    assert size == pytest.approx(true_moments()[:2].sum(), rel=0.05)
    assert result["icSrc"]["calib_psf_reserved"].sum() == 0
    assert np.isnan(result["sdqa"].get("ic.psfDetermination.validation_dT_rms")) == (n == 1)


def test_no_star_leaves_a_guess_and_says_so() -> None:
    result = run(sky())
    assert isinstance(result["failed"][0], BadDataError)
    assert result["psf"].is_guess
    assert result["psf"].kind == "guess"


def test_all_saturated() -> None:
    calexp = with_stars(sky(), stars(40))
    calexp.mask[calexp.image > 500] |= VALUE["SAT"]
    result = run(calexp)
    assert result["psf"].is_guess
    assert not result["icSrc"]["calib_psf_used"].any()


def test_a_dead_amplifier_and_nan_pixels_do_no_harm() -> None:
    calexp = with_stars(sky(), stars(72))
    calexp.image[:, 210:] = np.nan
    calexp.mask[:, 210:] |= VALUE["NO_DATA"]
    calexp.image[100:300:7, 20:200:11] = np.nan
    result = run(calexp)
    psf, rows = result["psf"], result["icSrc"]
    assert psf.n_stars >= 10
    assert (rows["x"][rows["calib_psf_used"]] < 210).all()
    size = psf.moments(np.array([100.0]), np.array([200.0]))[0, :2].sum()
    assert size == pytest.approx(true_moments()[:2].sum(), rel=0.03)


def doughnut(calexp: Exposure) -> None:
    y, x = np.mgrid[-12:13, -12:13]
    ring = np.exp(-0.5 * ((np.hypot(x, y) - 7) / 1.5) ** 2)
    for px, py, flux in stars(60):
        place = slice(int(py) - 12, int(py) + 13), slice(int(px) - 12, int(px) + 13)
        calexp.image[place] += flux * ring / ring.sum()


def trail(calexp: Exposure) -> None:
    for px, py, flux in stars(60):
        for step in range(-12, 13):
            light = np.zeros((21, 21))
            add_moffat(light, 10, 10, flux / 25, FWHM)
            row, column = int(py) - 10 + step // 4, int(px) - 10 + step
            if 0 <= row < 379 and 0 <= column < 399:
                calexp.image[row : row + 21, column : column + 21] += light.astype(np.float32)


@pytest.mark.parametrize("spoil", [doughnut, trail])
def test_defocused_and_trailed_images_end_with_some_psf(spoil: Any) -> None:
    calexp = sky()
    spoil(calexp)
    result = run(calexp)
    image = result["psf"].image(200.3, 180.8)
    assert np.isfinite(image).all()
    assert len(result["icSrc"])


@pytest.mark.parametrize("shape", [(40, 40), (18, 300), (7, 5)])
def test_small_frames(shape: tuple[int, int]) -> None:
    """Frames smaller than a stamp; those too small to detect on may fail before."""
    calexp = with_stars(sky(shape), [(shape[1] / 2, shape[0] / 2, 1e5)])
    assert np.isfinite(run(calexp)["psf"].image(3, 3)).all()


def test_one_answer() -> None:
    results = [run(with_stars(sky(), stars(60))) for _ in range(2)]
    for name, array in results[0]["psf"].arrays().items():
        assert (results[1]["psf"].arrays()[name] == array).all(), name
    assert results[0]["icSrc"].tobytes() == results[1]["icSrc"].tobytes()


@pytest.mark.parametrize("kind", FITS)
def test_every_kind_runs(kind: str) -> None:
    if kind == "piff":
        pytest.importorskip("piff")
    result = run(with_stars(sky(), stars(50)), kind=kind)
    assert not result["failed"]
    assert result["psf"].kind == kind


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="pixel, shapelet"):
        PsfDeterminationConfig(kind="pixle")
