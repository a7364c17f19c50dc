"""Extendedness: whether a source is wider than the PSF, as a probability."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.measurement import Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import each_stamps
from mpipipe.stages.sfm.spread import fit_mixture, spread_statistics


@measurement(
    "extendedness",
    columns=(
        Column("spread", "f4", "", "spread statistic: 0 for stars, more for galaxies", "src.class"),
        Column("spreadErr", "f4", "", "standard error of spread", "stat.error;src.class"),
        Column(
            "extendedness",
            "f4",
            "",
            "probability that the source is wider than the PSF, among those of the exposure",
            "src.class.starGalaxy",
        ),
        flag("extendedness", "too little of the source is known, or there is no light"),
        flag("extendedness_guess", "the PSF is a guess, so that the probability means little"),
    ),
)
def measure_extendedness(scene: Scene, src: np.ndarray) -> None:
    """Spread statistic (Desai 2012), and the probability of a galaxy that follows from it."""
    psf = scene.psf
    half = psf.size // 2
    spread, error = np.empty(len(src)), np.empty(len(src))
    for some, stamps in each_stamps(scene, src, np.arange(len(src)), half, reach=3.0 * half):
        spread[some], error[some] = spread_statistics(
            stamps.light, stamps.variance, stamps.known, stamps.models,
            np.asarray(src["psfInstFlux"][some], float), psf.fwhm,
        )  # fmt: skip
    src["spread"], src["spreadErr"] = spread, error
    src["extendedness"] = fit_mixture(spread, error).probability(spread, error)
    src["flag_extendedness"] = ~np.isfinite(src["extendedness"])
    src["flag_extendedness_guess"] = psf.is_guess
