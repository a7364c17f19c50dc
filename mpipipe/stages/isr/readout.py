"""What the isr stages learn about one read-out and tell each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Readout:
    """Notes about one read-out, one number a channel; NaN where not measured.

    Attributes
    ----------
    overscan_level, overscan_rms
        Mean and standard deviation of the overscan, ADU.
    level_subtracted
        Whether the overscan level was subtracted.
    pedestal
        ADU subtracted in place of an overscan that does not exist: the master bias's own level,
        so that crosstalk and linearity see signal only. The bias stage takes it into account.
    nominal_read_noise
        Electrons, as camera or header say.
    """

    overscan_level: np.ndarray
    overscan_rms: np.ndarray
    level_subtracted: np.ndarray
    pedestal: np.ndarray
    nominal_read_noise: np.ndarray

    @classmethod
    def blank(cls, nominal_read_noise: np.ndarray) -> Readout:
        """Nothing measured or subtracted yet."""
        n = len(nominal_read_noise)
        return cls(
            overscan_level=np.full(n, np.nan),
            overscan_rms=np.full(n, np.nan),
            level_subtracted=np.zeros(n, bool),
            pedestal=np.zeros(n),
            nominal_read_noise=np.asarray(nominal_read_noise, float),
        )
