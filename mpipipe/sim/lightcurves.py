"""How brightness changes: shapes of variables and transients, as functions of time alone.

A light curve is a function of the object's row and the time, without any state, so that every
process finds the same magnitude at the same instant. All offsets are magnitudes added to the mean
(or peak) magnitude of the object: positive is fainter.

Shapes are simple stand-ins with the right time scales and amplitudes: RR Lyrae and Cepheids rise
fast and fade slowly, more in the blue (Drake et al. 2013, ApJ 763, 32); eclipses are smooth dips;
active nuclei follow a damped random walk (Kelly et al. 2009, ApJ 698, 895); supernovae are of type
Ia in outline (Goldhaber et al. 2001, ApJ 558, 359); microlensing is Paczynski's curve (1986, ApJ
304, 1); tidal disruptions fade as t^(-5/3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

import numpy as np

from mpipipe.sim.red_noise import damped_walk
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import BANDS

INVISIBLE = 40.0
"""Offset of what does not shine, magnitudes."""


class Variability(IntEnum):
    """How an object varies."""

    NONE = 0
    SINE = 1
    RR_LYRAE = 2
    CEPHEID = 3
    ECLIPSING = 4
    AGN = 5
    SUPERNOVA = 6
    MICROLENSING = 7
    DWARF_NOVA = 8
    TIDAL_DISRUPTION = 9
    DISAPPEARING = 10
    LENSED = 11


_BLUE = {
    Variability.RR_LYRAE: (1.3, 1.25, 1.0, 0.85, 0.8, 0.78),
    Variability.CEPHEID: (1.5, 1.3, 1.0, 0.8, 0.7, 0.65),
    Variability.AGN: (1.3, 1.15, 1.0, 0.9, 0.85, 0.8),
    Variability.DWARF_NOVA: (1.2, 1.1, 1.0, 0.9, 0.8, 0.75),
}
"""Amplitudes in ugrizy over that in r."""

_SUPERNOVA_COLOUR = (1.2, 0.1, 0.0, 0.25, 0.45, 0.55)
_SUPERNOVA_FADING = (1.8, 1.35, 1.0, 0.75, 0.65, 0.6)
"""Magnitudes fainter than in r at the peak; speed of fading over that in r."""

Shape = Callable[[np.ndarray, np.ndarray, str], np.ndarray]
"""Offsets of rows of `sky.OBJECTS` at some days after their epoch, in a band."""


def offsets(rows: np.ndarray, band: str, mjd: float) -> np.ndarray:
    """Magnitudes by which objects are fainter than their mean (transients: than their peak).

    Parameters
    ----------
    rows
        Of `sky.OBJECTS`.
    mjd
        Time, MJD (TAI).

    Returns
    -------
    numpy.ndarray
        float64, one a row; `INVISIBLE` for what does not shine then.
    """
    found = np.zeros(len(rows))
    for kind, shape in SHAPES.items():
        chosen = np.flatnonzero(rows["variability"] == kind)
        if len(chosen):
            some = rows[chosen]
            found[chosen] = shape(some, mjd - some["epoch"], band)
    return found


def _amplitude(rows: np.ndarray, kind: Variability, band: str) -> np.ndarray:
    return np.asarray(rows["amplitude"] * _BLUE[kind][BANDS.index(band)], dtype=np.float64)


def _phase(rows: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Phase in [0, 1)."""
    return np.asarray((days / np.maximum(rows["period"], 1e-3) + rows["phase"]) % 1.0)


