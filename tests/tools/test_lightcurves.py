"""The judge of light curves: what it calls scatter and noise is what was put in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from _lightcurves import curve_checks, light_curves

from mpipipe.stages.sfm.forced_table import FORCED_SRC

N_STARS, N_FRAMES = 60, 27


def night(noise: float, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Make a run's table of stars through clouds: their fluxes, and the frames' transparency.

    `noise` is by what errors are too small.
    """
    rng = np.random.default_rng(6)
    flux = 10 ** rng.uniform(2.3, 5.0, N_STARS)
    clear = rng.uniform(0.2, 1.0, N_FRAMES)
    rows = FORCED_SRC.empty(N_STARS * N_FRAMES)
    star, frame = np.divmod(np.arange(len(rows)), N_FRAMES)
    expected = flux[star] * clear[frame]
    error = np.sqrt(200.0**2 + expected)
    rows["objectId"], rows["mjd"] = star, 60000.0 + frame / 1440
    rows["psfInstFluxErr"] = error
    rows["psfInstFlux"] = expected + noise * error * rng.standard_normal(len(rows))
    rows["flag_edge"] = (star == 7) & (frame < 9)  # then too few are left
    monkeypatch.setattr("_lightcurves.read_catalogue", lambda path: rows)
    return flux, clear


@pytest.mark.parametrize("noise", [1.0, 1.6])
def test_scatter_over_noise(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    flux, clear = night(noise, monkeypatch)
    curves = light_curves(Path(), 20)
    assert len(curves.ids) == N_STARS - 1 and 7 not in curves.ids
    assert np.median(curves.ratio) == pytest.approx(noise, rel=0.08)
    np.testing.assert_allclose(curves.transparency, clear / clear.max(), rtol=0.03)
    bright = curves.flux > 3e4
    np.testing.assert_allclose(
        curves.flux[bright], flux[curves.ids][bright] * clear.max(), rtol=0.01
    )
    faint = curves.flux < 500
    assert (curves.relative[faint] < 0).any(), "faint stars keep their negative fluxes"
    judged = [check for check in curve_checks(curves, 20) if check.target]
    assert [check.ok for check in judged] == [True, noise == 1.0]
