"""Pictures of image characterization: each is drawn, and says so where there is nothing to draw."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mpipipe.cli.show import show
from mpipipe.data.ccd_polynomial import CcdPolynomial
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.exposure import Exposure
from mpipipe.data.guess_psf import GuessPsf
from mpipipe.data.icsrc import ICMATCH, ICSRC
from mpipipe.data.photo_calib import ColourTerm, PhotoCalib
from mpipipe.data.raw import FrameInfo
from mpipipe.data.schema import Schema
from mpipipe.data.tan_sip import TanSip
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.quality.panels import draw
from mpipipe.quality.panels.characterization import Characterization, read_characterization
from mpipipe.quality.panels.draw import PANELS, draw_panel
from mpipipe.store.hdf5 import Alone, publish_catalogue
from mpipipe.store.images import write_exposure
from mpipipe.store.layout import RunLayout

SHAPE = (300, 400)
N = 60
ZERO_POINT = 30.0


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    """A picture that makes numpy or matplotlib complain is not well drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def found() -> Characterization:
    """An exposure of sixty stars with all that ic finds."""
    rng = np.random.default_rng(5)
    psf = GuessPsf(3.2, 2.8, 0.2, 25, 12.0, SHAPE, n_stars=40)
    sources = ICSRC.empty(N)
    sources["id"] = np.arange(N)[::-1] + 100
    sources["visit"], sources["ccdNumber"] = 12, 94
    sources["x"], sources["y"] = rng.uniform(20, 380, N), rng.uniform(20, 280, N)
    flux = 10 ** rng.uniform(3.5, 5.5, N)
    sources["psfInstFlux"], sources["psfInstFluxErr"] = flux, np.sqrt(flux + 4e4)
    sources["psfFlux"] = flux * 10 ** (0.4 * (31.4 - ZERO_POINT))
    sources["calib_psf_used"][:40] = sources["calib_psf_reserved"][40:48] = True
    sources["flag_saturated"][50:53] = sources["flag_crowded"][52:56] = True
    matches = ICMATCH.empty(50)
    matches["id"] = sources["id"][:50]
    matches["dx"], matches["dy"] = rng.normal(0, 0.05, (2, 50))
    matches["dMag"] = rng.normal(0, 0.02, 50)
    matches["refMag"] = ZERO_POINT - 2.5 * np.log10(flux[:50])
    matches["refColor"] = rng.uniform(0, 2, 50)
    matches["visit"], matches["ccdNumber"] = 12, 94
    matches["astrometry_used"][:45] = matches["photometry_used"][:40] = True
    sources["calib_astrometry_used"][:45] = sources["calib_photometry_used"][:40] = True
    return Characterization(_exposure(rng, psf, sources), psf, sources, matches, "")


def _exposure(rng: np.random.Generator, psf: GuessPsf, sources: np.ndarray) -> Exposure:
    image = rng.normal(0, 20, SHAPE)
    for row, star in zip(sources, psf.images(sources["x"], sources["y"]), strict=True):
        y, x = round(row["y"]) - 12, round(row["x"]) - 12
        image[y : y + 25, x : x + 25] += row["psfInstFlux"] * star
    info = FrameInfo("cam", 12, 0, "R22_S11", 94, "science", "r", 30.0, 31.0, 60000.25)
    cd = np.array([[-5.5e-5, 0.0], [0.0, 5.5e-5]])
    solution = WcsSolution(
        sip=TanSip.make((10.0, -30.0), (200.0, 150.0), cd, None, SHAPE), kind="affine", order=1,
        n_matched=50, n_used=45, rms_x=0.05, rms_y=0.05, rms_ra=10.0, rms_dec=10.0,
        expected_rms=9.0, scatter=1.0, error=1.1, max_error=2.0, cv_rms=float("nan"),
        header_offset=12.5, log_chance=-80.0, is_relative=True, reference="gaia",
    )  # fmt: skip
    term = ColourTerm(0.03, "g", "i", 1.0, 0.01)
    surface = CcdPolynomial.constant(ZERO_POINT, 0.002, SHAPE)
    zero_point = PhotoCalib(surface, 0.003, "r", term, 40, 0.02)
    return Exposure(
        image.astype(np.float32), np.zeros(SHAPE, np.int32), np.full(SHAPE, 400, np.float32), info,
        wcs=solution.sip.to_astropy(), astrometry=solution, photo_calib=zero_point,
    )  # fmt: skip


