"""What the rows of icSrc and src are filled with alike: first positions, and what the mask says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpipipe.data.mask import VALUE, bits
from mpipipe.stages.centroids import SETTLED, windowed_centroids
from mpipipe.stages.detections import Detections
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near

_FLAGS: Mapping[str, int] = {
    "flag_saturated": VALUE["SAT"],
    "flag_bad": bits("BAD", "NO_DATA"),
    "flag_cr": VALUE["CR"],
    "flag_interpolated": VALUE["INTRP"],
    "flag_suspect": VALUE["SUSPECT"],
}


def locate_peaks(
    rows: np.ndarray,
    image: np.ndarray,
    planes: MeasurementPlanes,
    detections: Detections,
    settled: float = SETTLED,
) -> None:
    """Windowed centroids of the detections into their rows, with errors and flags; `settled` as in
    `windowed_centroids`."""
    found = windowed_centroids(
        image, planes.variance, planes.unusable, detections.y, detections.x, planes.seeing.fwhm,
        settled,
    )  # fmt: skip
    # Correlated noise: what the matched filter's map is wider than 1, positions vary more by.
    scale = max(detections.width, 1.0)
    rows["x"], rows["y"] = found["x"], found["y"]
    rows["xErr"], rows["yErr"] = scale * np.sqrt(found["xx"]), scale * np.sqrt(found["yy"])
    rows["x_y_Cov"] = scale**2 * found["xy"]
    rows["flag_centroid"], rows["flag_edge"] = found["failed"], found["edge"]


def flag_pixels(rows: np.ndarray, mask: np.ndarray, reach: float) -> None:
    """Flags of what the mask holds within `reach` pixels of the rows' positions; in place."""
    near = planes_near(mask, rows["y"], rows["x"], reach)
    for name, planes in _FLAGS.items():
        rows[name] = (near & planes) != 0
