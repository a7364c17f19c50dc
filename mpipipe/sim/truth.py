"""Truth, in a folder of its own: objects, visits, what each CCD saw, and the detectors.

==============================  ==================================================================
file                            content
==============================  ==================================================================
objects.fits                    the simulated sky (`sky.OBJECTS`); MOVERS: bodies of the Solar
                                System with their orbits (`movers.MOVERS`); LIGHTCURVES: the
                                magnitude of every variable at the start of every visit
eggs.json                       the rare things that were planted (`eggs`)
visits.json                     the visits as they happened (`visits.Visit`)
detectors/CCD.fits              CHANNELS (gain, read noise), CROSSTALK, DEFECTS (bits: 1 hot,
                                2 dead, 4 low), DARK (electron/s), BIAS (adu), FLAT_b per band
                                (response to even light), RINGS (tree rings: displacement by
                                distance from the centre in its header), where there are any
science/VISIT_CCD.fits          header: true WCS, sky, zero point; SOURCES, PSF and PSF_AT
                                (stamps and their positions), EXTINCTION (magnitudes lost on a
                                grid of pixels, smooth between), RAYS (cosmic rays by snap),
                                STATE (a plane a snap; bits: 1 full, 2 bled, 4 satellite),
                                EXPECTED
==============================  ==================================================================

EXPECTED is the noise-free calibrated image: electrons of all snaps, sources, stray light and sky,
over the response to even light, without cosmic rays, satellites and bleeds, in steps of 0.05
electron.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.moments import adaptive_moments
from mpipipe.data.schema import Column, Schema
from mpipipe.sim.astrometry import FocalPlane
from mpipipe.sim.clouds import extinction_at
from mpipipe.sim.detector import bias_pattern, dark_rate, defect_map, response
from mpipipe.sim.eggs import list_eggs, planted
from mpipipe.sim.exposures import VisitTruth, all_movers, field_reach
from mpipipe.sim.instrument import Chip, make_chip, make_instrument
from mpipipe.sim.lightcurves import Variability
from mpipipe.sim.movers import MOVER, MOVERS
from mpipipe.sim.optics import Psf
from mpipipe.sim.render import add_stars
from mpipipe.sim.sky import OBJECTS, magnitudes_at, objects_around
from mpipipe.sim.survey import BANDS, Survey
from mpipipe.sim.tree_rings import ring_centre, ring_profile
from mpipipe.sim.visits import Visit, plan_visits
from mpipipe.store.checksums import write_json_atomically
from mpipipe.store.fits import write_fits_atomically
from mpipipe.store.fits_tables import table_hdu

STAMP = 41
"""Side of the PSF stamps, pixels."""

EXPECTED_STEP = 0.05
"""Steps in which expected images are stored, electrons."""

_GRID = 7
_EXTINCTION_GRID = 33
_EDGE = 20.0
"""Sources up to this far outside the CCD are listed, pixels."""

SOURCES = Schema(
    "sources",
    "Truth: objects on (or just outside) one CCD in one visit",
    (
        Column("id", "i8", "", "identifier in objects.fits", "meta.id"),
        Column("kind", "i2", "", "0 star, 1 galaxy, 2 of the Solar System", "src.class"),
        Column("x", "f8", "pixel", "centroid of its light, zero-based", "pos.cartesian.x"),
        Column("y", "f8", "pixel", "centroid of its light, zero-based", "pos.cartesian.y"),
        Column("ra", "f8", "deg", "right ascension at the visit", "pos.eq.ra"),
        Column("dec", "f8", "deg", "declination at the visit", "pos.eq.dec"),
        Column("mag", "f8", "mag", "AB magnitude at the visit, above the atmosphere", "phot.mag"),
        Column("flux", "f8", "electron", "all its light in all snaps, unit response", "phot.flux"),
        Column("snr", "f4", "", "of a point source of this flux, its own photons counted", ""),
        Column("snr_detection", "f4", "", "the same against sky and read noise alone", ""),
        Column("trail", "f4", "pixel", "length of its trail in a snap", "phys.angSize"),
        Column("psf_ixx", "f4", "pixel2", "adaptive moment of the PSF at its place", ""),
        Column("psf_iyy", "f4", "pixel2", "adaptive moment of the PSF at its place", ""),
        Column("psf_ixy", "f4", "pixel2", "adaptive moment of the PSF at its place", ""),
    ),
)

RAYS = Schema(
    "rays",
    "Truth: charge of cosmic rays",
    (
        Column("snap", "i2", "", "snap", ""),
        Column("y", "i4", "pixel", "row", ""),
        Column("x", "i4", "pixel", "column", ""),
        Column("charge", "f4", "electron", "charge before the full well acts", ""),
    ),
)


def write_catalogue(survey: Survey, folder: Path) -> list[Path]:
    """Write the objects of the whole survey and its visits."""
    from astropy.io import fits

    paths = [folder / "objects.fits", folder / "visits.json"]
    objects = survey_objects(survey)
    visits = plan_visits(survey, make_instrument(survey).n_snaps)
    tables = [
        table_hdu(OBJECTS, objects),
        table_hdu(MOVERS, all_movers(survey)),
        table_hdu(*light_curves(survey, objects, visits)),
    ]
    write_fits_atomically(paths[0], fits.HDUList([fits.PrimaryHDU(), *tables]))
    write_json_atomically(paths[1], [dataclasses.asdict(visit) for visit in visits])
    if survey.eggs:
        paths.append(folder / "eggs.json")
        write_json_atomically(paths[2], list_eggs(survey))
    return paths


def survey_objects(survey: Survey) -> np.ndarray:
    """All objects that any visit can see."""
    radius = field_reach(survey) / 60.0 + 1.0
    around = objects_around(survey, survey.ra, survey.dec, radius)
    return np.concatenate([around, planted(survey)])


def light_curves(
    survey: Survey, objects: np.ndarray, visits: tuple[Visit, ...]
) -> tuple[Schema, np.ndarray]:
    """True magnitudes of all variables at all visits.

    Returns
    -------
    schema, rows
        Of the table LIGHTCURVES: ``id``, and ``mag``, one number a visit in the order of
        visits.json, in the band of that visit at its start; above 30 where it does not shine.
    """
    schema = Schema(
        "lightcurves",
        "Truth: magnitudes of variables",
        (
            Column("id", "i8", "", "identifier in objects.fits", "meta.id"),
            Column("mag", f"({len(visits)},)f4", "mag", "AB magnitude at each visit", "phot.mag"),
        ),
    )
    varying = objects[objects["variability"] != Variability.NONE]
    rows = schema.empty(len(varying))
    rows["id"] = varying["id"]
    for number, visit in enumerate(visits):
        rows["mag"][:, number] = magnitudes_at(survey, varying, visit.band, visit.mjd)
    return schema, rows


def write_detector(survey: Survey, ccd: str, folder: Path) -> list[Path]:
    """Write what a CCD truly is."""
    from astropy.io import fits

    chip = make_chip(survey, ccd)
    defects = defect_map(survey, ccd)
    constants = fits.BinTableHDU.from_columns(
        [
            fits.Column("channel", "16A", array=[c.name for c in chip.kind.channels]),
            fits.Column("gain", "D", "electron/adu", array=chip.gain),
            fits.Column("read_noise", "D", "electron", array=chip.read_noise),
        ],
        name="CHANNELS",
    )
    hdus: list[Any] = [fits.PrimaryHDU(), constants]
    hdus[0].header["CCD"] = ccd
    if chip.crosstalk is not None:
        hdus.append(fits.ImageHDU(chip.crosstalk, name="CROSSTALK"))
    hdus.append(fits.CompImageHDU(defects, name="DEFECTS", compression_type="RICE_1"))
    hdus.append(_lossy(dark_rate(survey, ccd), "DARK", 1e-3, "electron/s"))
    hdus.append(_lossy(_bias_image(survey, chip), "BIAS", 1e-2, "adu"))
    for band in sorted(set(survey.bands), key=BANDS.index):
        flat = response(survey, ccd, band)
        hdu = _lossy(flat, f"FLAT_{band}", 1e-5, "")
        hdu.header["GOODMEAN"] = (float(flat[defects == 0].mean(dtype=float)), "without defects")
        hdus.append(hdu)
    if survey.tree_rings > 0:
        hdus.append(_rings(survey, chip))
    path = folder / "detectors" / f"{ccd}.fits"
    write_fits_atomically(path, fits.HDUList(hdus))
    return [path]


def _rings(survey: Survey, chip: Chip) -> Any:
    """Tree rings as a table of displacement by distance, their centre in its header."""
    from astropy.io import fits

    radius = np.arange(0.0, 1.5 * float(np.hypot(*chip.shape)), 1.0)
    shift = ring_profile(survey, chip, radius)[0]
    hdu = fits.BinTableHDU.from_columns(
        [
            fits.Column("radius", "D", "pixel", array=radius),
            fits.Column("shift", "D", "pixel", array=shift),
        ],
        name="RINGS",
    )
    hdu.header["X0"], hdu.header["Y0"] = ring_centre(survey, chip)
    return hdu


def _bias_image(survey: Survey, chip: Chip) -> np.ndarray:
    """The bias pattern on the assembled CCD."""
    image = np.zeros(chip.shape, dtype=np.float32)
    patterns = bias_pattern(survey, chip.detector.name)
    for channel, pattern in zip(chip.kind.channels, patterns, strict=True):
        data, place = channel.datasec, channel.detsec
        assert data is not None and place is not None
        turned = pattern[:: -1 if data.flip_y else 1, :: -1 if data.flip_x else 1]
        place.cut(image)[:] = turned
    return image


def write_visit(survey: Survey, ccd: str, truth: VisitTruth, folder: Path) -> list[Path]:
    """Write what was simulated in one visit of one CCD."""
    from astropy.io import fits

    chip = make_chip(survey, ccd)
    centres, stamps = psf_stamps(truth.psfs, chip.shape)
    rows = source_table(survey, chip, truth, centres, stamps)
    visit = truth.visit
    primary = fits.PrimaryHDU()
    header = primary.header
    for key, value in truth.wcs.cards().items():
        header[key] = value
    seconds = survey.snap_time * len(truth.psfs)
    lost = float(extinction_at(survey, visit, np.zeros(1), np.zeros(1))[0])
    zero = survey.of_band("zero_points", visit.band) + 2.5 * np.log10(seconds) - lost
    header["VISIT"], header["CCD"], header["FILTER"] = visit.number, ccd, visit.band
    header["NSNAPS"] = len(truth.psfs)
    header["EXPTIME"] = (seconds, "[s] all snaps")
    header["SKY"] = (truth.sky, "[electron/pixel] all snaps, field centre")
    header["ZEROPNT"] = (zero, "[mag] of 1 electron in all snaps, field centre")
    header["STREAK"] = (visit.streak_snap, "snap that a satellite crosses, -1 none")
    rays = np.concatenate(
        [_ray_rows(snap, *hits) for snap, hits in enumerate(truth.rays)] or [RAYS.empty()]
    )
    hdus: list[Any] = [
        primary,
        table_hdu(SOURCES, rows),
        fits.ImageHDU(stamps.astype(np.float32), name="PSF"),
        fits.ImageHDU(centres, name="PSF_AT"),
        _extinction(survey, visit, truth.psfs[0].place, chip.shape),
        table_hdu(RAYS, rays),
        fits.CompImageHDU(truth.state, name="STATE", compression_type="RICE_1"),
    ]
    if survey.truth_images:
        hdus.append(_lossy(truth.expected, "EXPECTED", EXPECTED_STEP, "electron"))
    path = folder / "science" / f"{visit.number}_{ccd}.fits"
    write_fits_atomically(path, fits.HDUList(hdus))
    return [path]


def _extinction(survey: Survey, visit: Visit, place: FocalPlane, shape: tuple[int, int]) -> Any:
    """Magnitudes lost on a grid from the first pixel to the last, its steps in the header."""
    from astropy.io import fits

    y, x = (np.linspace(0.0, n - 1.0, _EXTINCTION_GRID) for n in shape)
    lost = extinction_at(survey, visit, *place.to_unit(x[None, :], y[:, None]))
    hdu = fits.ImageHDU(lost.astype(np.float32), name="EXTINCTION")
    hdu.header["BUNIT"] = "mag"
    hdu.header["STEP_X"] = (float(x[1]), "[pixel] along the first axis, from pixel 0")
    hdu.header["STEP_Y"] = (float(y[1]), "[pixel] along the second axis, from pixel 0")
    return hdu


def _ray_rows(snap: int, y: np.ndarray, x: np.ndarray, charge: np.ndarray) -> np.ndarray:
    return RAYS.table({"snap": np.full(len(y), snap), "y": y, "x": x, "charge": charge})


def psf_stamps(
    psfs: tuple[Psf, ...], shape: tuple[int, int], size: int = STAMP
) -> tuple[np.ndarray, np.ndarray]:
    """The PSF, pixel-integrated and centred, on a 7 x 7 grid over a CCD; mean over the snaps.

    Returns
    -------
    centres
        (49, 2) x, y, zero-based.
    stamps
        (49, size, size) of unit total flux (a part of which lies outside the stamp).
    """
    ny, nx = shape
    middle = (np.arange(_GRID) + 0.5) / _GRID
    gx, gy = np.meshgrid(middle * nx, middle * ny)
    centres = np.stack([gx.ravel(), gy.ravel()], axis=1) - 0.5
    stamps = np.zeros((len(centres), size, size))
    for psf in psfs:
        for k, (x, y) in enumerate(centres):
            stamps[k] += psf_stamp(psf, float(x), float(y), size)
    return centres, stamps / len(psfs)


def psf_stamp(psf: Psf, x: float, y: float, size: int) -> np.ndarray:
    """The PSF that a star at (x, y) has, drawn at the middle of a stamp of odd side."""
    middle = (size - 1) // 2
    x0, y0 = x - middle, y - middle
    moved = dataclasses.replace(
        psf,
        place=dataclasses.replace(
            psf.place, centre=(psf.place.centre[0] - x0, psf.place.centre[1] - y0)
        ),
    )
    # Drawn bright, so that no wing falls below the floor of the renderer.
    stamp = np.zeros((size, size), dtype=np.float32)
    add_stars(stamp, moved, np.array([float(middle)]), np.array([float(middle)]), np.array([1e6]))
    return stamp.astype(float) / 1e6


def source_table(
    survey: Survey, chip: Chip, truth: VisitTruth, centres: np.ndarray, stamps: np.ndarray
) -> np.ndarray:
    """The rows of `SOURCES` of one visit and CCD."""
    ny, nx = chip.shape
    s, bodies = truth.sources, truth.bodies
    trail = np.hypot(bodies.vx, bodies.vy) * survey.snap_time
    all_x, all_y = np.concatenate([s.x, bodies.x]), np.concatenate([s.y, bodies.y])
    keep = (all_x > -_EDGE) & (all_x < nx + _EDGE) & (all_y > -_EDGE) & (all_y < ny + _EDGE)
    x, y = all_x[keep], all_y[keep]
    n_snaps = len(truth.psfs)
    flux = np.concatenate([s.flux, bodies.flux])[keep] * survey.snap_time * n_snaps
    grid = np.concatenate(
        [adaptive_moments(stamps)[:, :3], 1.0 / (stamps**2).sum(axis=(1, 2))[:, None]], axis=1
    )
    ixx, iyy, ixy, n_pixels = _interpolated(centres, grid, x, y, (nx, ny)).T
    noise = truth.sky + n_snaps * (
        survey.dark_current * survey.snap_time + float(np.mean(chip.read_noise**2))
    )
    return SOURCES.table(
        {
            "id": np.concatenate([s.rows["id"], bodies.rows["id"]])[keep],
            "kind": np.concatenate([s.rows["kind"], np.full(len(bodies.x), MOVER)])[keep],
            "x": x,
            "y": y,
            "ra": np.concatenate([s.ra, bodies.ra])[keep],
            "dec": np.concatenate([s.dec, bodies.dec])[keep],
            "mag": np.concatenate([s.mag, bodies.mag])[keep],
            "trail": np.concatenate([np.zeros(len(s.x)), trail])[keep],
            "flux": flux,
            "snr": flux / np.sqrt(flux + n_pixels * noise),
            "snr_detection": flux / np.sqrt(n_pixels * noise),
            "psf_ixx": ixx,
            "psf_iyy": iyy,
            "psf_ixy": ixy,
        }
    )


def _interpolated(
    centres: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Smooth functions known on the grid, at other places: a polynomial of order 4."""

    def terms(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        u, v = 2.0 * px / size[0] - 1.0, 2.0 * py / size[1] - 1.0
        return np.stack([u**p * v**q for p in range(5) for q in range(5 - p)], axis=1)

    fit = np.linalg.lstsq(terms(*centres.T), values, rcond=None)[0]
    return np.asarray(terms(x, y) @ fit)


def _lossy(image: np.ndarray, name: str, step: float, unit: str) -> Any:
    """A compressed image extension, rounded to multiples of about `step`."""
    from astropy.io import fits

    header = fits.Header()
    if unit:
        header["BUNIT"] = unit
    # A negative level is the step itself; method -1 rounds without dither.
    return fits.CompImageHDU(
        np.asarray(image, dtype=np.float32),
        header,
        name=name,
        compression_type="RICE_1",
        quantize_level=-step,
        quantize_method=-1,
    )
