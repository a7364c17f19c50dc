"""What the measurements on one exposure share: seeing, sky variance, unusable pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE, bits
from mpipipe.stages.cs.masked_background import sky_variance
from mpipipe.stages.seeing import Seeing, default_seeing, measure_seeing

_INTRP = VALUE["INTRP"]
_BAD = bits("BAD", "NO_DATA")


@dataclass(frozen=True)
class MeasurementPlanes:
    """Planes and figures that all measurements of one exposure use.

    Attributes
    ----------
    unusable
        (ny, nx) bool: pixels without a value of their own (BAD, NO_DATA) or without a variance.
    variance
        (ny, nx) float32, electron^2: sky, read noise and masters, without the light of sources,
        whose own photons each measurement adds for its flux.
    seeing
        Size and shape of the stars.
    """

    unusable: np.ndarray
    variance: np.ndarray
    seeing: Seeing


def measurement_planes(calexp: Exposure, default_fwhm: float) -> MeasurementPlanes:
    """Measure the seeing and the variance of the sky on an exposure.

    Parameters
    ----------
    default_fwhm
        Pixels, for an image without stars.
    """
    known = np.isfinite(calexp.image) & np.isfinite(calexp.variance) & (calexp.variance > 0)
    unusable = ((calexp.mask & _BAD) != 0) | ~known
    saturated = (calexp.mask & VALUE["SAT"]) != 0
    seeing = measure_seeing(
        calexp.image, calexp.variance, unusable | saturated, default_seeing(default_fwhm)
    )
    variance = sky_variance(calexp.variance, unusable | saturated).image()
    # A pixel that stands for a hit one has the noise of what replaced it.
    replaced = ((calexp.mask & _INTRP) != 0) & ~unusable
    variance[replaced] = np.maximum(variance[replaced], calexp.variance[replaced])
    return MeasurementPlanes(unusable, variance, seeing)
