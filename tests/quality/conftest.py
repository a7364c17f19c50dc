"""Runs made by hand: tables of a few stars whose numbers can be worked out on paper."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpipipe.data.association import BAD_SOURCE, SOURCE, object_schema
from mpipipe.data.icsrc import ICMATCH, ICSRC
from mpipipe.data.schema import SDQA, Column, Schema
from mpipipe.quality.scorecard import statistics
from mpipipe.quality.scorecard.repeats import OBJECT_COLUMNS, SOURCE_COLUMNS
from mpipipe.store.cameras import load_camera
from mpipipe.store.hdf5 import Alone, publish_catalogue
from mpipipe.store.layout import RunLayout

CCD, NUMBER = "R22_S11", 4
NX, NY = 64, 48
SCALE = 0.2
"""Arcsec a pixel."""
RA, DEC = 150.0, 2.0
SRC = Schema(
    "src",
    "what metrics read of it",
    tuple(
        Column(name, dtype, "", name)
        for dtype, names in (
            ("i8", "id visit"),
            ("i2", "ccdNumber"),
            ("f8", "x y ra dec"),
            (
                "f4",
                "snr psfFlux psfFluxErr psfInstFlux psfInstFluxErr psfIxx psfIyy psfIxy ixx iyy "
                "ixy extendedness",
            ),
            (
                "?",
                "flag_psfFlux flag_blended flag_saturated flag_bad flag_cr flag_edge flag_shape "
                "flag_streak flag_near_saturated",
            ),
        )
        for name in names.split()
    ),
)


_USED = {
    *OBJECT_COLUMNS, *SOURCE_COLUMNS, *(column.name for column in (*SRC.columns, *SDQA.columns)),
    *(column.name for column in ICMATCH.columns), "reason",
}  # fmt: skip
"""Columns that metrics read; the others would only cost time."""


@dataclass
class HandMade:
    """What a run is to hold.

    Attributes
    ----------
    visits
        Visit to band.
    mags
        (stars, visits) AB magnitudes; NaN where a star was not measured.
    offsets
        (stars, visits, 2) by which positions are off, east and north, mas.
    error
        Of every magnitude, mmag.
    outcomes
        Of visits that were not done.
    sdqa
        Visit, name and value of numbers of the stages.
    matches
        Rows of `icMatch`.
    """

    mags: np.ndarray
    offsets: np.ndarray | None = None
    places: np.ndarray | None = None
    visits: dict[int, str] = field(default_factory=lambda: {11: "r", 12: "r", 13: "r"})
    error: float = 1.0
    outcomes: dict[int, str] = field(default_factory=dict)
    sdqa: list[tuple[int, str, float]] = field(default_factory=list)
    matches: np.ndarray | None = None

    def write(self, root: Path) -> Path:
        """Make the run's folder."""
        root.mkdir(parents=True)
        camera = load_camera("sim-small")
        (root / "camera.json").write_text(camera.model_dump_json())
        tasks = [
            {"phase": "calibrate", "visit": visit, "ccd": CCD, "reason": "", "warnings": [],
             "outcome": self.outcomes.get(visit, "done"), "what": f"visit {visit} {CCD} {band}"}
            for visit, band in self.visits.items()
        ]  # fmt: skip
        (root / "outcomes.json").write_text(json.dumps({"tasks": tasks, "problems": []}))
        for number, (visit, band) in enumerate(self.visits.items()):
            if self.outcomes.get(visit, "done") in ("done", "partial"):
                _calexp(RunLayout.at(root).image("calexp", visit, CCD), visit, band, number)
        self._tables(root / "catalogs")
        return root

    def _tables(self, folder: Path) -> None:
        folder.mkdir()
        n_stars, n_visits = self.mags.shape
        places = self.places
        if places is None:
            rng = np.random.default_rng(1)
            places = rng.uniform([2, 2], [NX - 3, NY - 3], (n_stars, 2))
        offsets = np.zeros((n_stars, n_visits, 2)) if self.offsets is None else self.offsets
        star, at = np.nonzero(np.isfinite(self.mags))
        visits, bands = np.array(list(self.visits)), np.array(list(self.visits.values()), "S16")
        flux = 10 ** (-0.4 * (self.mags[star, at] - 31.4))
        cos = np.cos(np.radians(DEC))
        ra = RA + places[star, 0] * SCALE / 3600 / cos + offsets[star, at, 0] / 3.6e6 / cos
        dec = DEC + places[star, 1] * SCALE / 3600 + offsets[star, at, 1] / 3.6e6
        source = SOURCE.empty(len(star))
        source["id"] = visits[at] * 1000 + star
        source["objectId"], source["visit"], source["ccdNumber"] = star, visits[at], NUMBER
        source["band"], source["mjd"], source["fwhm"] = bands[at], 60000.0 + at, 0.8
        source["ra"], source["dec"] = ra, dec
        source["psfFlux"], source["psfFluxErr"] = flux, flux * self.error / 1085.7362
        for name in ("petroFlux", "psfFlux"):
            source[name] = flux
            source[f"{name}Err"] = flux * self.error / 1085.7362
        source["ixx"] = source["iyy"] = source["psfIxx"] = source["psfIyy"] = 1.0
        objects = object_schema(("r",)).empty(n_stars)
        objects["objectId"], objects["epoch"] = np.arange(n_stars), 60000.0
        objects["ra"] = RA + places[:, 0] * SCALE / 3600 / cos
        objects["dec"] = DEC + places[:, 1] * SCALE / 3600
        objects["nParameters"] = 2
        objects["nSources"] = np.isfinite(self.mags).sum(axis=1)
        src = SRC.empty(len(star))
        for name in ("id", "visit", "ccdNumber", "ra", "dec", "psfFlux", "psfFluxErr"):
            src[name] = source[name]
        src["x"], src["y"] = places[star].T
        src["snr"] = 1085.7362 / self.error
        src["psfInstFlux"], src["psfInstFluxErr"] = src["psfFlux"], src["psfFluxErr"]
        sdqa = SDQA.empty(len(self.sdqa))
        for row, (visit, name, value) in zip(sdqa, self.sdqa, strict=True):
            row["visit"], row["ccd"], row["metric"], row["value"] = visit, CCD, name, value
            row["snap"] = -1
        tables = {
            "source": (SOURCE, source), "object": (object_schema(("r",)), objects),
            "src": (SRC, src), "badSource": (BAD_SOURCE, BAD_SOURCE.empty()),
            "icSrc": (ICSRC, ICSRC.empty()),
            "icMatch": (ICMATCH, ICMATCH.empty() if self.matches is None else self.matches),
            "sdqa": (SDQA, sdqa),
        }  # fmt: skip
        for name, (schema, rows) in tables.items():
            used = tuple(column for column in schema.columns if column.name in _USED)
            schema = Schema(schema.name, schema.description, used)
            publish_catalogue(Alone(), folder / f"{name}.h5", schema, {0: rows})


