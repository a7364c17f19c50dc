"""A run of a simulated survey against its truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mpipipe.quality.metrics.psf import fwhm_arcsec
from mpipipe.quality.scorecard.ccds import LEAST, by_ccd
from mpipipe.quality.scorecard.measured import (
    Measured,
    NotMeasurable,
    Requirement,
    at_least,
    target,
)
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.repeats import MAS, NANOJANSKY_ZERO_POINT, Columns
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import Statistic, estimate, mean, median, rms

STAR = 0
REACH = 0.75
"""FWHM between a source and what it is of."""
FAINTEST = 2.5
"""True SNR from which something can be what was detected."""
MOST_CCDS = 200
"""CCD-visits that are compared: of more, some evenly."""
EDGE = 6.0
"""Pixels from an edge within which nothing is judged."""
EXCUSES = ("flag_edge", "flag_streak", "flag_saturated", "flag_near_saturated")
"""Flags of sources that purity does not judge."""
OWN = "own target"
BINS = ((5.0, 6.0, 0.52), (6.0, 8.0, 0.82), (8.0, 12.0, 0.90), (12.0, 20.0, 0.93),
        (20.0, 50.0, 0.96))  # fmt: skip
_COLUMNS = (
    "id", "visit", "ccdNumber", "x", "y", "ra", "dec", "snr", "psfFlux", "psfIxx", "psfIyy",
    "psfIxy", "flag_blended", "flag_saturated", "flag_bad", "flag_cr", "flag_edge", "flag_psfFlux",
    "flag_streak", "flag_near_saturated",
)  # fmt: skip


class Compared(NamedTuple):
    """Sources beside what they are of; rows of CCD-visits follow each other.

    Attributes
    ----------
    stars
        Structured: visit, number, and measured minus true ``mag`` (mmag), ``east``, ``north``
        (mas), of bright lone stars.
    psf
        Structured: visit, number, relative error of T in percent, of e1, e2, at every source.
    expected
        Structured: visit, number, true SNR, whether found, whether a star.
    found
        Structured: visit, number, whether there is something.
    """

    stars: np.ndarray
    psf: np.ndarray
    expected: np.ndarray
    found: np.ndarray


def compared(data: RunData) -> Compared:
    """The run beside its truth.

    Raises
    ------
    NotMeasurable
        If no CCD-visit has both.
    """
    return data.remember(("truth",), lambda: _compare(data))


def _compare(data: RunData) -> Compared:
    truth_of = data.truth
    if truth_of is None:
        raise NotMeasurable("no truth is given")
    rows = _without_refraction(data, data.table("src", _COLUMNS))
    place = data.at_exposures(rows["visit"], rows["ccdNumber"])
    seeing = fwhm_arcsec(data) / data.by_exposure("ic.wcsDetermination.pixel_scale")
    order = np.argsort(place, kind="stable")
    usable = np.flatnonzero(np.isfinite(seeing) & data.exposures["has_image"])
    if len(usable) > MOST_CCDS:
        usable = usable[np.linspace(0, len(usable) - 1, MOST_CCDS).astype(int)]
    starts = np.searchsorted(place[order], np.arange(len(data.exposures) + 1))
    parts = []
    for k in usable.tolist():
        exposure = data.exposures[k]
        truth = truth_of(int(exposure["visit"]), str(exposure["ccd"]))
        mine = order[starts[k] : starts[k + 1]]
        if truth is not None and len(mine) and len(truth.sources):
            source = {name: values[mine] for name, values in rows.items()}
            parts.append(_one(exposure, source, truth.sources, REACH * float(seeing[k])))
    if not parts:
        raise NotMeasurable("no CCD-visit with a PSF and a WCS has sources and a truth")
    return Compared(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _without_refraction(data: RunData, rows: Columns) -> Columns:
    """Sources with what refraction does by colour taken off their positions, where it is known."""
    names = ("raRefraction", "decRefraction")
    try:
        found = data.read(
            "source",
            ("id", *names),
            later=dict.fromkeys(names, 0.0),
            keep=lambda chunk: np.isin(chunk["id"], rows["id"]),
        )
    except NotMeasurable:  # no objects, so no colours
        return rows
    order = np.argsort(found["id"], kind="stable")
    if not len(order):
        return rows
    place = np.clip(np.searchsorted(found["id"], rows["id"], sorter=order), 0, len(order) - 1)
    place = order[place]
    east, north = (
        np.where(found["id"][place] == rows["id"], found[name][place], 0.0) / MAS for name in names
    )
    return rows | {
        "ra": rows["ra"] - east / np.cos(np.radians(rows["dec"])),
        "dec": rows["dec"] - north,
    }


def _table(exposure: np.void, **columns: np.ndarray) -> np.ndarray:
    dtype = [("visit", "i8"), ("number", "i4"), *((name, "f8") for name in columns)]
    table = np.zeros(len(next(iter(columns.values()))), dtype)
    table["visit"], table["number"] = exposure["visit"], exposure["number"]
    for name, values in columns.items():
        table[name] = values
    return table


def _one(
    exposure: np.void, src: dict[str, np.ndarray], true: np.ndarray, reach: float
) -> tuple[np.ndarray, ...]:
    """The four tables of `Compared` of one CCD-visit."""
    real = true[true["snr"] > FAINTEST]
    where = np.stack([real["x"], real["y"]], axis=1).astype(float)
    seen = np.stack([src["x"], src["y"]], axis=1)
    known = np.isfinite(seen).all(axis=1)
    src = {name: values[known] for name, values in src.items()}
    seen = seen[known]
    partner = _partners(seen, where, real["flux"].astype(float), reach)
    has = partner >= 0
    is_found = np.zeros(len(real), bool)
    is_found[partner[has]] = True
    far = np.array([exposure["nx"], exposure["ny"]]) - 1 - EDGE
    inside, judged = (((at > EDGE) & (at < far)).all(axis=1) for at in (where, seen))
    judged &= ~np.any([src[name] for name in EXCUSES], axis=0)
    expected = _table(
        exposure, snr=real["snr"][inside], found=is_found[inside],
        is_star=real["kind"][inside] == STAR,
    )  # fmt: skip
    found = _table(exposure, real=has[judged])
    match = real[np.maximum(partner, 0)] if len(real) else np.zeros(len(partner), true.dtype)
    flagged = np.any([v for name, v in src.items() if name.startswith("flag_")], axis=0)
    star = has & (match["kind"] == STAR) & ~flagged & (match["snr"] > 50.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = np.where(src["psfFlux"] > 0, src["psfFlux"].astype(float), np.nan)
        off = 1e3 * (NANOJANSKY_ZERO_POINT - 2.5 * np.log10(flux) - match["mag"])
        sizes = src["psfIxx"].astype(float) + src["psfIyy"]
        true_sizes = match["psf_ixx"].astype(float) + match["psf_iyy"]
        size = 100.0 * (sizes / true_sizes - 1.0)
        e1 = (src["psfIxx"] - src["psfIyy"]) / sizes
        e1 = e1 - (match["psf_ixx"] - match["psf_iyy"]) / true_sizes
        e2 = 2.0 * src["psfIxy"] / sizes - 2.0 * match["psf_ixy"] / true_sizes
    east = (src["ra"] - match["ra"] + 180.0) % 360.0 - 180.0
    east = MAS * east * np.cos(np.radians(match["dec"]))
    north = MAS * (src["dec"] - match["dec"])
    stars = _table(exposure, mag=off[star], east=east[star], north=north[star])
    psf = _table(exposure, size=size[has], e1=e1[has], e2=e2[has])
    return stars, psf, expected, found


def _partners(seen: np.ndarray, where: np.ndarray, flux: np.ndarray, reach: float) -> np.ndarray:
    """For each source the number of what it is of, -1 for nothing: the brightest takes the nearest
    free source, then the next."""
    from scipy.spatial import cKDTree

    partner = np.full(len(seen), -1)
    if not len(seen) or not len(where):
        return partner
    near = cKDTree(seen).query_ball_point(where, reach)
    for k in np.argsort(-flux, kind="stable").tolist():
        free = [i for i in near[k] if partner[i] < 0]
        if free:
            apart = np.hypot(*(seen[free] - where[k]).T)
            partner[free[int(np.argmin(apart))]] = k
    return partner


def _number(
    data: RunData, key: str, title: str, rows: np.ndarray, values: np.ndarray,
    statistic: Statistic, unit: str, of: str, requirement: Requirement | None,
) -> Measured:  # fmt: skip
    place = data.at_exposures(rows["visit"], rows["number"])
    return Measured(
        key, title, *estimate(statistic, values, place, key), unit=unit, n=len(values), of=of,
        requirement=requirement,
        ccds=by_ccd(data, rows["visit"], rows["number"], values, statistic),
    )  # fmt: skip


@metric("truth.zero_point", "zero points against truth", "truth", needs_truth=True)
def zero_point(data: RunData) -> Iterator[Measured]:
    """rms over CCD-visits of the median of measured minus true magnitude of lone stars of true SNR
    above 50. A cloud that is not grey over the CCD, and the reference catalogue's errors, are part
    of it. The project's target is 2 mmag with 200 reference stars of 10 mmag or more."""
    stars = compared(data).stars
    ccds = by_ccd(data, stars["visit"], stars["number"], stars["mag"], median)
    if not len(ccds):
        raise NotMeasurable(f"no CCD-visit has {LEAST} lone bright stars with a flux")
    key = "truth.zero_point"
    values = ccds["value"]
    yield Measured(
        key, "zero points against truth", *estimate(rms, values, np.arange(len(values)), key),
        unit="mmag", n=len(values), of="CCD-visits", requirement=target(2.0, OWN), ccds=ccds,
    )  # fmt: skip


