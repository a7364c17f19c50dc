"""Real frames that are calibrated on their own stars, or on Gaia's: rows of check_night's table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _ranks import environment

from mpipipe.quality.report import Check, at_least, at_most, within
from mpipipe.store.hdf5 import read_catalogue

BRIGHT = 16.5
"""Gaia's stars whose places are good enough for a judgement, RP mag."""


def mpipipe(*args: object, codes: tuple[int, ...] = (0, 3)) -> str:
    """Output of a command, one that must end with one of these codes."""
    command = [sys.executable, "-m", "mpipipe", *map(str, args)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=900, check=False
    )
    if done.returncode not in codes:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def from_run(run: Path, refcat: Path) -> dict[str, Any]:
    """Make the run's own reference catalogue; what is told of it, and of each frame."""
    made: dict[str, Any] = json.loads(mpipipe("refcat", "from-run", run, "-o", refcat, "--json"))
    return made


def placed(made: dict[str, Any], run: Path, refcat: Path) -> list[Check]:
    """How the frames of a night agree, and what the run makes of the catalogue.

    The run goes on with it, and measures also where its stars stand.
    """
    from astropy.io import fits

    mpipipe("run", "-q", "--resume", run, "--refcat", refcat, "--forced", refcat)
    headers = [fits.getheader(path) for path in sorted(run.glob("calexp/*/calexp-*.fits"))]
    relative = [head for head in headers if head.get("WCSREL") and head.get("MAGREL")]
    frames = made["frames"]
    n_frames = len(frames)
    n_placed = sum(frame["group"] is not None for frame in frames)
    n_blind = sum(frame["header_offset"] is None for frame in frames if frame["group"] is not None)
    # What is not known is None there, and NaN here.
    total = float(np.array(made["rms_pixels"], dtype=float))
    rms, extinction, zero_point = (
        np.array([frame[name] for frame in frames], dtype=float)
        for name in ("rms", "extinction", "zero_point")
    )
    known = {frame["visit"]: value for frame, value in zip(frames, zero_point, strict=True)}
    clouds = float(np.nanmax(extinction) - np.nanmin(extinction))
    apart = np.array([head["MAGZERO"] - known[head["VISIT"]] for head in relative])
    return [
        within("frames placed against each other", n_placed, n_frames, 0),
        Check("of these, without a WCS in the header", n_blind),
        at_most("places of stars, SNR > 50: rms an axis", total, 0.05, "pixel"),
        at_most("the same, worst frame", float(rms.max()), 0.05, "pixel"),
        Check("range of the zero point by clouds, mag", clouds),
        within("resumed with the catalogue: relative WCS and zero point", len(relative),
               n_frames, 0),
        at_most("their zero points against the catalogue's, rms",
                float(np.std(apart)), 0.03, "mag"),
    ]  # fmt: skip


def print_curve(frames: list[dict[str, Any]]) -> None:
    """Extinction of every frame in the order of time, as a bar of its length."""
    print("\nextinction by clouds")
    start = min(frame["mjd"] for frame in frames)
    for frame in sorted(frames, key=lambda frame: float(frame["mjd"])):
        value = frame["extinction"]
        shown = "no zero point" if value is None else f"{value:6.3f} mag  {'#' * round(30 * value)}"
        print(f"  {1440.0 * (frame['mjd'] - start):6.1f} min  {shown}")


def draw_curve(frames: list[dict[str, Any]], path: Path) -> None:
    """The zero point against time."""
    from matplotlib.figure import Figure

    known = [frame for frame in frames if frame["zero_point"] is not None]
    start = int(min(frame["mjd"] for frame in frames))
    hours = [24.0 * (frame["mjd"] - start) for frame in known]
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(
        hours,
        [frame["zero_point"] for frame in known],
        [frame["zero_point_error"] for frame in known],
        fmt="o-",
        markersize=3.0,
        linewidth=0.8,
    )
    axes.set_xlabel(f"hours since MJD {start}")
    axes.set_ylabel("zero point, mag (relative)")
    figure.savefig(path, dpi=150)


def on_gaia(realdata: Path, folder: Path) -> list[Check]:
    """LCO Sinistro, a resampled frame: its WCS against Gaia's stars as they were in 2016."""
    field = realdata / "lco-gaia"
    if not field.is_dir():
        return []
    refcat, run = folder / "lco-refcat", folder / "lco"
    stars = field / "sky_image_1_GaiaCat.ecsv"
    mpipipe("refcat", "ingest", "-q", stars, "-o", refcat, "--column", "mag_r=mag",
            "--epoch", "2016.0")  # fmt: skip
    mpipipe("run", "-q", field / "template_1.fits.fz", "-o", run,
            "--camera", "lco-sinistro-reduced", "--refcat", refcat)  # fmt: skip
    matches = read_catalogue(run / "catalogs" / "icMatch.h5")
    bright = matches[matches["refMag"] < BRIGHT]
    checks = [at_least(f"LCO: stars of Gaia above {BRIGHT:g} mag matched", len(bright), 35)]
    for axis in ("dx", "dy"):
        off = bright[axis].astype(float)
        spread = 1.4826 * float(np.median(np.abs(off - np.median(off)))) if len(off) else np.nan
        checks += [
            at_most(f"LCO: {axis}, 1.48 MAD", spread, 0.13, "pixel"),
            Check(f"LCO: {axis}, rms, pixel", float(np.sqrt(np.mean(off**2)))),
        ]
    return checks


def nowhere(realdata: Path, folder: Path) -> list[Check]:
    """SAAO, a tiny field without any WCS: measured all the same, and no catalogue is made up."""
    series = realdata / "saao-series"
    if not series.is_dir():
        return []
    run = folder / "saao"
    mpipipe("run", "-q", series, "-o", run, "--camera", "saao-ste3-reduced")
    outcomes = json.loads((run / "completion.json").read_text())["outcomes"]["calibrate"]
    n_ended = outcomes.get("done", 0) + outcomes.get("partial", 0)
    mpipipe("refcat", "from-run", run, "-o", folder / "saao-refcat", codes=(1,))
    return [
        within("SAAO: frames without a WCS that are done or partial", n_ended,
               len(list(series.glob("*.fits"))), 0),
        Check("SAAO: of these, partial", outcomes.get("partial", 0)),
        within("SAAO: a catalogue of them is refused", not (folder / "saao-refcat").exists(), 1, 0),
    ]  # fmt: skip
