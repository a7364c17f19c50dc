"""What is in a simulation, in words, from its folder (`picture` draws it)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.sim.lightcurves import Variability
from mpipipe.sim.sky import GALAXY, STAR
from mpipipe.sim.survey import BANDS, Survey
from mpipipe.sim.tasks import SimFolder, is_done, make_tasks, read_survey
from mpipipe.store.checksums import read_json
from mpipipe.store.fits import open_fits

DETECTED = 5.0
"""Sources of at least this SNR count as there to be detected."""

_TRAILED = 2.0
"""Bodies whose trails are longer than this, in pixels, count as trailed."""


@dataclass(frozen=True)
class CcdVisit:
    """What the truth says of one CCD in one visit.

    Attributes
    ----------
    snr
        Of every source, against sky and read noise.
    mag
        Of every source.
    n_ray_pixels
        Pixels that cosmic rays hit, in all snaps.
    trailed
        Number of trailed bodies.
    extinction
        Map of magnitudes lost.
    """

    visit: int
    ccd: str
    band: str
    snr: np.ndarray
    mag: np.ndarray
    n_ray_pixels: int
    trailed: int
    extinction: np.ndarray


@dataclass(frozen=True)
class Simulation:
    """A simulation that is there.

    Attributes
    ----------
    objects, movers
        Rows of `sky.OBJECTS` and `movers.MOVERS`.
    curves
        ``id`` and ``mag`` (one a visit) of the variables.
    eggs
        Rare things that were planted.
    visits
        As in ``visits.json``.
    channels
        CCD to its true gains and read noises.
    ccd_visits
        Of those visits and CCDs that are done.
    n_done, n_tasks
        Tasks that are done, and all.
    n_bytes
        Of the raw frames.
    """

    survey: Survey
    objects: np.ndarray
    movers: np.ndarray
    curves: np.ndarray
    eggs: list[dict[str, Any]]
    visits: list[dict[str, Any]]
    channels: dict[str, np.ndarray]
    ccd_visits: list[CcdVisit]
    n_done: int
    n_tasks: int
    n_bytes: int


def read_simulation(root: Path, truth: Path | None = None) -> Simulation:
    """Read what a folder holds.

    Raises
    ------
    BadDataError
        If it is no simulation, or its truth is elsewhere and was not named.
    """
    survey = read_survey(root)
    folder = SimFolder.at(root, truth)
    path = folder.truth / "objects.fits"
    if not path.exists():
        raise BadDataError(
            "is not there",
            file=path,
            way_out="name the folder of the truth with --truth, or finish it with --resume",
        )
    with open_fits(path) as hdus:
        objects, movers, curves = (_rows(hdus[name]) for name in _TABLES)
    eggs = folder.truth / "eggs.json"
    channels = {}
    for file in sorted((folder.truth / "detectors").glob("*.fits")):
        with open_fits(file) as hdus:
            channels[file.stem] = _rows(hdus["CHANNELS"])
    tasks = make_tasks(survey)
    return Simulation(
        survey=survey,
        objects=objects,
        movers=movers,
        curves=curves,
        eggs=read_json(eggs) if eggs.exists() else [],
        visits=read_json(folder.truth / "visits.json"),
        channels=channels,
        ccd_visits=[_ccd_visit(f) for f in sorted((folder.truth / "science").glob("*.fits"))],
        n_done=sum(is_done(task, folder) for task in tasks),
        n_tasks=len(tasks),
        n_bytes=sum(f.stat().st_size for f in folder.raw.rglob("*") if f.is_file()),
    )


_TABLES = ("OBJECTS", "MOVERS", "LIGHTCURVES")


def _rows(hdu: Any) -> np.ndarray:
    """A table in the machine's byte order."""
    data = np.array(hdu.data)
    return data.astype(data.dtype.newbyteorder("="))


def _ccd_visit(path: Path) -> CcdVisit:
    with open_fits(path) as hdus:
        header, rows, rays = hdus[0].header, hdus["SOURCES"].data, hdus["RAYS"].data
        return CcdVisit(
            visit=int(header["VISIT"]),
            ccd=str(header["CCD"]),
            band=str(header["FILTER"]),
            snr=np.array(rows["snr_detection"], dtype=float),
            mag=np.array(rows["mag"], dtype=float),
            n_ray_pixels=len(rays),
            trailed=int((rows["trail"] > _TRAILED).sum()),
            extinction=np.array(hdus["EXTINCTION"].data, dtype=float),
        )


def lines_of(found: Simulation) -> Iterator[str]:
    """What is in it."""
    yield from _survey_lines(found)
    yield from _visit_lines(found)
    yield from _object_lines(found)
    yield from _rare_lines(found)


