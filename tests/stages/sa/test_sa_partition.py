"""Association is exact at any partition: cells, then their seams, give the tables of one run."""

from __future__ import annotations

from dataclasses import dataclass

import cdshealpix
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Latitude, Longitude
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.association import FLUX_KINDS, SOURCE
from mpipipe.stages.sa.associate import Association, associate
from mpipipe.stages.sa.source_clustering import SourceClusteringConfig, halo_radius

FWHM, YEARS = 0.83, 4.0
BANDS = ("g", "r")
TABLES = ("source", "object", "bad_source", "source_hist", "bad_source_hist")
CENTRES = ((0.0, 0.0), (359.9999, -60.0), (45.0, 41.81), (123.4, 89.9999), (10.0, -90.0))


def healpix(ra: np.ndarray, dec: np.ndarray, order: int) -> np.ndarray:
    return np.asarray(
        cdshealpix.lonlat_to_healpix(
            Longitude(ra, u.deg), Latitude(dec, u.deg), depth=np.uint8(order)
        ),
        np.int64,
    )


@dataclass
class Cells:
    """Pixels of an order, each of them cut into its children where its number is odd, shuffled onto
    fewer numbers: cells of many shapes, also such that do not hang together."""

    order: int
    n: int

    def of(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        coarse, fine = healpix(ra, dec, self.order), healpix(ra, dec, self.order + 1)
        mixed = np.where(coarse % 2 == 1, fine + 7, coarse)
        return mixed * 2654435761 % 2**31 % self.n


@dataclass
class Part:
    cells: Cells
    number: int

    def contains(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        return self.cells.of(ra, dec) == self.number


def sky(seed: int, centre: tuple[float, float], width: float, n_stars: int) -> np.ndarray:
    """Stars about a point, some in clumps, some fast, with some bad and some repeated sources."""
    rng = np.random.default_rng(seed)
    n_epochs = int(rng.integers(1, 9))
    where = rng.normal(0.0, width, (n_stars, 2))
    where[: n_stars // 2] = where[0] + rng.normal(0.0, 0.6, (n_stars // 2, 2))
    motion = rng.normal(0.0, 1.0, (n_stars, 2)) * (rng.random(n_stars) < 0.2)[:, None]
    epoch, star = np.nonzero(rng.random((n_epochs, n_stars)) < 0.9)
    n = len(epoch)
    xy = where[star] + motion[star] * epoch[:, None] * 0.5 + rng.normal(0.0, 0.05, (n, 2))
    rows = SOURCE.empty(n)
    rows["ra"], rows["dec"] = around(centre, xy / 3600.0)
    rows["visit"], rows["mjd"] = epoch + 5, 60000.0 + 182.6 * epoch
    rows["id"] = (rows["visit"] << 27) + 3 * np.arange(n)
    rows["objectId"] = -1
    rows["band"] = np.array(BANDS, "S1")[epoch % 2]
    rows["raErr"], rows["decErr"] = rng.uniform(20, 80, (2, n))
    for kind in FLUX_KINDS:
        rows[f"{kind}Flux"] = rng.normal(1e4, 300, n)
        rows[f"{kind}FluxErr"] = np.where(rng.random(n) < 0.1, np.nan, 300.0)
    for name in ("snr", "extendedness", "ixx", "iyy", "psfIxx", "petroRadius"):
        rows[name] = rng.uniform(0.0, 1.0, n)
    rows["snr"] = 4.5 + 20.0 * rng.random(n)
    for flag in ("flag_edge", "flag_saturated", "flag_centroid", "flag_blended"):
        rows[flag] = rng.random(n) < 0.05
    rows["ra"][rng.random(n) < 0.02] = np.nan
    # Some visits show refraction, by a colour that objects have, or by one that none has.
    shown = rng.random(n_epochs)[epoch] < 0.5
    for name in ("raRefractionSlope", "decRefractionSlope", "refractionSlopeErr"):
        rows[name] = np.where(shown, rng.uniform(1.0, 100.0, n), 0.0)
    rows["refractionColor"] = np.where(shown, np.array([b"g-r", b"g-i"])[epoch % 2], b"")
    return rows


def around(centre: tuple[float, float], degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions at offsets (degrees; east, north) on the plane that touches the sky at a centre."""
    ra, dec = np.radians(centre)
    x, y = np.radians(degrees).T
    out = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    east = np.array([-np.sin(ra), np.cos(ra), 0.0])
    north = np.cross(out, east)
    place = out + x[:, None] * east + y[:, None] * north
    return (
        np.degrees(np.arctan2(place[:, 1], place[:, 0])) % 360.0,
        np.degrees(np.arctan2(place[:, 2], np.hypot(place[:, 0], place[:, 1]))),
    )


def in_parts(rows: np.ndarray, cells: Cells) -> tuple[list[Association], Association]:
    """What cells give, and what their seams with the rows without position give."""
    placed = np.isfinite(rows["ra"])
    known = rows[placed]
    number = cells.of(known["ra"], known["dec"])
    place = np.stack(
        [
            np.cos(np.radians(known["dec"])) * np.cos(np.radians(known["ra"])),
            np.cos(np.radians(known["dec"])) * np.sin(np.radians(known["ra"])),
            np.sin(np.radians(known["dec"])),
        ],
        axis=1,
    )
    reach = np.radians(1.0001 * halo_radius(SourceClusteringConfig(), FWHM, YEARS))
    near = np.linalg.norm(place[:, None] - place[None], axis=2) <= reach
    done = []
    for cell in np.unique(number):
        own = number == cell
        here = own | near[own].any(axis=0)
        done.append(associate(known[here], own[here], Part(cells, cell), BANDS, FWHM, YEARS))
    rest = np.concatenate([part.seam for part in done] + [rows[~placed]])
    rest = rest[np.argsort(rest["id"])]
    return done, associate(rest, np.ones(len(rest), bool), None, BANDS, FWHM, YEARS)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    centre=st.sampled_from(CENTRES),
    width=st.sampled_from([0.5, 3.0, 30.0]),
    n_stars=st.integers(1, 40),
    order=st.integers(0, 20),
    n_cells=st.integers(1, 5),
)
def test_any_partition_gives_the_tables_of_one_run(
    seed: int, centre: tuple[float, float], width: float, n_stars: int, order: int, n_cells: int
) -> None:
    rows = sky(seed, centre, width, n_stars)
    whole = associate(rows, np.ones(len(rows), bool), None, BANDS, FWHM, YEARS)
    done, seams = in_parts(rows, Cells(order, n_cells))
    assert not len(whole.seam) and not len(seams.seam)
    for name in TABLES:
        expected = getattr(whole, name)
        found = np.concatenate([getattr(part, name) for part in [*done, seams]])
        key = found.dtype.names[0]
        found = found[np.argsort(found[key])]
        assert found.tobytes() == expected.tobytes(), name


def test_cells_finish_what_does_not_reach_their_border() -> None:
    """The test above would pass as well if all rows went to the seams."""
    rows = sky(1, CENTRES[0], 60.0, 200)
    done, seams = in_parts(rows, Cells(13, 5))
    n_seams = len(seams.object)
    assert sum(len(part.object) for part in done) > 2 * n_seams > 0


@pytest.mark.parametrize("centre", CENTRES)
def test_every_source_goes_somewhere_once(centre: tuple[float, float]) -> None:
    rows = sky(3, centre, 3.0, 100)
    done = associate(rows, np.ones(len(rows), bool), None, BANDS, FWHM, YEARS)
    ids = np.sort(np.concatenate([done.source["id"], done.bad_source["id"]]))
    assert (ids == rows["id"]).all()
    assert (np.unique(done.source["objectId"]) == done.object["objectId"]).all()
    assert done.object["nSources"].sum() == len(done.source)
    pairs = np.stack([done.source["objectId"], done.source["visit"]], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)  # one source a visit
