"""Frames that went wrong, each in another way, and what a run must make of them.

Raw frames of a simulated survey are spoiled one visit after another: pixels are changed in
electrons on the assembled CCD and written back to the channels' files, or the header's pointing
is moved. Then the run must go through; what it could not make must be absent and named; what it
made must be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _truth
import numpy as np
from _characterized import CharacterizedRun, characterize, reference_file, simulate
from scipy import ndimage, signal

from mpipipe.data.photo_calib import NANOJANSKY_ZERO_POINT
from mpipipe.data.sections import Section
from mpipipe.quality.report import Check, at_least
from mpipipe.sim.visits import FIRST_VISIT

FEW_CALIBRATIONS = ("n_bias=5", "n_dark=4", "flat_levels=3e3,1.5e4,4.5e4")
SETTINGS = ("n_ccds=1", "bands=r", "star_density=2", "streaks=", *FEW_CALIBRATIONS)
OTHER_FIELD = 3.0
"""Distance in declination of the fields that headers wrongly point at, degrees."""
_FULL_ADU = 65535.0
_MOST_WCS_MAS = 100.0
_MOST_ZERO_POINT = 0.03

PSF, WCS, ZERO_POINT = "ic.psfDetermination", "ic.wcs", "ic.photocal"


@dataclass(frozen=True)
class Case:
    """One way to spoil a visit.

    Attributes
    ----------
    pixels
        ``pixels(electrons, sky, random) -> electrons`` on the assembled CCD; None: as they are.
    field
        How far the header's declination is off, degrees.
    lost
        Steps that can not succeed and must be named.
    has_sources
        Whether src must not be empty.
    """

    name: str
    pixels: Callable[[np.ndarray, float, np.random.Generator], np.ndarray] | None = None
    field: float = 0.0
    lost: tuple[str, ...] = ()
    has_sources: bool = True


# -- what goes wrong with pixels -------------------------------------------------------------------


def no_stars(electrons: np.ndarray, sky: float, random: np.random.Generator) -> np.ndarray:
    """Nothing but sky: a closed dome with its lamp dimmed."""
    return random.poisson(sky, electrons.shape).astype(float)


def all_saturated(electrons: np.ndarray, sky: float, random: np.random.Generator) -> np.ndarray:
    """Every star is full to the brim; the faint ones drown."""
    smooth = ndimage.gaussian_filter(electrons - sky, 1.5)
    full = ndimage.binary_dilation(smooth > 3.0 * np.sqrt(sky), iterations=2)
    return np.where(full, np.inf, no_stars(electrons, sky, random))


def defocused(electrons: np.ndarray, sky: float, random: np.random.Generator) -> np.ndarray:
    """Stars are rings of 12 pixels' radius."""
    y, x = np.mgrid[-13:14, -13:14]
    ring = (np.hypot(x, y) < 12.5) & (np.hypot(x, y) > 6.0)
    return _blurred(electrons, ring.astype(float), sky, random)


def trailed(electrons: np.ndarray, sky: float, random: np.random.Generator) -> np.ndarray:
    """The telescope did not follow: stars are lines of 31 pixels."""
    return _blurred(electrons, np.ones((1, 31)), sky, random)


def clouded(electrons: np.ndarray, sky: float, random: np.random.Generator) -> np.ndarray:
    """Clouds of 3 magnitudes take the light of the stars, not that of the sky."""
    share = 10.0**-1.2
    noise = np.sqrt(sky * (1.0 - share**2)) * random.normal(size=electrons.shape)
    return sky + share * (electrons - sky) + noise


def dead_amplifier(electrons: np.ndarray, sky: float, random: np.random.Generator) -> np.ndarray:
    """The channel at the lower left reads nothing but its noise."""
    result = electrons.copy()
    result[:1000, :256] = 7.0 * random.normal(size=(1000, 256))
    return result