def _calexp(path: Path, visit: int, band: str, number: int) -> None:
    from astropy.io import fits

    path.parent.mkdir(parents=True)
    image = fits.ImageHDU(
        np.random.default_rng(visit).normal(0, 1, (NY, NX)).astype("f4"), name="IMAGE"
    )
    primary = fits.PrimaryHDU()
    for key, value in {
        "VISIT": visit, "CCD": CCD, "FILTER": band, "MJD-OBS": 60000.0 + number, "EXPTIME": 30.0,
        "AIRMASS": 1.0, "MAGZERO": 30.0, "MAGZERR": 0.001, "MAGNSTAR": 50, "WCSKIND": "sip",
        "MAGREL": False, "WCSREL": False,
    }.items():  # fmt: skip
        primary.header[key] = value
    fits.HDUList([primary, image]).writeto(path)


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a run of these magnitudes (see `HandMade`); intervals are of few draws, for speed."""
    monkeypatch.setattr(statistics, "N_DRAWS", 40)

    def make(mags: Any, name: str = "run", **what: Any) -> Path:
        return HandMade(np.asarray(mags, float), **what).write(tmp_path / name)

    return make


@pytest.fixture
def numbers() -> Callable[[Path], Mapping[str, Any]]:
    """Scores a run; its numbers by name."""
    from mpipipe.quality.scorecard.run_data import RunData
    from mpipipe.quality.scorecard.scoring import score

    def scored(root: Path) -> Mapping[str, Any]:
        with RunData(RunLayout.at(root)) as data:
            return {one.name: one for one in score(data).measured}

    return scored
