"""Image characterization in whole runs: what is found is in the products, what is not is absent."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from mpipipe.store.hdf5 import read_catalogue
from mpipipe.store.psf import read_aperture_correction, read_psf

from .conftest import Mpipipe, Result


@pytest.fixture(scope="module")
def calibs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masters, made once for all runs."""
    folder = tmp_path_factory.mktemp("masters") / "calibs"
    command = [sys.executable, "-m", "mpipipe", "calibs", "-q", str(tiny), "-o", str(folder)]
    subprocess.run(command, check=True, timeout=170, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def refcat(tiny: Path) -> Path:
    """The reference stars of the field."""
    return ingest(tiny.parent / "refcat", tiny.parent / "stars")


def ingest(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "mpipipe", "refcat", "ingest", "-q", source, "-o", folder]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def whole(
    tiny: Path, calibs: Path, refcat: Path, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    """A run with a reference catalogue."""
    root = tmp_path_factory.mktemp("whole") / "run"
    given = [str(tiny), "--calibs", str(calibs), "--refcat", str(refcat), "-o", str(root)]
    command = [sys.executable, "-m", "mpipipe", "run", "-q", *given]
    done = subprocess.run(command, timeout=170, capture_output=True, text=True, check=False)
    return Result(done.returncode, done.stdout, done.stderr, root)


def calexps(root: Path) -> list[Path]:
    return sorted(root.glob("calexp/*/calexp-*.fits"))


def test_every_product_says_what_was_found(whole: Result, tiny: Path) -> None:
    assert whole.code == 0, whole.err
    for path in calexps(whole.root):
        visit, ccd = path.stem.removeprefix("calexp-").split("-")
        with fits.open(path) as hdus, fits.open(truth_of(tiny, visit, ccd)) as truth:
            header = hdus[0].header
            assert header["WCSKIND"] in ("sip", "affine")
            assert abs(header["MAGZERO"] - truth[0].header["ZEROPNT"]) < 0.1
            found, true = (
                np.array(WCS(h).all_pix2world([100, 400, 250], [100, 200, 450], 0))
                for h in (hdus["IMAGE"].header, truth[0].header)
            )
            assert np.abs(found - true).max() * 3600 < 0.1
        psf = read_psf(whole.root / f"psf/{visit}/psf-{visit}-{ccd}.fits")
        assert not psf.is_guess and psf.fwhm > 2
        correction = read_aperture_correction(whole.root / f"psf/{visit}/psf-{visit}-{ccd}.fits")
        assert abs(correction.at(250.0, 250.0)[0] - 1) < 0.05


def truth_of(raw: Path, visit: str, ccd: str) -> Path:
    return raw.parent / "truth" / "science" / f"{visit}_{ccd}.fits"


def test_catalogues_lead_to_each_other(whole: Result) -> None:
    sources = read_catalogue(whole.root / "catalogs/icSrc.h5")
    matches = read_catalogue(whole.root / "catalogs/icMatch.h5")
    assert len(matches) > 20
    assert np.isin(matches["id"], sources["id"]).all()
    used = sources["id"][sources["calib_photometry_used"]]
    assert set(used) == set(matches["id"][matches["photometry_used"]])
    calibrated = sources[np.isin(sources["id"], used)]
    assert np.isfinite(calibrated["psfFlux"]).all() and (calibrated["psfFluxErr"] > 0).all()
    assert np.isfinite(sources["ra"]).all()


def test_a_catalogue_of_another_field_gives_partial_tasks_that_name_the_stage(
    tiny: Path, calibs: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """Nothing half-made: the raw header's WCS stays, there is no zero point, sources are there."""
    with fits.open(tiny.parent / "refcat" / "reference.fits") as hdus:
        stars = hdus[1].data
        rng = np.random.default_rng(1)
        ra, dec = (rng.uniform(stars[name].min(), stars[name].max(), 400) for name in ("ra", "dec"))
    with open(tmp_path / "other.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("id", "ra", "dec", "mag_g", "mag_r"))
        table.writerows((k, *row, 18.0, 17.5) for k, row in enumerate(zip(ra, dec, strict=True)))
    other = ingest(tmp_path / "other.csv", tmp_path / "other")
    root = tmp_path / "run"
    done = mpipipe("run", "-q", tiny, "-o", root, "--calibs", calibs, "--refcat", other, root=root)
    assert done.code == 3
    tasks = [task for task in done.json("outcomes.json")["tasks"] if task["phase"] == "calibrate"]
    assert {task["outcome"] for task in tasks} == {"partial"}
    assert {task["stage"] for task in tasks} == {"ic.wcsDetermination"}
    assert all("ic.wcsDetermination: " in task["reason"] for task in tasks)
    for path in calexps(root):
        with fits.open(path) as hdus:
            assert hdus[0].header["WCSKIND"] == "header"
            assert "MAGZERO" not in hdus[0].header
            assert "INITIAL_WCS" not in hdus
    sources = read_catalogue(root / "catalogs/icSrc.h5")
    assert not sources["calib_astrometry_used"].any()
    assert np.isnan(sources["psfFlux"]).all() and (sources["psfInstFlux"] > 0).any()
    assert not len(read_catalogue(root / "catalogs/icMatch.h5"))
    assert len(read_catalogue(root / "catalogs/src.h5"))
    assert mpipipe("verify", root).code == 0


def test_a_changed_option_of_ic_redoes_ic_and_sfm_on_the_stored_calexp(
    whole: Result, tiny: Path, calibs: Path, refcat: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """The result has the bits of a run that had the option from its beginning."""
    given = ("--calibs", calibs, "--refcat", refcat)
    change = ("--set", "ic.psfDetermination.kind=shapelet")
    fresh = mpipipe("run", "-q", tiny, "-o", tmp_path / "a", *given, *change, root=tmp_path / "a")
    assert fresh.code == 0, fresh.err
    root = tmp_path / "b"
    assert mpipipe("run", "-q", tiny, "-o", root, *given).code == 0
    backgrounds = {path: path.stat().st_mtime_ns for path in root.glob("bkgd/*/*.fits")}
    again = mpipipe("run", "-q", "--resume", root, *change, root=root)
    assert again.code == 0, again.err
    assert again.digest == fresh.digest != whole.digest
    assert backgrounds == {path: path.stat().st_mtime_ns for path in root.glob("bkgd/*/*.fits")}
    assert read_psf(next(root.glob("psf/*/*.fits"))).kind == "shapelet"


def test_without_a_catalogue_all_is_well_and_nothing_is_calibrated(
    tiny: Path, calibs: Path, tmp_path: Path, mpipipe: Mpipipe
) -> None:
    """A stage that is switched off leaves what its failure would leave, and no complaint."""
    root = tmp_path / "run"
    off = ("--set", "ic.psfDetermination.enabled=false")
    done = mpipipe("run", "-q", tiny, "-o", root, "--calibs", calibs, *off, root=root)
    assert done.code == 0, done.err
    for path in calexps(root):
        assert fits.getheader(path)["WCSKIND"] == "header"
    assert all(read_psf(path).is_guess for path in root.glob("psf/*/*.fits"))
