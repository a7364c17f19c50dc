"""Extendedness: whether a source is wider than the PSF, as a probability."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.measurement import Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import Piece
from mpipipe.stages.sfm.spread import fit_mixture, spread_statistics


@measurement(
    "spread",
    columns=(
        Column("spread", "f4", "", "spread statistic: 0 for stars, more for galaxies", "src.class"),
        Column("spreadErr", "f4", "", "standard error of spread", "stat.error;src.class"),
        flag("spread", "too little of the source is known, or there is no light"),
    ),
)
def measure_spread(scene: Scene, src: np.ndarray, piece: Piece) -> None:
    """Spread statistic (Desai 2012): how much wider than the PSF a source is."""
    stamps = piece.common
    src["spread"], src["spreadErr"] = spread_statistics(
        stamps.light, stamps.variance, stamps.known, stamps.models, piece.flux, scene.psf.fwhm
    )
    src["flag_spread"] = ~np.isfinite(src["spread"])


@measurement(
    "extendedness",
    columns=(
        Column(
            "extendedness",
            "f4",
            "",
            "probability that the source is wider than the PSF, among those of the exposure",
            "src.class.starGalaxy",
        ),
        flag("extendedness", "there is no spread"),
        flag("extendedness_guess", "the PSF is a guess, so that the probability means little"),
    ),
    after=("spread",),
    joint=True,
)
def measure_extendedness(scene: Scene, src: np.ndarray) -> None:
    """Probability of a galaxy that follows from the spread statistics of all sources."""
    spread, error = src["spread"].astype(float), src["spreadErr"].astype(float)
    src["extendedness"] = fit_mixture(spread, error).probability(spread, error)
    src["flag_extendedness"] = ~np.isfinite(src["extendedness"])
    src["flag_extendedness_guess"] = scene.psf.is_guess