def bare(found: Characterization, **changes: object) -> Characterization:
    """The same exposure with nothing found on it."""
    calexp = replace(found.calexp, wcs=None, astrometry=None, photo_calib=None)
    empty = {"sources": ICSRC.empty(0), "matches": ICMATCH.empty(0)}
    return replace(found, calexp=calexp, psf=None, **{**empty, "failures": "ic.x: no", **changes})


def pixels(path: Path) -> np.ndarray:
    """A PNG's pixels, (ny, nx, 4) from 0 to 1."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)


def texts(name: str, found: Characterization) -> str:
    """All that is written in a panel."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=PANELS[name].size)
    PANELS[name].draw(figure, found)
    written = [artist.get_text() for artist in figure.findobj(Text)]
    return " ".join(" ".join(written).split())


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_is_a_picture_with_something_in_it(
    name: str, found: Characterization, tmp_path: Path
) -> None:
    draw_panel(tmp_path / "new" / "it.png", name, found)
    picture = pixels(tmp_path / "new" / "it.png")
    assert min(picture.shape[:2]) > 800
    inked = picture[:, :, :3].min(axis=2) < 0.9
    assert 0.01 < inked.mean() < 0.9
    # All quarters are drawn on: no layout has collapsed.
    ny, nx = (side // 2 for side in inked.shape)
    assert all(
        q.any() for q in (inked[:ny, :nx], inked[:ny, nx:], inked[ny:, :nx], inked[ny:, nx:])
    )


def test_the_same_panel_has_the_same_bytes(found: Characterization, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_panel(tmp_path / name, "photometry", found)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_panels_tell_the_numbers(found: Characterization) -> None:
    for word in ("12.5 arcsec", "50 matched, 45 in the fit", "run's own frames", "0.198 arcsec"):
        assert word in texts("wcs", found)
    for word in ("30.0000 ± 0.0020 mag", "40 in the fit", "+0.0300 ± 0.0100", "g − i"):
        assert word in texts("photometry", found)
    for word in ("45 made the WCS", "40 made the zero point", "8 held out", "3 saturated"):
        assert word in texts("stars", found)
    for word in ("40 stars of the model", "8 stars held out of it", "kind guess"):
        assert word in texts("psf", found)


def test_a_psf_that_made_the_stars_leaves_noise(found: Characterization) -> None:
    # Photon noise of sixty stars of 3e3 to 3e5 electrons; a shift by a pixel leaves over 10 %.
    written = texts("psf", found)
    left = float(written.split("stars of the model rms within 1 FWHM ")[1].split(" %")[0])
    assert 0.0 < left < 2.0


@pytest.mark.parametrize("name", PANELS)
def test_nothing_found_is_said(name: str, found: Characterization, tmp_path: Path) -> None:
    nothing = bare(found)
    expected = {"stars": "no source was found", "psf": "no PSF", "wcs": "none at all",
                "photometry": "no zero point"}  # fmt: skip
    written = texts(name, nothing)
    assert expected[name] in written
    assert "ic.x: no" in written
    draw_panel(tmp_path / "it.png", name, nothing)
    assert (pixels(tmp_path / "it.png")[:, :, :3] < 0.9).any()


@pytest.mark.parametrize("name", PANELS)
def test_a_run_that_goes_on_has_no_catalogues_yet(name: str, found: Characterization) -> None:
    unfinished = replace(found, sources=None, matches=None, failures=None)
    assert "when the run ends" in texts(name, unfinished)
    texts(name, bare(found, sources=None, matches=None, failures=None))


@pytest.mark.parametrize("name", PANELS)
@pytest.mark.parametrize("n", [1, 4])
def test_few_stars_are_drawn(name: str, n: int, found: Characterization, tmp_path: Path) -> None:
    assert found.sources is not None and found.matches is not None
    calexp = replace(found.calexp, photo_calib=replace(found.calexp.photo_calib, colour_term=None))
    few = replace(found, calexp=calexp, sources=found.sources[:n], matches=found.matches[:n])
    draw_panel(tmp_path / "it.png", name, few)
    assert min(pixels(tmp_path / "it.png").shape[:2]) > 800


def test_values_that_are_unknown_are_left_out(found: Characterization, tmp_path: Path) -> None:
    assert found.sources is not None and found.matches is not None
    sources, matches = found.sources.copy(), found.matches.copy()
    sources["psfInstFlux"][:10] = sources["psfFlux"][:10] = np.nan
    matches["refMag"] = matches["refColor"] = matches["refMagErr"] = np.nan
    matches["dMag"][:20] = np.nan
    image = np.full(SHAPE, np.nan, np.float32)
    poor = replace(
        found, calexp=replace(found.calexp, image=image), sources=sources, matches=matches,
    )  # fmt: skip
    for name in PANELS:
        draw_panel(tmp_path / f"{name}.png", name, poor)


def test_a_guess_is_called_one(found: Characterization) -> None:
    guess = replace(found, psf=GuessPsf(3.0, 3.0, 0.0, 25, 12.0, SHAPE))
    assert "a guess: no star stands behind it" in texts("psf", guess)


def test_matches_belong_to_their_sources(found: Characterization) -> None:
    assert found.sources is not None and found.matches is not None
    shuffled = replace(found, matches=found.matches[np.random.default_rng(1).permutation(50)])
    stars, matches = shuffled.matched_sources()
    assert len(stars) == 50 and (stars["id"] == matches["id"]).all()
    stars, matches = replace(found, sources=found.sources[::2]).matched_sources()
    assert len(stars) == 25 and (stars["id"] == matches["id"]).all()


def run_folder(root: Path, found: Characterization) -> RunLayout:
    """A run folder with the calexp, and catalogues with another exposure before and after."""
    layout = RunLayout.at(root)
    write_exposure(layout.image("calexp", 12, "R22_S11"), found.calexp, provenance={})
    assert found.sources is not None and found.matches is not None
    layout.catalogue("icSrc").parent.mkdir(parents=True)
    for schema, rows in ((ICSRC, found.sources), (ICMATCH, found.matches)):
        publish(layout.catalogue(schema.name), schema, rows)
    task = {"phase": "calibrate", "visit": 12, "ccd": "R22_S11", "outcome": "partial"}
    (root / "outcomes.json").write_text(json.dumps({"tasks": [{**task, "reason": "ic.x: no"}]}))
    return layout


def publish(path: Path, schema: Schema, rows: np.ndarray) -> None:
    before, after = rows[:7].copy(), rows[:5].copy()
    before["visit"], after["ccdNumber"] = 11, 95
    publish_catalogue(Alone(), path, schema, {0: before, 1: rows, 2: after})


def test_products_are_read_as_far_as_they_are_there(
    found: Characterization, tmp_path: Path
) -> None:
    layout = run_folder(tmp_path, found)
    read = read_characterization(layout, 12, "R22_S11")
    assert read.sources is not None and read.matches is not None
    assert np.array_equal(read.sources["id"], found.sources["id"])  # type: ignore[index]
    assert len(read.matches) == 50
    assert read.psf is None and read.failures == "ic.x: no"
    layout.catalogue("icSrc").unlink()
    (tmp_path / "outcomes.json").unlink()
    read = read_characterization(layout, 12, "R22_S11")
    assert read.sources is None and read.failures is None
    (tmp_path / "outcomes.json").write_text('{"tasks": [{"phase')
    with pytest.raises(BadDataError, match=r"outcomes.json: is damaged"):
        read_characterization(layout, 12, "R22_S11")


@pytest.fixture(scope="module")
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(show)
    return app


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ("psf,photometri", "'photometry'"),
        ("Stars", "'stars'"),
        ("xyz", "known are"),
        (",", "known"),
    ],
)
def test_an_unknown_panel_names_the_nearest(
    names: str, hint: str, command: typer.Typer, tmp_path: Path
) -> None:
    result = CliRunner().invoke(command, [str(tmp_path), "calexp", "--with", names])
    assert isinstance(result.exception, ConfigError)
    assert "--with" in str(result.exception) and hint in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_help_names_every_panel(command: typer.Typer) -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert all(name in text for name in draw.PANELS)
    assert "--with stars,psf,wcs,photometry" in text
