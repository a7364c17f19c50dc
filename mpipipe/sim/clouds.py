"""What the atmosphere takes: airmass, night and clouds, at every place of the field.

Clouds have a mean, a gradient and, if asked for, a structure: a smooth Gaussian random field that
drifts with the wind, as a sum of waves, so that every process finds the same cloud at the same
place and time. Where the field stands one sigma high, clouds are thicker by about `cloud_structure`
of their extinction. The shutter is open while the field drifts: what a visit shows is its mean over
the visit, smeared along the wind.
"""

from __future__ import annotations

import numpy as np

from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey
from mpipipe.sim.visits import SNAP_GAP, Visit

_N_WAVES = 64


def extinction_at(survey: Survey, visit: Visit, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Magnitudes lost in a visit at field positions in units of the field's radius."""
    slope = visit.cloud_gradient[0] * u + visit.cloud_gradient[1] * v
    lost = visit.extinction + slope
    if survey.cloud_structure > 0 and visit.cloud > 0:
        size = survey.cloud_structure
        # Log-normal: thick here and thin there, never negative, and the mean stays.
        thick = np.exp(size * cloud_structure(survey, visit, u, v) - 0.5 * size * size)
        lost = lost + np.maximum(visit.cloud + slope, 0.0) * (thick - 1.0)
    return np.asarray(np.maximum(lost, 0.0))


def transmission(survey: Survey, visit: Visit, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Factor on fluxes in a visit at field positions in units of the field's radius."""
    return np.asarray(10.0 ** (-0.4 * extinction_at(survey, visit, u, v)))


def cloud_structure(survey: Survey, visit: Visit, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The random field of a visit's clouds: mean 0, variance 1 at an instant.

    Its correlation is exp(-d^2 / (2 cloud_scale^2)) at distances d in units of the field's radius.
    One night has one field, which drifts by `cloud_drift` a second.
    """
    rng = generator(survey.seed, "clouds", int(visit.mjd))
    waves = rng.normal(size=(_N_WAVES, 2)) / survey.cloud_scale
    phases = rng.uniform(0.0, 2.0 * np.pi, _N_WAVES)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    # Radians a second at which each wave passes.
    pace = waves @ (survey.cloud_drift * np.array([np.cos(turn), np.sin(turn)]))
    n_snaps = len(visit.seeing)
    seconds = n_snaps * survey.snap_time + (n_snaps - 1) * SNAP_GAP
    middle = (visit.mjd % 1.0) * 86400.0 + 0.5 * seconds
    size = np.sqrt(2.0 / _N_WAVES) * np.sinc(0.5 * pace * seconds / np.pi)
    u, v = np.broadcast_arrays(u, v)
    field = np.zeros(u.shape)
    for (ku, kv), phase, amplitude in zip(waves, phases - pace * middle, size, strict=True):
        field += amplitude * np.cos(ku * u + kv * v + phase)
    return field