@metric("truth.positions", "positions against truth", "truth", needs_truth=True)
def positions(data: RunData) -> Iterator[Measured]:
    """Median size of measured minus true position, an axis, of lone stars of true SNR above 50; and
    rms, an axis, over CCD-visits of the median of it: what WCS are off as a whole. CCD-visits count
    whose WCS was found on stars."""
    stars = compared(data).stars
    place = data.at_exposures(stars["visit"], stars["number"])
    stars = stars[(place >= 0) & data.has_wcs[place]]
    both = np.concatenate([stars, stars])
    values = np.concatenate([stars["east"], stars["north"]])
    if not np.isfinite(values).any():
        raise NotMeasurable("no star has a position on the sky")
    key, title = "truth.positions", "positions of stars against truth"
    yield _number(
        data, key, title, both, np.abs(values), median, "mas", "coordinates", target(5.0, OWN)
    )
    shifts = np.concatenate(
        [by_ccd(data, stars["visit"], stars["number"], stars[axis], median) for axis in
         ("east", "north")]
    )  # fmt: skip
    key = "truth.wcs_shift"
    yield Measured(
        key, "shift of a CCD-visit against truth",
        *estimate(rms, shifts["value"], np.arange(len(shifts)), key), unit="mas",
        n=len(shifts) // 2, of="CCD-visits", requirement=target(5.0, OWN), ccds=shifts,
    )  # fmt: skip


