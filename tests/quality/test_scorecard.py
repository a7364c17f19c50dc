"""The scorecard: numbers worked out by hand, verdicts, and runs that are not as they should be."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mpipipe.cli.exits import Exit
from mpipipe.cli.main import app
from mpipipe.data.association import SOURCE
from mpipipe.data.errors import ConfigError
from mpipipe.data.icsrc import ICMATCH
from mpipipe.data.schema import SDQA, Schema
from mpipipe.quality.metrics import relative_astrometry
from mpipipe.quality.scorecard import repeats, statistics
from mpipipe.quality.scorecard.measured import (
    CONTRIBUTION,
    Measured,
    Requirement,
    at_least,
    srd,
    target,
)
from mpipipe.quality.scorecard.metric import metrics
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.scoring import score
from mpipipe.quality.scorecard.statistics import (
    Estimate,
    beyond,
    estimate,
    estimate_ratio,
    median,
    percentiles,
    rms,
    width,
)
from mpipipe.quality.scorecard.truth import CcdTruth
from mpipipe.store.checksums import sha256_file
from mpipipe.store.hdf5 import Alone, publish_catalogue, read_catalogue, read_schema
from mpipipe.store.layout import RunLayout

Make = Callable[..., Path]
Numbers = Callable[[Path], Mapping[str, Any]]
MMAG = 1e-3
CLI = CliRunner()


# -- values by hand --------------------------------------------------------------------------------


def test_pa1_and_pf1_by_hand(make_run: Make, numbers: Numbers) -> None:
    """Five stars in two visits, off by +d/2 and -d/2: each residual is d / sqrt(2)."""
    d = np.array([2.0, 4.0, 6.0, 8.0, 40.0])
    mags = 17.0 + MMAG * np.stack([d / 2, -d / 2], axis=1)
    found = numbers(make_run(mags, visits={1: "r", 2: "r"}))
    # n / (n - 1) = 2: the residual is (d / 2) * sqrt(2); quartiles of the ten, over 1.349.
    residuals = np.concatenate([d, -d]) / np.sqrt(2)
    low, high = np.percentile(residuals, (25, 75))
    assert found["PA1.r"].value == pytest.approx((high - low) / 1.3489795, rel=1e-3)
    assert found["PA1.r"].n == 5
    # 40 / sqrt(2) = 28 mmag is the only one beyond 15 and beyond 10.
    assert found["PF1.r"].value == pytest.approx(20.0)
    levels = {name: one.value for name, one in found["PF1.r"].levels.items()}
    assert levels == pytest.approx({"stretch": 20, "design": 20, "minimum": 20})
    assert found["PF1.r"].verdict == "minimum"


def test_three_visits_give_the_sigma_that_went_in(make_run: Make, numbers: Numbers) -> None:
    """At n = 3, too, the width is the error of one measurement, not of one about its own mean."""
    sigma = 4.0
    mags = 17.0 + MMAG * np.random.default_rng(5).normal(0, sigma, (1500, 3))
    found = numbers(make_run(mags))["PA1.r"]
    assert found.value == pytest.approx(sigma, rel=0.05)
    assert found.low < sigma < found.high
    assert (found.high - found.low) / 3.92 == pytest.approx(sigma * 0.78 / np.sqrt(3000), rel=0.6)


def test_am1_by_hand(make_run: Make, numbers: Numbers) -> None:
    """Stars that jump along their pairs change distances by that; across they change none."""
    # 1,500 pixels of 0.2 arcsec are 5 arcmin: stars in two columns of 6, so 36 pairs.
    y = np.arange(6.0) * 5
    places = np.concatenate([np.stack([0 * y, y], 1), np.stack([0 * y + 1500, y], 1)])
    mags = np.full((12, 2), 17.0)
    visits = {1: "r", 2: "r"}
    offsets = np.zeros((12, 2, 2))
    offsets[:6, 0, 0] = 8.0
    along = numbers(make_run(mags, "along", visits=visits, places=places, offsets=offsets))
    # About the mean +-4, times sqrt(2): quartiles at +-5.66 are 8.39 sigma apart in the end.
    assert along["AM1.r"].value == pytest.approx(2 * 4 * np.sqrt(2) / 1.3489795, rel=1e-3)
    assert along["AM1.r"].n == 36
    assert along["AF1.r"].value == 0.0
    assert along["AM2.r"].verdict == "not measurable"
    assert "20 arcmin apart" in along["AM2.r"].why
    offsets = offsets[..., ::-1]
    across = numbers(make_run(mags, "across", visits=visits, places=places, offsets=offsets))
    assert across["AM1.r"].value == pytest.approx(0.0, abs=0.2)


def test_zero_points_that_jump_are_seen(make_run: Make, numbers: Numbers) -> None:
    """A visit whose magnitudes are 30 mmag off: its CCD stands behind the number, first."""
    mags = np.full((20, 3), 17.0)
    mags[:, 2] += 30 * MMAG
    one = numbers(make_run(mags))["zero_point.repeatability.r"]
    # About the means -10, -10, +20, times sqrt(3/2).
    expected = np.sqrt(1.5) * np.sqrt((100 + 100 + 400) / 3)
    assert one.value == pytest.approx(expected, rel=1e-3)
    assert one.worst_ccds()["visit"][0] == 13


def test_completeness_by_hand(make_run: Make, numbers: Numbers) -> None:
    """Of 20 stars seen in visits 11 and 12, 13 has measured 15."""
    mags = np.full((20, 3), 25.0)
    mags[15:, 2] = np.nan
    sdqa = [(v, "ic.wcsDetermination.pixel_scale", 20.0) for v in (11, 12, 13)]
    # SNR 10; the sources are faint enough to tell the noise from.
    found = numbers(make_run(mags, error=108.57362, sdqa=sdqa))
    one = found["completeness.8-12"]
    # The five that only two visits have seen do not count for these two: others are needed.
    assert one.n == 15 * 3 + 5
    assert one.value == pytest.approx(100 * 45 / 50)
    of_visit = dict(zip(one.ccds["visit"].tolist(), one.ccds["value"].tolist(), strict=True))
    assert of_visit == pytest.approx({11: 100.0, 12: 100.0, 13: 75.0})


def test_depth_by_hand(make_run: Make, numbers: Numbers) -> None:
    """At SNR 10, five sigma is a factor of 2 fainter."""
    found = numbers(make_run(np.full((20, 3), 25.0), error=108.57362))
    assert found["depth.r"].value == pytest.approx(25.0 + 2.5 * np.log10(2.0), abs=1e-3)


def matches(**columns: Any) -> np.ndarray:
    """Rows of icMatch of CCD R22_S11."""
    rows = ICMATCH.empty(len(columns["refId"]))
    rows["ccdNumber"], rows["photometry_used"], rows["astrometry_used"] = 4, True, True
    for name, values in columns.items():
        rows[name] = values
    return rows


def test_aa1_by_hand(make_run: Make, numbers: Numbers) -> None:
    """Offsets of a star in two visits are averaged before their size counts: x 10 and -10 mas is 0,
    y 28 and 48 is 38; of three such stars and both axes the median is the mean of 0 and 38."""
    rows = matches(
        refId=np.repeat([1, 2, 3], 2), visit=np.tile([11, 12], 3),
        dx=np.tile([0.05, -0.05], 3), dy=np.tile([0.14, 0.24], 3),
    )  # fmt: skip
    sdqa = [(v, "ic.wcsDetermination.pixel_scale", 0.2) for v in (11, 12, 13)]
    found = numbers(make_run(np.full((6, 3), 17.0), matches=rows, sdqa=sdqa))["AA1"]
    assert found.value == pytest.approx(19.0, rel=1e-4)
    assert found.verdict == "stretch"
    assert found.n == 3


def test_pa3_by_hand(make_run: Make, numbers: Numbers) -> None:
    """Three squares of the sky, 0.05 degrees each, off by -10, 0 and +10 mmag: an rms of 10."""
    square = np.repeat([0, 1, 2], 6)
    rows = matches(
        refId=np.arange(18), visit=np.full(18, 11), refRa=np.full(18, 150.0),
        refDec=2.025 + 0.05 * square, dMag=0.01 * (square - 1.0),
    )  # fmt: skip
    found = numbers(make_run(np.full((6, 3), 17.0), matches=rows))["PA3.r"]
    assert found.value == pytest.approx(10.0, rel=1e-4)
    assert (found.n, found.verdict) == (3, "design")


def test_te_by_hand(make_run: Make, numbers: Numbers) -> None:
    """All stars of a visit off by e1 = 0.01: the correlation is 1e-4 at any distance."""
    root = make_run(np.full((8, 2), 17.0), visits={1: "r", 2: "r"})
    path = root / "catalogs" / "source.h5"
    rows = read_catalogue(path)
    rows["ixx"], rows["iyy"] = 1.01, 0.99
    publish_catalogue(Alone(), path, read_schema(path), {0: rows})
    found = numbers(root)
    for name in ("TE1.r", "TE3.r"):
        assert found[name].value == pytest.approx(1e-4, rel=1e-4)
        assert (found[name].n, found[name].verdict) == (2 * 8 * 7 // 2, "missed")
    assert "no visit has two bright stars" in found["TE4.r"].why


def test_te3_is_of_the_worst_component_and_the_median_visit(
    make_run: Make, numbers: Numbers
) -> None:
    """Off by e1 = +-0.004 in two visits of three, by e2 = 0.1 in the third: E1 is 1.6e-5, 1.6e-5,
    0, so its median is 1.6e-5; E2 has the median 0, and TE1 is the mean of all."""
    root = make_run(np.full((8, 3), 17.0))
    path = root / "catalogs" / "source.h5"
    rows = read_catalogue(path)
    for visit, e1, e2 in ((11, 0.004, 0.0), (12, -0.004, 0.0), (13, 0.0, 0.1)):
        mine = rows["visit"] == visit
        rows["ixx"][mine], rows["iyy"][mine], rows["ixy"][mine] = 1 + e1, 1 - e1, e2
    publish_catalogue(Alone(), path, read_schema(path), {0: rows})
    found = numbers(root)
    assert found["TE3.r"].value == pytest.approx(1.6e-5, rel=1e-3)
    assert found["TE3.r"].verdict == "stretch"
    assert not found["TE3.r"].is_certain
    assert "33 % of them beyond" in found["TE3.r"].note
    assert found["TE1.r"].value == pytest.approx((2 * 1.6e-5 + 1e-2) / 3, rel=1e-3)


def test_sources_of_two_objects_are_left_out(make_run: Make, numbers: Numbers) -> None:
    """A tenth of the sources hold the light of two objects; tables of older runs do not tell."""
    mags = np.full((30, 3), 17.0)
    mags[:3, 2] -= 0.7
    root = make_run(mags)
    path = root / "catalogs" / "source.h5"
    rows, schema = read_catalogue(path), read_schema(path)
    rows["flag_merged"] = (rows["objectId"] < 3) & (rows["visit"] == 13)
    publish_catalogue(Alone(), path, schema, {0: rows})
    found = numbers(root)
    assert found["PF1.r"].value == 0.0
    older = Schema(
        schema.name, schema.description,
        tuple(column for column in schema.columns if column.name != "flag_merged"),
    )  # fmt: skip
    rows = rows[[column.name for column in older.columns]]
    publish_catalogue(Alone(), path, older, {0: rows})
    assert numbers(root)["PF1.r"].value == pytest.approx(10.0)


def test_a_rotation_of_the_sky_changes_no_distance() -> None:
    """200 arcmin apart and 3 degrees from the pole, north of two stars is not the same direction:
    yet what turns as a whole keeps its distances."""
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(0, 360, 300), rng.uniform(86, 88, 300)
    i, j, directions = relative_astrometry.pairs_of_stars(ra, dec, 199.0, 201.0)
    a, d = np.radians(ra), np.radians(dec)
    vectors = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    moved = np.cross(np.array([3.0, 4.0, 5.0]), vectors)
    east = np.stack([-np.sin(a), np.cos(a), 0 * a], axis=1)
    north = np.cross(vectors, east)
    offsets = np.stack([(moved * east).sum(axis=1), (moved * north).sum(axis=1)], axis=1)
    change = (offsets[j] * directions[:, 1] - offsets[i] * directions[:, 0]).sum(axis=1)
    assert len(i) > 150
    assert np.abs(change).max() < 1e-12
    assert np.abs(((offsets[j] - offsets[i]) * directions[:, 0]).sum(axis=1)).max() > 0.1


def test_the_share_of_bad_sources_has_an_interval_of_its_own(
    make_run: Make, numbers: Numbers
) -> None:
    """A poor exposure with many bad sources among few is a small part of the sources: the interval
    is about the share of all."""
    mags = np.full((40, 3), 17.0)
    mags[1:, 2] = np.nan
    root = make_run(mags)
    path = root / "catalogs" / "badSource.h5"
    schema = read_schema(path)
    rows = schema.empty(4)
    rows["visit"], rows["ccdNumber"], rows["reason"] = 13, 4, b"edge"
    publish_catalogue(Alone(), path, schema, {0: rows})
    one = numbers(root)["objects.bad_sources"]
    assert one.value == pytest.approx(100 * 4 / 85)
    assert one.low <= one.value <= one.high
    assert one.low == 0.0


def test_read_noise_of_a_channel_that_is_off(make_run: Make, numbers: Numbers) -> None:
    """Channels have the camera's read noise, or, where it tells none, that of the bias frames."""
    sdqa = [(-1, "calibs.read_noise", 8.0), *((v, "isr.read_noise", 10.0) for v in (11, 12, 13))]
    found = numbers(make_run(np.full((6, 3), 17.0), sdqa=sdqa))
    assert found["isr.read_noise"].value == pytest.approx(1.25)
    assert found["isr.read_noise"].verdict == "missed"
    assert "1 channels more than 20 % off" in found["isr.read_noise"].note
    assert found["isr.read_noise.stability"].value == 0.0


