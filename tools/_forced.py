"""Forced photometry against truth: fluxes at the true places of all sources, and of blank sky.

The catalogue holds what a deep stack of the survey would: stars and galaxies down to far below the
noise of a visit. Judged are stars as they lie, and places where nothing stands. Stars that stand
alone are told beside them: they were chosen for holes in the light of faint sources, of which the
sky's level holds a share, so that they come out a few hundredths of their errors too faint.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from _characterized import CharacterizedRun, command
from _truth import STAR, CcdTruth, near_spoiled, read_truth, spread, truth_files
from scipy.spatial import cKDTree

from mpipipe.data.photo_calib import NANOJANSKY_ZERO_POINT
from mpipipe.data.refcat import reference_rows
from mpipipe.quality.report import Check, at_most, within
from mpipipe.store.refcat.writing import write_refcat

FAINTEST = 0.3
"""SNR in the best visit from which sources are in the catalogue."""
ALONE = 2.0
"""Distance to the next source of that SNR, FWHM, from which a star counts as alone."""
SNR_BINS = (0.3, 1.0, 2.0, 5.0, 20.0)
MOST_BIAS, MOST_WIDTH = 0.05, 1.1
"""Targets of the mean pull and of the pulls' width."""
_N_BLANK = 5_000
"""Places that are sources of nothing; their ids are below 0."""


def positions(sim: Path, folder: Path, seed: int = 1) -> Path:
    """Make the catalogue of positions of a simulated survey, if it is not there; its folder."""
    if folder.exists():
        return folder
    from astropy.io import fits

    survey = tomllib.loads((sim / "simulation.toml").read_text())["survey"]
    seen = [read_truth(path).sources for path in truth_files(sim)]
    bright = np.unique(np.concatenate([rows["id"][rows["snr"] > FAINTEST] for rows in seen]))
    objects = fits.getdata(sim / "truth" / "objects.fits", "OBJECTS")
    objects = objects[np.isin(objects["id"], bright)]
    rng = np.random.default_rng(seed)
    ra, dec = (np.array(objects[name], float) for name in ("ra", "dec"))
    columns = {name: np.array(objects[name], float) for name in ("pm_ra", "pm_dec", "parallax")}
    blank = np.zeros(_N_BLANK)
    columns = {name: np.append(values, blank) for name, values in columns.items()}
    columns |= {
        "id": np.append(np.array(objects["id"], np.int64), -1 - np.arange(_N_BLANK)),
        "ra": np.append(ra, rng.uniform(ra.min(), ra.max(), _N_BLANK)),
        "dec": np.append(dec, rng.uniform(dec.min(), dec.max(), _N_BLANK)),
        "epoch": np.full(len(ra) + _N_BLANK, float(survey["mjd"])),
    }
    write_refcat(folder, [reference_rows(columns, ())], (), "true positions")
    return folder


def forced_checks(runs: Iterable[CharacterizedRun], seed: int = 1) -> list[Check]:
    """Rows of the table: mean and width of pulls by SNR, of all runs together.

    A run without forced photometry is gone on with, which measures all its sources again.
    """
    found = []
    for run in runs:
        if not (run.run / "catalogs" / "forcedSrc.h5").exists():
            catalogue = positions(run.sim, run.run.with_name("positions"), seed)
            command("run", "--resume", run.run, "-q", "--forced", catalogue, codes=(0, 3))
        measured = CharacterizedRun(run.sim, run.run)
        found += [_pulls(truth, measured.rows("forcedsrc", truth)) for truth in measured.truths()]
    if not found:
        return []
    blank, snr, pull, alone = (np.concatenate(values) for values in zip(*found, strict=True))
    checks = _judged("blank sky", blank)
    for low, high in zip(SNR_BINS, SNR_BINS[1:], strict=False):
        some = (snr > low) & (snr < high)
        name = f"stars of SNR {low:g} to {high:g}"
        checks += _judged(name, pull[some])
        checks.append(Check("  mean pull of those that are alone", _mean(pull[some & alone])))
    return checks


def _pulls(
    truth: CcdTruth, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one CCD-visit: pulls of blank sky; SNR and pulls of stars, and whether they are alone."""
    sources = truth.sources[np.argsort(truth.sources["id"], kind="stable")]
    lost = [rows[f"flag_{name}"] for name in ("edge", "saturated", "bad", "streak", "shared")]
    place = np.stack([rows["x"], rows["y"]], axis=1)
    sound = np.isfinite(rows["psfFlux"]) & ~np.any(lost, axis=0) & ~near_spoiled(truth, place)
    rows, place = rows[sound], place[sound]
    light = np.flatnonzero(sources["snr"] > FAINTEST)
    at = np.stack([sources["x"], sources["y"]], axis=1)
    number = np.searchsorted(sources["id"], rows["objectId"]).clip(0, len(sources) - 1)
    known = sources["id"][number] == rows["objectId"]
    distance, neighbour = cKDTree(at[light]).query(place, k=2)
    own = light[neighbour[:, 0]] == number
    alone = np.where(own & known, distance[:, 1], distance[:, 0]) > ALONE * truth.fwhm
    flux = np.where(known, 10 ** (0.4 * (NANOJANSKY_ZERO_POINT - sources["mag"][number])), 0.0)
    pull = (rows["psfFlux"] - flux) / rows["psfFluxErr"]
    star = known & (sources["kind"][number] == STAR)
    blank = (rows["objectId"] < 0) & alone
    return pull[blank], sources["snr"][number[star]], pull[star], alone[star]


def _judged(name: str, pull: np.ndarray) -> list[Check]:
    error = spread(pull) / np.sqrt(max(len(pull), 1))
    return [
        within(f"forced, {name}: mean pull", _mean(pull), 0.0, MOST_BIAS),
        Check(f"  its standard error, of {len(pull):,}", float(error)),
        at_most("  width of the pulls", spread(pull), MOST_WIDTH),
    ]


def _mean(pull: np.ndarray) -> float:
    """Without what is 5 widths off: cosmic rays, spikes, what varies."""
    off = np.abs(pull - np.median(pull)) if len(pull) else pull
    kept = pull[off <= 5.0 * spread(pull)] if len(pull) else pull
    return float(kept.mean()) if len(kept) else float("nan")
