"""A damped random walk that can be asked for at any time, in any order.

A walk step by step would need all times before; a sum of waves of random phase with the same power
spectrum needs none, so every process finds the same value at the same instant.
"""

from __future__ import annotations

import numpy as np

_N_WAVES = 256
# From a hundredth to a thousand times the corner frequency, in equal steps of the logarithm.
_STEPS = np.linspace(np.log(1e-2), np.log(1e3), _N_WAVES)
_POWER = np.exp(_STEPS) / (1.0 + np.exp(2.0 * _STEPS))
_SIZE = np.sqrt(2.0 * _POWER / _POWER.sum())


def damped_walk(
    rng: np.random.Generator, times: np.ndarray | float, timescale: float
) -> np.ndarray:
    """A process of mean 0, variance 1 and correlation about exp(-dt / timescale).

    Parameters
    ----------
    rng
        Of this process: the same state gives the same process.
    times, timescale
        In one unit.
    """
    phases = rng.uniform(0.0, 2.0 * np.pi, _N_WAVES)
    frequencies = np.exp(_STEPS) / timescale
    waves = np.sin(np.multiply.outer(np.asarray(times, dtype=float), frequencies) + phases)
    return np.asarray(waves @ _SIZE)