def test_inconsistent_objects_are_counted(make_run: Make, numbers: Numbers) -> None:
    mags = np.full((6, 3), 17.0)
    found = numbers(make_run(mags))
    for name in ("twice", "orphans", "counts", "ids"):
        assert found[f"objects.{name}"].verdict == "met"
    root = make_run(mags, "broken")
    rows = read_catalogue(root / "catalogs" / "source.h5")
    rows["visit"][0] = rows["visit"][1]
    rows["objectId"][:2] = 0
    rows["objectId"][-1] = 99
    rows["id"][3] = rows["id"][4]
    schema = read_schema(root / "catalogs" / "source.h5")
    publish_catalogue(Alone(), root / "catalogs" / "source.h5", schema, {0: rows})
    found = numbers(root)
    for name in ("twice", "orphans", "counts", "ids"):
        assert found[f"objects.{name}"].verdict == "missed", name


def test_against_truth_by_hand(make_run: Make) -> None:
    """Everything measured 4 mmag too faint and 3 mas east; one star in ten was missed; the PSF's T
    is 1 % too large; one source in ten is of nothing."""
    n = 50
    places = np.stack([7 + 5.0 * (np.arange(n) % 10), 8 + 7.0 * (np.arange(n) // 10)], axis=1)
    mags = np.full((n, 2), 17.004)
    offsets = np.zeros((n, 2, 2))
    offsets[..., 0] = 3.0
    sdqa = [
        (v, name, value)
        for v in (1, 2)
        for name, value in (
            ("ic.wcsDetermination.pixel_scale", 0.2),
            ("ic.psfDetermination.fwhm", 2.0),
        )
    ]
    root = make_run(
        mags, places=places, offsets=offsets, visits={1: "r", 2: "r"}, sdqa=sdqa
    )  # fmt: skip
    path = root / "catalogs" / "src.h5"
    rows = read_catalogue(path)
    rows["psfIxx"] = rows["psfIyy"] = 1.01
    publish_catalogue(Alone(), path, read_schema(path), {0: rows})
    names = [
        "id",
        "kind",
        "x",
        "y",
        "ra",
        "dec",
        "mag",
        "flux",
        "snr",
        "psf_ixx",
        "psf_iyy",
        "psf_ixy",
    ]
    sources = np.zeros(n, [(name, "f8") for name in names])
    # Stars 0 to 4 are not true; five true ones, at the gaps between others, are not found.
    sources["x"], sources["y"] = places.T
    sources["x"][:5] += 2.5
    sources["ra"] = 150.0 + sources["x"] * 0.2 / 3600 / np.cos(np.radians(2.0))
    sources["dec"] = 2.0 + sources["y"] * 0.2 / 3600
    sources["mag"], sources["flux"], sources["snr"] = 17.0, 1.0, 1000.0
    sources["snr"][::10] = sources["snr"][1::10] = 30.0
    sources["psf_ixx"] = sources["psf_iyy"] = 1.0
    with RunData(RunLayout.at(root), lambda visit, ccd: CcdTruth(sources, 30.0)) as data:
        found = {one.name: one for one in score(data).measured}
    assert found["truth.zero_point"].value == pytest.approx(4.0, abs=0.01)
    assert found["truth.positions"].value == pytest.approx(1.5, abs=1.5)
    assert found["truth.wcs_shift"].value == pytest.approx(3.0 / np.sqrt(2), rel=0.01)
    assert found["truth.psf_size"].value == pytest.approx(1.0, rel=1e-3)
    assert found["truth.psf_size"].verdict == "missed"
    assert found["truth.purity"].value == pytest.approx(90.0)
    # Of ten of SNR 30, those numbered 0 and 1 are among the five.
    assert found["truth.completeness.20-50"].value == pytest.approx(80.0)
    # Where refraction by colour is all that it is off by, it is not off.
    path = root / "catalogs" / "source.h5"
    known = read_catalogue(path)
    rows = SOURCE.empty(len(known))
    for name in known.dtype.names:
        rows[name] = known[name]
    rows["raRefraction"] = 3.0
    publish_catalogue(Alone(), path, SOURCE, {0: rows})
    with RunData(RunLayout.at(root), lambda visit, ccd: CcdTruth(sources, 30.0)) as data:
        found = {one.name: one for one in score(data).measured}
        assert np.abs(data.repeats.offsets).max() < 0.1
    assert found["truth.wcs_shift"].value < 0.1


def test_truth_of_a_field_that_is_empty(make_run: Make) -> None:
    """Nothing true can be seen: what was found is of nothing, and the rest is not measurable."""
    sdqa = [
        (v, name, value)
        for v in (11, 12, 13)
        for name, value in (
            ("ic.wcsDetermination.pixel_scale", 0.2),
            ("ic.psfDetermination.fwhm", 2.0),
        )
    ]
    root = make_run(np.full((50, 3), 17.0), sdqa=sdqa)
    names = ("id", "kind", "x", "y", "ra", "dec", "mag", "flux", "snr")
    moments = ("psf_ixx", "psf_iyy", "psf_ixy")
    sources = np.ones(5, [(name, "f8") for name in names + moments])
    with RunData(RunLayout.at(root), lambda visit, ccd: CcdTruth(sources, 30.0)) as data:
        found = {one.name: one for one in score(data).measured}
    assert found["truth.purity"].value == 0.0
    assert found["truth.psf_size"].verdict == "not measurable"
    assert found["truth.completeness.20-50"].verdict == "not measurable"


def test_of_a_large_run_a_share_gives_the_same(
    make_run: Make, numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects are chosen whole, and the same ones whatever the order of the rows."""
    mags = 17.0 + MMAG * np.random.default_rng(1).normal(0, 3, (2000, 3))
    root = make_run(mags)
    every = numbers(root)
    monkeypatch.setattr(repeats, "MOST_SOURCES", 1500)
    some = numbers(root)
    assert 300 < some["PA1.r"].n < 700
    assert some["PA1.r"].value == pytest.approx(every["PA1.r"].value, rel=0.1)
    for name in ("twice", "orphans", "counts"):
        assert some[f"objects.{name}"].verdict == "met"
    assert "only a share" in some["objects.split"].why


# -- statistics and verdicts -----------------------------------------------------------------------


def test_statistics_are_those_of_repeated_values() -> None:
    """Of several draws at once each is what it is alone; of nothing there is none."""
    rng = np.random.default_rng(2)
    values, counts = np.sort(rng.normal(size=40)), rng.integers(0, 4, (5, 40))
    counts[3] = 0
    percents = (0.0, 25.0, 50.0, 73.0, 100.0)
    together = np.array(percentiles(values, counts, *percents))
    means = rms(values, counts), beyond(1.0)(values, counts)
    for k in (0, 1, 2, 4):
        repeated = np.repeat(values, counts[k])
        assert together[:, k] == pytest.approx(np.percentile(repeated, percents))
        assert float(median(values, counts[k])) == pytest.approx(np.median(repeated))
        assert means[0][k] == pytest.approx(np.sqrt(np.mean(repeated**2)))
        assert means[1][k] == pytest.approx(100 * np.mean(np.abs(repeated) > 1))
    assert np.isnan(together[:, 3]).all()
    assert np.isnan([means[0][3], means[1][3], float(median(values[:0], counts[0, :0]))]).all()


def test_intervals_cover_and_repeat() -> None:
    """Of 60 samples of a normal distribution about 95 % of the intervals hold its median; the same
    sample in another order gives the same interval."""
    hits = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(3.0, 1.0, 200)
        found = estimate(median, values, np.arange(200), "x")
        hits += found.low <= 3.0 <= found.high
        mixed = np.random.default_rng(seed + 1).permutation(200)
        assert estimate(median, values[mixed], np.arange(200)[mixed], "x")[:1] == found[:1]
    assert 51 <= hits <= 60


def test_intervals_of_pairs_cover() -> None:
    """Distances of pairs share stars: with errors of 25 stars in one visit, the interval of the
    width holds the true one as often as it should; with only the first star drawn again, less."""
    i, j = np.triu_indices(25, 1)
    hits = np.zeros(2, int)
    for seed in range(60):
        errors = np.random.default_rng(seed).normal(0.0, 1.0, 25)
        for k, units in enumerate((np.stack([i, j], axis=1), i)):
            found = estimate(rms, errors[j] - errors[i], units, "x")
            hits[k] += found.low <= np.sqrt(2.0) <= found.high
    assert hits[0] >= 50
    assert hits[1] < hits[0]


def test_intervals_of_many_pairs_are_as_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers taken in steps give the interval of single numbers, of shares of outliers, too."""
    i, j = np.triu_indices(60, 1)
    values = np.random.default_rng(1).standard_t(3, (len(i), 12)).ravel()
    units = np.repeat(np.stack([i, j], axis=1), 12, axis=0)
    for statistic in (width, beyond(3.0), beyond(20.0)):
        some = estimate(statistic, values, units, "x")
        with monkeypatch.context() as context:
            context.setattr(statistics, "MOST_STEPS", len(values))
            every = estimate(statistic, values, units, "x")
        assert some == pytest.approx(every, rel=2e-3)


def test_intervals_of_ratios_cover() -> None:
    """Weights that are very unequal, as those of visits with few and with many stars."""
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        weights = rng.uniform(0.001, 1.0, 60) ** 2
        found = estimate_ratio(weights * rng.normal(3.0, 1.0, 60), weights, "x")
        hits += found.low <= 3.0 <= found.high
    assert 50 <= hits <= 60
    assert math.isnan(estimate_ratio(np.ones(1), np.ones(1)).low)
    assert math.isnan(estimate_ratio(np.zeros(0), np.zeros(0)).value)


def test_large_samples_have_narrow_intervals() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, 40_000)
    found = estimate(width, values, np.arange(len(values)), "x")
    expected = 3.92 * 1.17 / np.sqrt(len(values))
    assert 0.6 * expected < found.high - found.low < 1.6 * expected


def test_verdicts() -> None:
    asked = srd(3.0, 5.0, 8.0)
    for value, level in ((2.9, "stretch"), (3.1, "design"), (7.0, "minimum"), (9.0, "missed")):
        assert Measured("a", "a", value, requirement=asked).verdict == level
    assert Measured("a", "a", math.nan, requirement=asked).verdict == "not measurable"
    assert Measured("a", "a", 1.0).verdict == "reported"
    assert target(0.02, "own", centre=1.0).verdict(0.97) == "missed"
    assert target(0.02, "own", centre=1.0).verdict(0.99) == "met"
    assert at_least(90.0, "own").verdict(91.0) == "met"


def test_verdicts_are_certain_where_all_of_the_interval_has_them() -> None:
    asked = srd(3.0, 5.0, 8.0)
    assert Measured("a", "a", 4.9, 4.5, 4.99, requirement=asked).is_certain
    assert not Measured("a", "a", 4.9, 4.5, 5.3, requirement=asked).is_certain
    assert not Measured("a", "a", 4.9, requirement=asked).is_certain
    assert Measured("a", "a", math.nan, requirement=asked).is_certain
    around = target(0.1, "own", centre=0.0)
    assert not Measured("a", "a", 0.2, -0.3, 0.3, requirement=around).is_certain

    def of_levels(stretch: float, low: float, high: float) -> Measured:
        levels = {
            "stretch": Estimate(stretch, stretch - 1, stretch + 1),
            "design": Estimate(7.0, low, high),
            "minimum": Estimate(4.0, math.nan, math.nan),
        }
        return Measured("a", "a", 7.0, low, high, requirement=srd(5, 10, 20), levels=levels)

    assert of_levels(8.0, 6.0, 9.0).verdict == "design"
    assert of_levels(8.0, 6.0, 9.0).is_certain
    assert not of_levels(5.5, 6.0, 9.0).is_certain
    assert not of_levels(8.0, 6.0, 11.0).is_certain


def test_the_worst_ccds_come_first() -> None:
    ccds = np.array([(1, "a", 5.0, 1), (2, "a", -9.0, 1), (3, "a", 7.0, 1)], CONTRIBUTION)
    assert Measured("x", "x", 1.0, ccds=ccds).worst_ccds()["visit"].tolist() == [2, 3, 1]
    floor = Requirement({"met": 1.0}, is_floor=True)
    worst = Measured("x", "x", 1.0, requirement=floor, ccds=ccds).worst_ccds()
    assert worst["visit"].tolist() == [2, 1, 3]


def test_every_metric_is_defined() -> None:
    names = [one.name for one in metrics()]
    assert len(set(names)) == len(names)
    assert {"PA1", "PF1", "PA3", "AM", "AF", "AA1", "AB", "TE", "depth", "outcomes"} <= set(names)
    assert all(len(one.definition) > 40 for one in metrics())


# -- runs that are not as they should be -----------------------------------------------------------


def invoke(*words: object) -> Any:
    return CLI.invoke(app, [str(word) for word in words])


def test_one_visit_says_what_is_missing(make_run: Make, numbers: Numbers) -> None:
    found = numbers(make_run(np.full((20, 1), 17.0), visits={1: "r"}))
    assert "two visits" in found["PA1.r"].why
    assert found["outcomes"].value == 100.0


def test_no_stars_at_all(make_run: Make, numbers: Numbers) -> None:
    found = numbers(make_run(np.full((0, 3), 17.0)))
    assert "no objects" in found["PA1"].why
    assert found["wcs.found"].value == 100.0


def test_everything_failed(make_run: Make, numbers: Numbers, tmp_path: Path) -> None:
    bad = {11: "failed", 12: "bad data", 13: "failed"}
    root = make_run(np.full((0, 3), 17.0), outcomes=bad)
    found = numbers(root)
    assert found["outcomes"].value == 0.0
    assert len(found["outcomes"].ccds) == 3
    assert "has no calexp" in found["wcs.found"].why
    page = tmp_path / "page.html"
    assert invoke("scorecard", root, "--html", page).exit_code == 0
    assert "1 failed" in page.read_text()


def test_without_tables_of_objects(make_run: Make, numbers: Numbers) -> None:
    root = make_run(np.full((20, 3), 25.0), error=108.57362)
    for name in ("object", "source", "badSource"):
        (root / "catalogs" / f"{name}.h5").unlink()
    found = numbers(root)
    assert found["PA1"].why == "the run has no table object"
    assert math.isfinite(found["depth.r"].value)


@pytest.mark.parametrize(
    "gone", ["camera.json", "outcomes.json", "calexp", "catalogs", "catalogs/src.h5"]
)
def test_half_gone(make_run: Make, tmp_path: Path, gone: str) -> None:
    """Whatever is missing is told; the rest is measured; the page is made."""
    root = make_run(17.0 + MMAG * np.random.default_rng(1).normal(0, 3, (30, 3)))
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    done = invoke("scorecard", root, "--html", page, "--json", numbers)
    assert done.exit_code == 0, done.output
    content = json.loads(numbers.read_text())
    verdicts = {one["name"]: one["verdict"] for one in content["metrics"]}
    assert ("PA1.r" in verdicts) == (gone != "catalogs")
    told = [text for text in content["problems"] if "completion record" not in text]
    assert bool(told) == (gone not in ("catalogs", "catalogs/src.h5"))


@pytest.mark.parametrize(
    ("damaged", "how"),
    [
        ("camera.json", "cut"),
        ("outcomes.json", "noise"),
        ("catalogs/src.h5", "cut"),
        ("catalogs/object.h5", "noise"),
        ("catalogs/object.h5", "empty"),
    ],
)
def test_damaged(make_run: Make, damaged: str, how: str) -> None:
    root = make_run(np.full((20, 3), 17.0))
    path = root / damaged
    content = path.read_bytes()
    noise = np.random.default_rng(4).bytes(2000)
    path.write_bytes({"cut": content[: len(content) // 2], "noise": noise, "empty": b""}[how])
    done = invoke("scorecard", root)
    assert done.exit_code == 0, done.output
    assert "can not be read" in done.output or "is damaged" in done.output


def test_a_table_altered_behind_its_back_is_refused(make_run: Make, numbers: Numbers) -> None:
    """One bit of a table with a checksum is enough; the tables that are whole are measured."""
    root = make_run(np.full((20, 3), 25.0), error=108.57362)
    files = sorted((root / "catalogs").glob("*.h5"))
    products = [
        ["catalogue", f"catalogs/{path.name}", path.stat().st_size, sha256_file(path)]
        for path in files
    ]
    (root / "completion.json").write_text(json.dumps({"products": products}))
    assert math.isfinite(numbers(root)["objects.twice"].value)
    path = root / "catalogs" / "source.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = numbers(root)
    assert "not as the run published it" in found["PA1"].why
    assert math.isfinite(found["depth.r"].value)


def test_an_airmass_that_can_not_be_is_not_used(make_run: Make) -> None:
    """A header that says 13 would make the other exposures look as if behind clouds."""
    from astropy.io import fits

    root = make_run(np.full((20, 3), 17.0))
    with fits.open(RunLayout.at(root).image("calexp", 12, "R22_S11"), mode="update") as hdus:
        hdus[0].header["AIRMASS"] = 13.3
    with RunData(RunLayout.at(root)) as data:
        found = {one.name: one for one in score(data).measured}
        assert found["zero_point.stability.r"].value == pytest.approx(0.0, abs=1e-9)
        assert any("airmass that can not be, such as 13.3" in text for text in data.problems)


def test_a_flat_folder(make_run: Make, numbers: Numbers, tmp_path: Path) -> None:
    """What `mpipipe process` makes has other places for the same products."""
    root, flat = make_run(np.full((20, 3), 17.0)), tmp_path / "flat"
    flat.mkdir()
    for path in sorted(root.glob("calexp/*/*.fits")):
        path.rename(flat / path.name)
    shutil.rmtree(root / "calexp")
    root.rename(flat / "run")
    (flat / "run" / "flat").touch()
    for name in ("object", "source", "badSource"):
        (flat / "run" / "catalogs" / f"{name}.h5").rename(flat / f"{name}.h5")
    found = numbers(flat)
    assert (found["wcs.found"].value, found["wcs.found"].n) == (100.0, 3)
    assert (found["outcomes"].value, found["outcomes"].n) == (100.0, 3)
    assert found["PA1.r"].n == 20
    page = tmp_path / "page.html"
    assert invoke("scorecard", flat, "--html", page).exit_code == 0


def test_a_ccd_whose_name_is_no_file_name(make_run: Make) -> None:
    """Its tasks and its images are of one CCD-visit."""
    root = make_run(np.full((20, 3), 17.0))
    for name in ("outcomes.json", "camera.json"):
        path = root / name
        path.write_text(path.read_text().replace("R22_S11", "R22:S11"))
    with RunData(RunLayout.at(root)) as data:
        assert data.exposures["ccd"].tolist() == ["R22:S11"] * 3
        assert data.exposures["has_image"].all()
        assert (data.exposures["number"] == 4).all()
    (root / "outcomes.json").unlink()
    with RunData(RunLayout.at(root)) as data:
        assert data.exposures["ccd"].tolist() == ["R22:S11"] * 3


def test_a_damaged_exposure_is_named(make_run: Make) -> None:
    root = make_run(np.full((20, 3), 17.0))
    path = RunLayout.at(root).image("calexp", 12, "R22_S11")
    path.write_bytes(b"nothing of a FITS file")
    done = invoke("scorecard", root)
    assert done.exit_code == 0
    assert "calexp-12-R22_S11.fits can not be read" in done.output


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        score(RunData(RunLayout.at(tmp_path)))
    done = CLI.invoke(app, ["scorecard", str(tmp_path / "nowhere")])
    assert isinstance(done.exception, ConfigError)
    done = CLI.invoke(app, ["scorecard", str(tmp_path), "--truth", str(tmp_path)])
    assert "holds no truth" in str(done.exception)


# -- page, JSON, exit code -------------------------------------------------------------------------


class _Page(HTMLParser):
    """Ids and links of a page, and whatever would reach outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name in ("src", "srcset", "data", "action") and not (value or "").startswith(
                "data:image/png;base64,"
            ):
                self.outside.append(value or "")
        if tag in ("script", "link", "iframe", "object"):
            self.outside.append(tag)


def test_the_page_stands_alone(make_run: Make, tmp_path: Path) -> None:
    """No link leads out of the page, each leads somewhere, and ids are there once."""
    mags = 17.0 + MMAG * np.random.default_rng(1).normal(0, 3, (60, 3))
    mags[:, 2] += 0.2
    path = tmp_path / "page.html"
    assert invoke("scorecard", make_run(mags), "--html", path).exit_code == 0
    text = path.read_text()
    page = _Page()
    page.feed(text)
    assert not page.outside
    assert all(link.startswith("#") for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert 'name="viewport"' in text
    assert text.count("<svg") == 2


def test_names_are_escaped(make_run: Make, tmp_path: Path) -> None:
    """What a header says can not become part of the page's code."""
    from astropy.io import fits

    root = make_run(np.full((20, 3), 17.0))
    with fits.open(RunLayout.at(root).image("calexp", 11, "R22_S11"), mode="update") as hdus:
        hdus[0].header["FILTER"] = "<b onload=x>"
    with fits.open(RunLayout.at(root).image("calexp", 12, "R22_S11"), mode="update") as hdus:
        hdus[0].header["FILTER"] = "[/x]"
    rows = [(v, "ic.wcsDetermination.pixel_scale", 0.2) for v in (11, 12, 13)]
    rows += [(v, "ic.psfDetermination.fwhm", 4.0) for v in (11, 12, 13)]
    path = root / "catalogs" / "sdqa.h5"
    sdqa = SDQA.empty(len(rows))
    for row, (visit, name, value) in zip(sdqa, rows, strict=True):
        row["visit"], row["ccd"], row["metric"], row["value"] = visit, "R22_S11", name, value
        row["snap"] = -1
    publish_catalogue(Alone(), path, read_schema(path), {0: sdqa})
    path = tmp_path / "page.html"
    done = invoke("scorecard", root, "--html", path)
    assert done.exit_code == 0, done.exception
    assert "<b onload" not in path.read_text()
    assert "psf.fwhm.[/x]" in done.output


def test_the_same_run_gives_the_same_files(make_run: Make, tmp_path: Path) -> None:
    root = make_run(17.0 + MMAG * np.random.default_rng(1).normal(0, 3, (60, 3)))
    texts = []
    for k in range(2):
        page, numbers = tmp_path / f"{k}.html", tmp_path / f"{k}.json"
        assert invoke("scorecard", root, "--html", page, "--json", numbers, "-q").exit_code == 0
        texts.append((page.read_text(), numbers.read_text()))
    assert texts[0] == texts[1]


def test_strict_ends_with_its_own_code(make_run: Make) -> None:
    good = make_run(17.0 + MMAG * np.random.default_rng(1).normal(0, 3, (30, 3)), "good")
    bad = make_run(17.0 + MMAG * np.random.default_rng(1).normal(0, 30, (30, 3)), "bad")
    assert invoke("scorecard", good, "--strict").exit_code == 0
    assert invoke("scorecard", bad, "--strict").exit_code == Exit.DIFFERS
    assert invoke("scorecard", bad).exit_code == 0
