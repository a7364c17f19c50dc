"""sfm_forcedMeasurement: the measurements of `src` at given sky positions, detected or not.

Positions are held where the catalogue puts them at the time of the visit, so that fluxes are
linear in the image: they have no bias at any SNR, and may be negative. All that stands close
together is fitted together, with the sources of `src` that are in no catalogue; a detection within
half a FWHM of a position is what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import is_set
from mpipipe.data.psf import Psf
from mpipipe.data.refcat import ReferenceStars
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.detections import Detections
from mpipipe.stages.ic.wcs_determination import middle_of_visit, placed_stars
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.near import planes_near
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.psf_photometry import subtract_sources, usable_pixels
from mpipipe.stages.sfm.ap_correct_apply import calibrate_fluxes
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.stages.sfm.joint_fluxes import solve_close
from mpipipe.stages.sfm.measurement import chosen, registry
from mpipipe.stages.sfm.scene import FIT_RADIUS, fit_psfs, make_scene
from mpipipe.stages.sfm.source_measurement import measure
from mpipipe.stages.sky_positions import pixel_positions
from mpipipe.stages.source_rows import flag_pixels
from mpipipe.stages.stage import StageConfig, stage

_SAME_SOURCE = 0.5
"""Distance in FWHM below which a detection is what stands at a position."""
_SAME_PLACE = 0.1
"""Distance in FWHM below which two positions have no fluxes of their own."""
_BLENDED = 2.0
"""Distance in FWHM below which two are flagged as a blend."""
_CLOSE = 1.2
"""Distance in FWHM below which fluxes are solved at once."""


class ForcedMeasurementConfig(StageConfig):
    """Options of sfm_forcedMeasurement."""

    measurements: tuple[str, ...] = Field(
        default=tuple(registry()),
        description="what is measured, and what that needs: as sfm.sourceMeasurement.measurements",
    )
    sweeps: int = Field(
        default=2,
        ge=0,
        description="times that touching sources are fitted again with the others taken off",
    )
    header_wcs: bool = Field(
        default=False,
        description="measure also where there is but the header's WCS: not good to a pixel as a "
        "rule, unless the exposure was calibrated elsewhere",
    )

    @field_validator("measurements")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        chosen(names)
        return names


def _nothing(config: StageConfig, **given: Any) -> Mapping[str, Any]:
    return {"forcedSrc": FORCED_SRC.empty()}


@stage(
    "sfm.forcedMeasurement",
    needs=("calexp", "planes", "psf", "detections", "src", "positions", "aperture_correction",
           "psf_systematic", "sdqa"),
    adds=("forcedSrc",),
    config=ForcedMeasurementConfig,
    fallback=_nothing,
)  # fmt: skip
def forced_measurement(
    config: ForcedMeasurementConfig,
    *,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    detections: Detections,
    src: np.ndarray,
    positions: ReferenceStars | None,
    aperture_correction: ApertureCorrection,
    psf_systematic: float,
    sdqa: Sdqa,
) -> Mapping[str, Any]:
    """Measure at every given position on the exposure into a row of `forcedSrc`."""
    if positions is None:
        return _nothing(config)
    rows = _rows(positions, calexp, config.header_wcs)
    _identify(rows, src, psf.fwhm)
    place, of_row = _places(rows, _SAME_PLACE * psf.fwhm)
    measured = rows[place]
    _measure(config, measured, src, calexp, planes, psf, detections.width)
    calibrate_fluxes(measured, calexp, aperture_correction, psf_systematic)
    measured["flag_psfFlux"] |= psf.is_guess
    own = rows.copy()
    rows[:] = measured[of_row]
    for name in ("objectId", "refRa", "refDec", "ra", "dec", "x", "y", "sourceId"):
        rows[name] = own[name]
    rows["flag_shared"] = np.bincount(of_row, minlength=len(place))[of_row] > 1
    _report(sdqa, rows)
    return {"forcedSrc": rows}


def _rows(positions: ReferenceStars, calexp: Exposure, header_wcs: bool) -> np.ndarray:
    """The positions that lie on the exposure, by id."""
    if calexp.astrometry is None and not (header_wcs and calexp.wcs is not None):
        raise BadDataError(
            "no WCS was found on reference stars, which positions have to be placed by",
            way_out="give the run a reference catalogue (--refcat); if the headers' WCS is good "
            "to a tenth of a pixel: --set sfm.forcedMeasurement.header_wcs=true",
        )
    placed = placed_stars(positions, calexp)
    x, y = pixel_positions(calexp, placed.ra, placed.dec)
    ny, nx = calexp.shape
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    given, here = positions.rows, np.flatnonzero(inside)
    # How the catalogue is cut into files must not matter.
    here = here[np.lexsort((given["dec"][here], given["ra"][here], given["id"][here]))]
    rows = FORCED_SRC.empty(len(here))
    rows["objectId"], rows["refRa"], rows["refDec"] = (
        given[name][here] for name in ("id", "ra", "dec")
    )
    rows["ra"], rows["dec"] = placed.ra[here], placed.dec[here]
    rows["x"], rows["y"] = x[here], y[here]
    info = calexp.info
    rows["visit"], rows["ccdNumber"] = info.visit, info.detector_number
    rows["band"], rows["mjd"] = info.band.encode(), middle_of_visit(calexp)
    return rows


def _identify(rows: np.ndarray, src: np.ndarray, fwhm: float) -> None:
    """Ids of the sources that stand at the positions; in place."""
    rows["sourceId"] = -1
    if len(rows) and len(src):
        distance, index = _tree(src).query(_at(rows))
        found = distance < _SAME_SOURCE * fwhm
        rows["sourceId"][found] = src["id"][index[found]]


def _places(rows: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stand for all within `distance` of them, and for each row the number of its own."""
    leader = np.arange(len(rows))
    if len(rows) > 1:
        pairs = _tree(rows).query_pairs(distance, output_type="ndarray")
        for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
            if leader[first] == first and leader[second] == second:
                leader[second] = first
    place, of_row = np.unique(leader, return_inverse=True)
    return place, of_row


