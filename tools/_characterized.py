"""A run whose image characterization is to be judged: its products beside the truth of its survey.

Everything is read from the run folder; what a CCD-visit lacks is None or empty.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import _truth
import numpy as np
from _ranks import environment

from mpipipe.store.layout import RunLayout
from mpipipe.trace.eventfile import event_files, read_all

MOST_SECONDS = 3000


def command(*words: object, codes: Sequence[int] = (0,)) -> None:
    """`mpipipe WORDS`; raises with what it said if it ends with another code."""
    done = subprocess.run(
        [sys.executable, "-m", "mpipipe", *map(str, words)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    if done.returncode not in codes:
        said = f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        raise RuntimeError(f"mpipipe {' '.join(map(str, words))}: code {done.returncode}: {said}")


def simulate(sim: Path, settings: Sequence[str], seed: int) -> None:
    """A survey of CCDs of 2048 x 2000 with these options changed."""
    changes = [word for setting in settings for word in ("--set", setting)]
    command("simulate", sim, "--preset", "small", "--seed", seed, "--quiet", *changes)


def reference_file(sim: Path) -> Path:
    """The reference catalogue of a simulated survey."""
    return sim / "refcat" / "reference.fits"


def characterize(sim: Path, run: Path, reference: Path) -> None:
    """Run the pipeline on a survey with a reference catalogue; partial tasks are no failure."""
    stars = run.with_name("refcat")
    if (run / "plan.columns").exists():
        command("run", "--resume", run, "--quiet", codes=(0, 3))
        return
    command("refcat", "ingest", reference, "-o", stars)
    command("run", sim / "raw", "-o", run, "--refcat", stars, "--quiet", codes=(0, 3))


def make_run(folder: Path, settings: Sequence[str], seed: int) -> CharacterizedRun:
    """Simulate a survey and run the pipeline on it; what is there already is gone on with."""
    sim, run = folder / "sim", folder / "run"
    simulate(sim, settings, seed)
    characterize(sim, run, reference_file(sim))
    return CharacterizedRun(sim, run)


@dataclass
class CharacterizedRun:
    """A simulated survey and the run that worked on it."""

    sim: Path
    run: Path

    def truths(self) -> Iterator[_truth.CcdTruth]:
        """The truth of every CCD-visit of which there is a calexp."""
        for path in _truth.truth_files(self.sim):
            truth = _truth.read_truth(path)
            if self.calexp(truth).exists():
                yield truth

    def calexp(self, truth: _truth.CcdTruth) -> Path:
        """Where the calexp of a CCD-visit is."""
        return RunLayout.at(self.run).image("calexp", truth.visit, truth.ccd)

    def psf(self, truth: _truth.CcdTruth) -> Any:
        """The PSF of a CCD-visit; None if there is none, or it is a guess."""
        from mpipipe.store.psf import read_psf

        path = RunLayout.at(self.run).image("psf", truth.visit, truth.ccd)
        if not path.exists():
            return None
        found = read_psf(path)
        return None if found.is_guess else found

    @cached_property
    def catalogues(self) -> dict[str, np.ndarray]:
        """The published tables of the run, by name."""
        from mpipipe.store.hdf5 import read_catalogue

        paths = sorted((self.run / "catalogs").glob("*.h5"))
        return {path.stem.lower(): read_catalogue(path) for path in paths}

    @cached_property
    def outcomes(self) -> list[dict[str, Any]]:
        """How the tasks of the visits ended."""
        content = json.loads((self.run / "outcomes.json").read_text())
        return [task for task in content["tasks"] if task["phase"] == "calibrate"]

    def rows(self, name: str, truth: _truth.CcdTruth) -> np.ndarray:
        """Rows of a table (icsrc, icmatch, src) that belong to a CCD-visit."""
        table = self.catalogues[name]
        numbers = self._ccd_numbers
        mine = (table["visit"] == truth.visit) & (table["ccdNumber"] == numbers[truth.ccd])
        return np.asarray(table[mine])

    @cached_property
    def _ccd_numbers(self) -> dict[str, int]:
        camera = json.loads((self.run / "camera.json").read_text())
        return {detector["name"]: detector["number"] for detector in camera["detectors"]}

    def psf_stars(self, truth: _truth.CcdTruth) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the stars that the PSF was made of, zero-based pixels."""
        stars = self.rows("icsrc", truth)
        stars = stars[stars["calib_psf_used"]]
        return np.array(stars["x"]), np.array(stars["y"])

    def _header(self, truth: _truth.CcdTruth) -> Any:
        from astropy.io import fits

        return fits.getheader(self.calexp(truth))

    def has_wcs(self, truth: _truth.CcdTruth) -> bool:
        """Whether a WCS was found on stars, and not only the raw header's kept."""
        return str(self._header(truth).get("WCSKIND", "none")) not in ("none", "header")

    def wcs(self, truth: _truth.CcdTruth) -> Any:
        """The WCS of the calexp, as astropy reads it."""
        from astropy.io import fits
        from astropy.wcs import WCS

        return WCS(fits.getheader(self.calexp(truth), "IMAGE"))

    def has_zero_point(self, truth: _truth.CcdTruth) -> bool:
        """Whether fluxes of the bright sources are calibrated."""
        return bool(np.isfinite(self.rows("icsrc", truth)["psfFlux"]).any())

    def stage_seconds(self, truth: _truth.CcdTruth) -> dict[str, float]:
        """CPU seconds of each stage of the task of a CCD-visit, from the run's trace."""
        what = (truth.visit, truth.ccd)
        number = next(t["task"] for t in self.outcomes if (t["visit"], t["ccd"]) == what)
        events = self._events[(self._events["kind"] == b"stage") & (self._events["task"] == number)]
        names = (name.decode() for name in events["name"].tolist())
        return dict(zip(names, events["cpu"].tolist(), strict=True))

    @cached_property
    def _events(self) -> np.ndarray:
        return read_all(event_files(self.run / "trace"))