@metric("truth.psf", "PSF against truth", "truth", needs_truth=True)
def psf(data: RunData) -> Iterator[Measured]:
    """The model of the PSF at the places of sources against the true one: size, mean of the
    relative error of T = ixx + iyy in percent; ellipticity, rms of the error of the vector
    (e1, e2)."""
    rows = compared(data).psf
    yield _number(
        data, "truth.psf_size", "PSF size against truth", rows, rows["size"], mean, "%", "places",
        target(0.1, OWN, centre=0.0),
    )  # fmt: skip
    size = np.hypot(rows["e1"], rows["e2"])
    yield _number(
        data, "truth.psf_ellipticity", "PSF ellipticity against truth", rows, size, rms, "",
        "places", target(1.5e-3, OWN),
    )  # fmt: skip


@metric("truth.completeness", "completeness and purity against truth", "truth", needs_truth=True)
def completeness(data: RunData) -> Iterator[Measured]:
    """Share of true stars, farther than 6 pixels from the edges, that a source is of, by true SNR:
    the brightest takes the nearest source within 0.75 FWHM, then the next, galaxies too, down to
    SNR 2.5. What full wells and bleeds hide counts as missed. The SNR is that of a point source;
    the light of galaxies is spread, so fewer of them can be found, and their share is only
    reported. Purity: share of sources that are of something, without those flagged for edges,
    streaks or saturation."""
    both = compared(data)
    for name, is_star in (("stars", True), ("galaxies", False)):
        of_kind = both.expected[(both.expected["is_star"] > 0) == is_star]
        for low, high, wanted in BINS:
            rows = of_kind[(of_kind["snr"] >= low) & (of_kind["snr"] < high)]
            yield _number(
                data, f"truth.completeness.{'' if is_star else f'{name}.'}{low:g}-{high:g}",
                f"{name} found at true SNR {low:g} to {high:g}", rows, 100.0 * rows["found"],
                mean, "%", f"true {name}", at_least(100.0 * wanted, OWN) if is_star else None,
            )  # fmt: skip
    yield _number(
        data, "truth.purity", "sources that are of something", both.found,
        100.0 * both.found["real"], mean, "%", "sources", at_least(99.0, OWN),
    )  # fmt: skip
