"""The log of the night: a row a visit."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpipipe.quality.metrics.depth import noise
from mpipipe.quality.metrics.psf import fwhm_arcsec
from mpipipe.quality.metrics.zero_points import one_second
from mpipipe.quality.scorecard.measured import NotMeasurable
from mpipipe.quality.scorecard.repeats import NANOJANSKY_ZERO_POINT
from mpipipe.quality.scorecard.run_data import RunData

FADED = 0.3
"""Magnitudes below the band's best from which a visit counts as cloudy."""


def night_log(data: RunData) -> list[dict[str, Any]]:
    """For each visit: time, band, airmass, and medians over its CCDs; NaN for what is not known.

    Returns
    -------
    list of dict
        ``visit``, ``mjd``, ``band``, ``airmass``, ``seconds``, ``n_ccds``, ``fwhm`` (arcsec),
        ``zero_point`` (mag), ``transparency`` (mag below the best of the band), ``sky`` (electron a
        pixel), ``depth`` (mag), ``n_sources``, ``flags`` (in words).
    """
    e = data.exposures
    nothing = np.full(len(e), np.nan)

    def known(make: Any) -> np.ndarray:
        try:
            return np.asarray(make())
        except NotMeasurable:
            return nothing

    columns = {
        "fwhm": known(lambda: fwhm_arcsec(data)),
        "sky": known(lambda: data.by_exposure("cs.output.background")),
        "n_sources": known(lambda: data.by_exposure("sfm.sourceDetection.n_sources")),
        "depth": known(lambda: NANOJANSKY_ZERO_POINT - 2.5 * np.log10(5.0 * noise(data)[0])),
        "above": one_second(data),
    }
    best = {
        band: float(np.nanmax(values))
        for band in data.bands
        if np.isfinite(values := columns["above"][e["band"] == band]).any()
    }
    rows = []
    for visit in np.unique(e["visit"]).tolist():
        mine = np.flatnonzero(e["visit"] == visit)
        band = str(e["band"][mine[0]])
        medians = {name: _median(values[mine]) for name, values in columns.items()}
        lost = best.get(band, np.nan) - medians.pop("above")
        n_sources = columns["n_sources"][mine]
        rows.append(
            {
                "visit": visit,
                "mjd": _median(e["mjd"][mine]),
                "band": band,
                "airmass": _median(e["airmass"][mine]),
                "seconds": _median(e["seconds"][mine]),
                "n_ccds": len(mine),
                **medians,
                "zero_point": _median(e["zero_point"][mine]),
                "transparency": lost,
                "n_sources": float(np.nansum(n_sources))
                if np.isfinite(n_sources).any()
                else np.nan,
                "flags": _flags(e[mine], lost),
            }
        )
    return sorted(rows, key=lambda row: (np.nan_to_num(row["mjd"]), row["visit"]))


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _flags(exposures: np.ndarray, lost: float) -> str:
    told = []
    outcomes, counts = np.unique(exposures["outcome"], return_counts=True)
    for outcome, n in zip(outcomes.tolist(), counts.tolist(), strict=True):
        if outcome not in ("done", "unknown"):
            told.append(f"{n} {outcome}")
    if (n := int((~exposures["has_image"]).sum())) and not told:
        told.append(f"{n} without image")
    images = exposures[exposures["has_image"]]
    if n := int((~np.isin(images["wcs_kind"], ("sip", "affine", "shift"))).sum()):
        told.append(f"{n} without WCS")
    if n := int((~np.isfinite(images["zero_point"])).sum()):
        told.append(f"{n} without zero point")
    if lost > FADED:
        told.append("faded")
    return ", ".join(told)