def _blurred(
    electrons: np.ndarray, kernel: np.ndarray, sky: float, random: np.random.Generator
) -> np.ndarray:
    """Convolved, with the sky's noise that this takes away put back."""
    kernel = kernel / kernel.sum()
    noise = np.sqrt(sky * (1.0 - (kernel**2).sum())) * random.normal(size=electrons.shape)
    blurred = signal.fftconvolve(np.minimum(electrons, 2e5) - sky, kernel, mode="same")
    return np.asarray(sky + blurred + noise)


CASES: tuple[Case, ...] = (
    Case("as it should be"),
    Case("no stars", no_stars, lost=(PSF, WCS, ZERO_POINT), has_sources=False),
    Case("all saturated", all_saturated, lost=(PSF, WCS, ZERO_POINT), has_sources=False),
    Case("no reference stars", field=-OTHER_FIELD, lost=(WCS, ZERO_POINT)),
    Case("wrong field", field=OTHER_FIELD, lost=(WCS, ZERO_POINT)),
    Case("defocused", defocused),
    Case("trailed", trailed),
    Case("clouds of 3 mag", clouded),
    Case("one amplifier dead", dead_amplifier),
)
QUICK = ("as it should be", "no stars", "wrong field", "defocused")


# -- raw frames ------------------------------------------------------------------------------------


def spoil(raw: Path, number: int, case: Case, seed: int) -> None:
    """Spoil all snaps of a visit."""
    for snap in (0, 1):
        files = sorted(raw.glob(f"imsim_{number}_*_E{snap:03d}.fits"))
        random = np.random.default_rng([seed, number, snap])
        with ExitStack() as stack:
            from astropy.io import fits

            hdus = [stack.enter_context(fits.open(path, mode="update"))[0] for path in files]
            for hdu in hdus:
                hdu.header["DEC_DEG"] += case.field
                hdu.header["CRVAL2"] += case.field
            if case.pixels is not None:
                _change_pixels(hdus, case.pixels, random)


def _change_pixels(hdus: list[Any], change: Callable[..., np.ndarray], random: Any) -> None:
    """Electrons of the assembled CCD, changed, back into the channels."""
    shape = (
        max(_section(hdu, "DETSEC").y1 for hdu in hdus),
        max(_section(hdu, "DETSEC").x1 for hdu in hdus),
    )
    electrons = np.zeros(shape)
    levels = []
    for hdu in hdus:
        data = np.asarray(hdu.data, float)
        levels.append(np.median(_section(hdu, "BIASSEC").cut(data), axis=1, keepdims=True))
        light = (_section(hdu, "DATASEC").cut(data) - levels[-1]) * hdu.header["GAIN"]
        _section(hdu, "DETSEC").cut(electrons)[:] = light
    electrons = change(electrons, float(np.median(electrons)), random)
    for hdu, level in zip(hdus, levels, strict=True):
        adu = _section(hdu, "DETSEC").cut(electrons) / hdu.header["GAIN"] + level
        data = np.array(hdu.data)
        _section(hdu, "DATASEC").cut(data)[:] = np.rint(np.clip(adu, 0.0, _FULL_ADU))
        hdu.data = data


def _section(hdu: Any, key: str) -> Section:
    return Section.parse(hdu.header[key])


def add_other_field(path: Path, out: Path, seed: int) -> None:
    """A reference catalogue with as many other stars in the field that a header wrongly names."""
    from astropy.table import Table, vstack

    stars = Table.read(path)
    random = np.random.default_rng([seed, 1])
    others = stars.copy()
    others["id"] += len(stars)
    for name in ("ra", "dec"):
        others[name] = random.uniform(stars[name].min(), stars[name].max(), len(stars))
    others["dec"] += OTHER_FIELD
    vstack([stars, others], metadata_conflicts="silent").write(out)