def _measure(
    config: ForcedMeasurementConfig,
    rows: np.ndarray,
    src: np.ndarray,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    width: float,
) -> None:
    """Fill what is measured, in place."""
    if not len(rows):
        return
    near, far = _neighbours(rows, src, psf)
    every = FORCED_SRC.empty(len(rows) + len(near) + len(far))
    every[: len(rows)] = rows
    for name in ("x", "y", "psfInstFlux"):
        every[name][len(rows) :] = np.concatenate([near[name], far[name]])
    fitted = every[: len(rows) + len(near)]
    image = subtract_sources(calexp.image, psf, far["x"], far["y"], far["psfInstFlux"])
    _fit(config, fitted, replace(calexp, image=image), planes, psf, width)
    scene = make_scene(every, calexp, planes, PsfModels(psf, len(every)), width, None)
    flag_pixels(fitted, calexp.mask, planes.seeing.fwhm)
    measure(scene, fitted, config.measurements)
    rows[:] = fitted[: len(rows)]
    _flag_places(rows, fitted, calexp, psf.fwhm)


def _neighbours(rows: np.ndarray, src: np.ndarray, psf: Psf) -> tuple[np.ndarray, np.ndarray]:
    """Sources of no position: those whose light reaches one, and the others."""
    if not len(src):
        return src, src
    distance, _ = _tree(rows).query(_at(src))
    reaches = distance < 1.5 * psf.size
    return src[reaches & (distance >= _SAME_SOURCE * psf.fwhm)], src[~reaches]


def _fit(
    config: ForcedMeasurementConfig,
    rows: np.ndarray,
    calexp: Exposure,
    planes: MeasurementPlanes,
    psf: Psf,
    width: float,
) -> None:
    """PSF fluxes at fixed positions, all together; in place."""
    x, y = rows["x"].copy(), rows["y"].copy()
    fit_psfs(rows, calexp, planes, psf, width, start=(x, y), free=False, sweeps=config.sweeps)
    flux = rows["psfInstFlux"].astype(float)
    residual = subtract_sources(calexp.image, psf, x, y, flux)
    correction, factor = solve_close(
        usable_pixels(calexp, planes), residual, psf, x, y, flux, FIT_RADIUS * psf.fwhm,
        _CLOSE * psf.fwhm,
    )  # fmt: skip
    rows["psfInstFlux"] += correction
    rows["psfInstFluxErr"] *= factor
    rows["flag_psfFlux"] |= ~np.isfinite(rows["psfInstFlux"])


def _flag_places(rows: np.ndarray, fitted: np.ndarray, calexp: Exposure, fwhm: float) -> None:
    """Flags of edges, neighbours and trails; in place."""
    ny, nx = calexp.shape
    x, y = rows["x"], rows["y"]
    room = np.minimum(np.minimum(x, nx - 1 - x), np.minimum(y, ny - 1 - y))
    rows["flag_edge"] = room < FIT_RADIUS * fwhm
    if len(fitted) > 1:
        distance, _ = _tree(fitted).query(_at(rows), k=2)
        rows["flag_blended"] = distance[:, 1] < _BLENDED * fwhm
    near = planes_near(calexp.mask, y, x, fwhm)
    rows["flag_streak"] = is_set(near, ("STREAK", "DETECTED_STREAK"))


def _report(sdqa: Sdqa, rows: np.ndarray) -> None:
    name = "sfm.forcedMeasurement."
    sdqa.add(name + "n_positions", len(rows))
    sdqa.add(name + "n_detected", int((rows["sourceId"] >= 0).sum()))
    sdqa.add(name + "n_blended", int(rows["flag_blended"].sum()))
    sdqa.add(name + "n_shared", int(rows["flag_shared"].sum()))
    sdqa.add(name + "n_psfFlux", int(rows["flag_psfFlux"].sum()))


def _at(rows: np.ndarray) -> np.ndarray:
    """(n, 2) positions."""
    return np.stack([rows["x"], rows["y"]], axis=1)


def _tree(rows: np.ndarray) -> Any:
    from scipy.spatial import KDTree

    return KDTree(_at(rows))
