"""A crowded field against its truth: what is found, what is made up, and the time it takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import _completeness
import _truth
from _characterized import CharacterizedRun
from _completeness import EDGES, together
from _spoiled import FEW_CALIBRATIONS

from mpipipe.quality.report import Check, at_least, at_most
from mpipipe.store.images import read_exposure

SETTINGS = (
    "n_ccds=1", "n_visits=1", "bands=r", "star_density=20", "seeing_min=0.65", "seeing_max=0.65",
    "airmass_min=1.0", "airmass_max=1.05", "streaks=", *FEW_CALIBRATIONS,
)  # fmt: skip
"""Options of a survey with a million sources of SNR above 5 per square degree."""
COMPLETENESS = {20.0: 0.79, 50.0: 0.92}
"""Least share found, by the lower limit of the bin of true SNR."""
PURITY = 0.98
CPU_PER_MEGAPIXEL = 1.2
"""Most CPU seconds of detection and measurement."""


def checks(runs: Sequence[CharacterizedRun]) -> list[Check]:
    """Completeness, purity and CPU time of all CCD-visits of these runs."""
    found, seconds, areas, n_rows = [], [], [], 0
    for run in runs:
        for truth in run.truths():
            src = run.rows("src", truth)
            mask = read_exposure(run.calexp(truth)).mask
            found.append(
                _completeness.compare(
                    src, truth.sources, mask, truth.spoiled, truth.fwhm, _truth.STAR
                )
            )
            spent = run.stage_seconds(truth)
            own = spent["sfm.sourceDetection"] + spent["sfm.sourceMeasurement"]
            seconds.append(own / found[-1].megapixels)
            areas.append(truth.spoiled.size * (_truth.pixel_scale(truth) / 3600.0) ** 2)
            n_rows += len(src)
    both = together(found)
    rows = [
        Check("crowded: stars of SNR above 5 per square degree",
              float(both.n_true.sum()) / sum(areas)),
        Check("crowded: rows per square degree", n_rows / sum(areas)),
    ]  # fmt: skip
    for low, high, share in zip(EDGES, EDGES[1:], both.completeness, strict=False):
        title = f"crowded: completeness, true SNR {low:g} to {high:g}"
        least = COMPLETENESS.get(low)
        share = float(share)
        rows.append(Check(title, share) if least is None else at_least(title, share, least))
    judged = max(both.n_judged, 1)
    return rows + [
        at_least("crowded: purity", both.purity, PURITY),
        Check("crowded: random places that would have found a partner", both.n_random / judged),
        Check("crowded: detections that are excused (edge, trail, saturated)", both.n_excused),
        at_most("crowded: detection and measurement", median(seconds), CPU_PER_MEGAPIXEL,
                "CPU s/Mpixel"),
    ]  # fmt: skip