# -- what must come out ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Which promises a spoiled visit kept.

    Attributes
    ----------
    ended
        It was done or partial.
    named
        Everything that is missing is named, and the task is then partial; what had to be
        impossible was not made.
    right
        Nothing that was written as good is wrong.
    went_on
        The PSF or, where nothing hindered it, src are there.
    """

    case: Case
    outcome: str
    said: str
    ended: bool
    named: bool
    right: bool
    went_on: bool


def verdicts(run: CharacterizedRun, cases: tuple[Case, ...]) -> Iterator[Verdict]:
    """What the run made of each case."""
    by_visit = {task["visit"]: task for task in run.outcomes}
    for k, case in enumerate(cases):
        number = FIRST_VISIT["science"] + k
        task = by_visit[number]
        said = " ".join([task["stage"], task["reason"], *task["warnings"]])
        truth = _truth.read_truth(next(iter(run.sim.glob(f"truth/science/{number}_*.fits"))))
        ended = task["outcome"] in ("done", "partial")
        if not ended or not run.calexp(truth).exists():
            yield Verdict(case, task["outcome"], said, False, False, False, False)
            continue
        lacks = {PSF: run.psf(truth) is None, WCS: not run.has_wcs(truth)}
        lacks[ZERO_POINT] = not run.has_zero_point(truth)
        steps = [step for step, missing in lacks.items() if missing]
        named = all(step in said for step in steps)
        named &= bool(steps) == (task["outcome"] == "partial") and set(case.lost) <= set(steps)
        went_on = (len(run.rows("src", truth)) > 0 or not case.has_sources) and (
            not lacks[PSF] or PSF in said
        )
        right = _is_right(run, truth, lacks, case)
        yield Verdict(case, task["outcome"], said, ended, named, right, went_on)


def _is_right(
    run: CharacterizedRun, truth: _truth.CcdTruth, lacks: dict[str, bool], case: Case
) -> bool:
    """Whether the WCS and the zero point that are there hold."""
    if not lacks[WCS]:
        errors = _truth.wcs_errors(truth, run.wcs(truth))
        if _truth.rms(errors) > _MOST_WCS_MAS:
            return False
    if lacks[ZERO_POINT]:
        return True
    sources = run.rows("icsrc", truth)
    lone = _truth.isolated_stars(truth)
    lone = lone[(truth.sources["mag"][lone] > 17.0) & (truth.sources["mag"][lone] < 19.5)]
    measured, true = _truth.matched(sources["x"], sources["y"], truth, lone, radius=4.0)
    flux = sources["psfFlux"][measured]
    good = flux > 0
    if good.sum() < 3:
        return False
    off = NANOJANSKY_ZERO_POINT - 2.5 * np.log10(flux[good]) - truth.sources["mag"][true][good]
    return bool(abs(np.median(off)) < _MOST_ZERO_POINT)


def check_spoiled(folder: Path, seed: int, quick: bool) -> list[Check]:
    """Simulate, spoil, run: rows of the table."""
    cases = tuple(case for case in CASES if not quick or case.name in QUICK)
    sim, run = folder / "sim", folder / "run"
    simulate(sim, (*SETTINGS, f"n_visits={len(cases)}"), seed)
    reference = folder / "reference.fits"
    if not reference.exists():  # otherwise the frames are spoiled already
        for k, case in enumerate(cases):
            spoil(sim / "raw", FIRST_VISIT["science"] + k, case, seed)
        add_other_field(reference_file(sim), reference, seed)
    characterize(sim, run, reference)
    return judge_spoiled(CharacterizedRun(sim, run), cases)


def judge_spoiled(run: CharacterizedRun, cases: tuple[Case, ...]) -> list[Check]:
    """Rows of the table, a line printed for each case that broke a promise."""
    found = list(verdicts(run, cases))
    for verdict in found:
        broken = [
            name for name in ("ended", "named", "right", "went_on") if not getattr(verdict, name)
        ]
        note = f" BROKEN: {', '.join(broken)}" if broken else ""
        print(f"{verdict.case.name}: {verdict.outcome}{note}; {verdict.said[:300]}")
    n = len(cases)
    texts = {
        "ended": "spoiled visits that end as done or partial",
        "named": "what is missing is named, and nothing impossible made",
        "right": "nothing wrong is written as good",
        "went_on": "later stages did what they could",
    }
    return [
        at_least(f"{text}, of {n}", sum(getattr(verdict, name) for verdict in found), n)
        for name, text in texts.items()
    ]