def _survey_lines(found: Simulation) -> Iterator[str]:
    survey, visits = found.survey, found.visits
    state = "" if found.n_done == found.n_tasks else f", {found.n_tasks - found.n_done} tasks left"
    yield (
        f"preset {survey.preset}, seed {survey.seed}: {survey.n_ccds} CCDs, {len(visits)} visits, "
        f"{found.n_bytes / 1e9:.2f} GB of raw frames{state}"
    )
    n_flats = len(survey.flat_levels) * survey.flats_per_level
    yield (
        f"calibration frames a CCD: {survey.n_bias} bias, {survey.n_dark} dark of "
        f"{survey.dark_time:g} s, {n_flats} flats a band"
    )
    if found.channels:
        every = np.concatenate(list(found.channels.values()))
        gain, noise = every["gain"], every["read_noise"]
        yield (
            f"{len(every)} channels: gain {gain.min():.3f} to {gain.max():.3f} e/adu, "
            f"read noise {noise.min():.2f} to {noise.max():.2f} e"
        )
    options = (
        (survey.spikes > 0, f"spikes with {survey.spikes:.1%} of a bright star's light"),
        (survey.ghosts > 0, f"ghosts with {survey.ghosts:.1%} each"),
        (survey.tree_rings > 0, f"tree rings of {survey.tree_rings:g} pixel"),
        (survey.brighter_fatter > 0, f"brighter-fatter {survey.brighter_fatter:g}/e"),
        (any(survey.refraction), "differential refraction"),
        (len(survey.streaks) > 0, f"{len(survey.streaks)} satellite trails"),
    )
    yield f"optics and detector: {', '.join(words for on, words in options if on) or 'plain'}"


def _visit_lines(found: Simulation) -> Iterator[str]:
    survey, visits = found.survey, found.visits
    span = visits[-1]["mjd"] - visits[0]["mjd"]
    yield f"visits over {span:.1f} days around ra {survey.ra:.3f}, dec {survey.dec:+.3f}"
    yield (
        f"  {'band':4} {'visits':>6} {'seeing':>10} {'extinction':>12} {'sky':>10}"
        f" {'SNR > 5':>9} {'fainter':>9} {'depth':>6}   (sources a CCD; magnitude of SNR 5)"
    )
    for band in BANDS:
        some = [visit for visit in visits if visit["band"] == band]
        if not some:
            continue
        seeing = [value for visit in some for value in visit["seeing"]]
        loss = [visit["extinction"] for visit in some]
        sky = float(np.median([visit["sky"] for visit in some]))
        yield (
            f'  {band:4} {len(some):6} {min(seeing):4.2f}-{max(seeing):4.2f}" '
            f"{min(loss):6.3f}-{max(loss):5.3f} {sky:6.1f} e/s{_depth_words(found, band)}"
        )
    maps = [part.extinction for part in found.ccd_visits]
    if survey.clouds > 0 and maps:
        cloud = max(visit["cloud"] for visit in visits)
        within = [float(np.ptp(map_)) for map_ in maps]
        yield (
            f"clouds to {cloud:.2f} mag; over a CCD the extinction differs by "
            f"{np.median(within):.3f} mag (median), {max(within):.3f} mag (most)"
        )
    if found.ccd_visits:
        rays = np.mean([part.n_ray_pixels for part in found.ccd_visits])
        yield f"cosmic rays: {rays:.0f} pixels in a visit of a CCD"


def _depth_words(found: Simulation, band: str) -> str:
    some = [part for part in found.ccd_visits if part.band == band]
    if not some:
        return ""
    seen = np.median([(part.snr > DETECTED).sum() for part in some])
    unseen = np.median([(part.snr <= DETECTED).sum() for part in some])
    return f" {seen:9.0f} {unseen:9.0f} {depth(some):6.2f}"


def depth(parts: list[CcdVisit]) -> float:
    """Magnitude of a source of SNR 5: the median of what all near it give."""
    snr = np.concatenate([part.snr for part in parts])
    mag = np.concatenate([part.mag for part in parts])
    near = (snr > 2.0) & (snr < 12.0)
    if not near.any():
        return float("nan")
    return float(np.median(mag[near] + 2.5 * np.log10(snr[near] / DETECTED)))


def _object_lines(found: Simulation) -> Iterator[str]:
    survey, objects = found.survey, found.objects
    stars, galaxies = objects["kind"] == STAR, objects["kind"] == GALAXY
    yield f"objects: {stars.sum():,} point sources, {galaxies.sum():,} galaxies"
    edges = np.arange(14, 29, 2)
    for what, chosen in (("points", stars), ("galaxies", galaxies)):
        counts = np.histogram(objects["mag_r"][chosen], edges)[0]
        parts = [f"{a}-{a + 2}: {n:,}" for a, n in zip(edges, counts, strict=False) if n]
        yield f"  {what} by r: {', '.join(parts)}"
    varying = np.unique(objects["variability"], return_counts=True)
    named = [
        f"{n} {Variability(kind).name.lower().replace('_', ' ')}"
        for kind, n in zip(*map(np.ndarray.tolist, varying), strict=True)
        if kind != Variability.NONE
    ]
    yield f"  varying: {', '.join(named) or 'none'}"
    if survey.parallax > 0:
        fast = np.hypot(objects["pm_ra"], objects["pm_dec"]) > 50
        largest = objects["parallax"].max()
        yield f"  largest parallax {largest:.1f} mas; {fast.sum()} faster than 50 mas/yr"


def _rare_lines(found: Simulation) -> Iterator[str]:
    if len(found.movers):
        families, counts = np.unique(found.movers["family"], return_counts=True)
        parts = [f"{n} {name.decode()}" for name, n in zip(families, counts, strict=True)]
        trailed = sum(part.trailed for part in found.ccd_visits)
        yield f"Solar System: {', '.join(parts)}; {trailed} images trailed by over 2 pixels a snap"
    if found.eggs:
        names = ", ".join(egg["what"] for egg in found.eggs)
        yield f"planted: {names} (where: eggs.json in the truth)"
