"""A run without a reference catalogue makes its own, and goes on with it: against truth."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from mpipipe.sim.simulate import simulate_survey
from mpipipe.sim.survey import preset
from mpipipe.store.hdf5 import read_catalogue

from .conftest import Mpipipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PIXEL = 0.2
"""Arcsec."""
POINTING = 15.0
"""By which headers are off at most, arcsec."""
WCS_CARDS = ("WCSAXES", "CTYPE", "CUNIT", "CRVAL", "CRPIX", "CD1_", "CD2_")


@dataclass(frozen=True)
class Made:
    """A run that goes on with a catalogue of its own; what `from-run --json` said of it."""

    sim: Path
    root: Path
    refcat: Path
    said: dict[str, Any]

    def exposures(self) -> list[tuple[fits.Header, WCS, fits.Header]]:
        """Header, WCS and the header that holds the truth, of every visit in turn."""
        found, truth = [], self.sim / "truth" / "science"
        for path in sorted(self.root.glob("calexp/*/calexp-*.fits")):
            visit, ccd = path.stem.removeprefix("calexp-").split("-")
            with fits.open(path) as hdus:
                header, wcs = hdus[0].header, WCS(hdus["IMAGE"].header)
            found.append((header, wcs, fits.getheader(truth / f"{visit}_{ccd}.fits")))
        return found


def command(*args: object) -> str:
    """Output of a command that does all it should."""
    done = subprocess.run(
        [sys.executable, "-m", "mpipipe", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def forget_wcs(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        header = hdus[0].header
        for card in [card for card in header if card.startswith(WCS_CARDS)]:
            del header[card]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Six visits of one CCD through clouds; a third of them have no WCS in their headers."""
    base = tmp_path_factory.mktemp("from-run")
    sim, root, refcat = base / "sim", base / "run", base / "refcat"
    survey = preset(
        "tiny", seed=3, n_ccds=1, n_visits=6, bands=("r",), clouds=1.0, streaks=(),
        truth_images=False,
    )  # fmt: skip
    simulate_survey(survey, sim)
    for visit in (100003, 100006):
        for path in sim.glob(f"raw/imsim_{visit}_*.fits"):
            forget_wcs(path)
    command("run", "-q", sim / "raw", "-o", root)
    said = json.loads(command("refcat", "from-run", root, "-o", refcat, "--json"))
    command("run", "-q", "--resume", root, "--refcat", refcat)
    return Made(sim, root, refcat, said)


def test_products_say_that_they_are_relative(made: Made, mpipipe: Mpipipe) -> None:
    assert made.said["is_absolute"] is False and made.said["groups"] == 1
    assert [frame["group"] for frame in made.said["frames"]] == [0] * 6
    without = [frame["visit"] for frame in made.said["frames"] if frame["header_offset"] is None]
    assert without == [100003, 100006]
    headers = [header for header, _, _ in made.exposures()]
    assert len(headers) == 6
    for header in headers:
        assert header["WCSKIND"] in ("sip", "affine") and header["WCSREF"] == "refcat"
        assert header["WCSREL"] and header["MAGREL"]
    assert "relative" in mpipipe("refcat", "show", made.refcat).out
    assert len(read_catalogue(made.root / "catalogs" / "icMatch.h5")) > 300
    assert mpipipe("verify", made.root).code == 0


def test_places_agree_between_visits(made: Made) -> None:
    """Every visit gives a place on the sky the same position, to 0.02 pixels: the catalogue as a
    whole may be off, and is, by the headers' errors and the distortion that they do not know."""
    x, y = (axis.ravel() for axis in np.meshgrid([70.0, 256.0, 440.0], [70.0, 250.0, 430.0]))
    exposures = made.exposures()
    sky = np.array(WCS(exposures[0][2], naxis=2).all_pix2world(x, y, 0))
    off = []
    for _, wcs, true in exposures:
        found = wcs.all_pix2world(*WCS(true, naxis=2).all_world2pix(*sky, 0), 0)
        off.append((np.array(found) - sky) * 3600.0 / PIXEL)  # near the equator
    apart = np.array(off) - np.mean(off, axis=0)
    assert np.std(apart) < 0.02 and np.abs(apart).max() < 0.08
    assert np.abs(np.array(off)).max() < POINTING / PIXEL
    assert made.said["rms_pixels"] < 0.05


def test_zero_points_follow_the_clouds(made: Made) -> None:
    """They differ from the true ones by a constant."""
    exposures = made.exposures()
    true = np.array([header["ZEROPNT"] for _, _, header in exposures])
    assert np.ptp(true) > 0.5
    off = np.array([header["MAGZERO"] for header, _, _ in exposures]) - true
    assert np.abs(off - np.median(off)).max() < 0.03
    extinction = np.array([frame["extinction"] for frame in made.said["frames"]])
    assert np.abs(extinction - (true.max() - true)).max() < 0.03


def test_the_same_run_gives_the_same_catalogue(
    made: Made, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """Also after it has gone on: what the catalogue gave to the headers does not come back."""
    again = mpipipe("refcat", "from-run", made.root, "-o", tmp_path / "again")
    assert again.code == 0, again.err
    for path in made.refcat.rglob("*.fits"):
        other = tmp_path / "again" / path.relative_to(made.refcat)
        assert other.read_bytes() == path.read_bytes()


def test_what_can_not_be_is_told(made: Made, tmp_path: Path, mpipipe: Mpipipe) -> None:
    used = mpipipe("refcat", "from-run", made.root, "-o", made.refcat)
    assert used.code == 1 and str(made.refcat) in used.err
    none = mpipipe("refcat", "from-run", tmp_path, "-o", tmp_path / "refcat")
    assert none.code == 1 and "holds no run" in none.err and not (tmp_path / "refcat").exists()