def _sine(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    cycles = days / np.maximum(rows["period"], 1e-3) + rows["phase"]
    return np.asarray(rows["amplitude"] * np.sin(2.0 * np.pi * cycles))


def sawtooth(phase: np.ndarray, rise: float) -> np.ndarray:
    """From 1 (faintest) at phase 0 to -1 after `rise`, then slowly back; smooth at both turns."""
    brightening = np.cos(np.pi * np.minimum(phase, rise) / rise)
    fading = -np.cos(np.pi * np.clip((phase - rise) / (1.0 - rise), 0.0, 1.0))
    return np.asarray(np.where(phase < rise, brightening, fading))


def _rr_lyrae(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    return _amplitude(rows, Variability.RR_LYRAE, band) * sawtooth(_phase(rows, days), 0.15)


def _cepheid(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    return _amplitude(rows, Variability.CEPHEID, band) * sawtooth(_phase(rows, days), 0.3)


def _eclipsing(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """A deep and a shallow eclipse an orbit, 4 % of it wide; the same in all bands."""
    phase = _phase(rows, days)
    deep = np.exp(-0.5 * (np.minimum(phase, 1.0 - phase) / 0.02) ** 2)
    shallow = 0.5 * np.exp(-0.5 * ((phase - 0.5) / 0.02) ** 2)
    return np.asarray(2.0 * rows["amplitude"] * (deep + shallow))


def _agn(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """A damped random walk of the object's own, with amplitude as its rms."""
    return _amplitude(rows, Variability.AGN, band) * _walks(rows["id"], rows, days)


def _lensed(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """Images of one quasar, whose number stands in `host`; each is late by its epoch."""
    return _amplitude(rows, Variability.AGN, band) * _walks(rows["host"], rows, days)


def _walks(numbers: np.ndarray, rows: np.ndarray, days: np.ndarray) -> np.ndarray:
    """The damped random walks of these numbers at each row's own time."""
    settings = zip(numbers.tolist(), days.tolist(), rows["timescale"].tolist(), strict=True)
    walks = [damped_walk(generator(n, "agn"), time, max(tau, 1e-3)) for n, time, tau in settings]
    return np.array(walks)


def _supernova(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """Epoch is the maximum; timescale stretches the time, 1 for the usual."""
    t = days / np.maximum(rows["timescale"], 0.1)
    number = BANDS.index(band)
    fading = _SUPERNOVA_FADING[number]
    rising = np.where(t > -18.0, -5.0 * np.log10(np.clip((t + 18.0) / 18.0, 1e-8, 1.0)), INVISIBLE)
    early = 0.0022 * np.clip(t, 0.0, 25.0) ** 2 * fading
    late = 0.018 * np.clip(t - 25.0, 0.0, None) * fading
    offset = np.where(t < 0, rising, early + late) + _SUPERNOVA_COLOUR[number]
    return np.minimum(offset, INVISIBLE)


def _microlensing(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """Timescale is the Einstein time; the least distance, in Einstein radii, stands in `phase`."""
    squared = rows["phase"].astype(float) ** 2 + (days / np.maximum(rows["timescale"], 1e-3)) ** 2
    squared = np.maximum(squared, 1e-6)
    magnification = (squared + 2.0) / np.sqrt(squared * (squared + 4.0))
    return np.asarray(-2.5 * np.log10(magnification))


def _dwarf_nova(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """Up within a day, a week of outburst, fading over days; again after a period."""
    amplitude = _amplitude(rows, Variability.DWARF_NOVA, band)
    since = _phase(rows, days) * rows["period"]
    up = np.clip(since, 0.0, 1.0)
    down = np.clip((since - 7.0) / np.maximum(rows["timescale"], 0.1), 0.0, 1.0)
    return np.asarray(-amplitude * (up - down))


def _tidal_disruption(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    """Epoch is the maximum; up in a timescale, then t^(-5/3)."""
    t = days / np.maximum(rows["timescale"], 0.1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rising = np.where(t > -1.0, -5.0 * np.log10(np.maximum(t + 1.0, 1e-8)), INVISIBLE)
        fading = 2.5 * (5.0 / 3.0) * np.log10(np.maximum(t, 0.0) + 1.0)
    return np.minimum(np.where(t < 0, rising, fading), INVISIBLE)


def _disappearing(rows: np.ndarray, days: np.ndarray, band: str) -> np.ndarray:
    return np.where(days < 0, 0.0, INVISIBLE)


SHAPES: Mapping[Variability, Shape] = {
    Variability.SINE: _sine,
    Variability.RR_LYRAE: _rr_lyrae,
    Variability.CEPHEID: _cepheid,
    Variability.ECLIPSING: _eclipsing,
    Variability.AGN: _agn,
    Variability.SUPERNOVA: _supernova,
    Variability.MICROLENSING: _microlensing,
    Variability.DWARF_NOVA: _dwarf_nova,
    Variability.TIDAL_DISRUPTION: _tidal_disruption,
    Variability.DISAPPEARING: _disappearing,
    Variability.LENSED: _lensed,
}
