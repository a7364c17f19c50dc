"""The judge of photometry beside other programs: zero points, offsets, completeness by purity."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from _completeness import EDGES, Detected
from _peers_photometry import Catalogue
from _photometry import Judge, Offsets, Photometry, beyond_photons, scatter_at_20
from _photometry_worker import gaussian
from _truth import CcdTruth

SHAPE = (900, 900)
SOURCES = np.dtype(
    [("id", "i8"), ("kind", "i2"), ("x", "f8"), ("y", "f8"), ("mag", "f8"), ("flux", "f8"),
     ("snr", "f4"), ("trail", "f4")]
)  # fmt: skip


def truth() -> CcdTruth:
    """A grid of stars of mag 17.5 to 21.5, 60 pixels apart, and a galaxy among them."""
    y, x = (60.0 + 60.0 * np.indices((14, 14))).reshape(2, -1)
    sources = np.zeros(len(x), SOURCES)
    sources["id"] = np.arange(len(x))[::-1]
    sources["x"], sources["y"] = x, y
    sources["mag"] = np.linspace(17.5, 21.5, len(x))
    sources["flux"] = 10 ** (0.4 * (28 - sources["mag"]))
    sources["snr"] = sources["flux"] / np.sqrt(sources["flux"] + 2000.0)
    sources["kind"][40] = 1
    grid = np.arange(41) - 20
    stamp = np.exp(-0.5 * (grid[:, None] ** 2 + grid**2) / 1.7**2)
    stamps = np.repeat(stamp[None] / stamp.sum(), 3, axis=0)
    return CcdTruth(1, "S00", "r", sources, stamps, np.full((3, 2), 450.0), None,
                    np.zeros(SHAPE, bool))  # fmt: skip


def catalogue(of: CcdTruth, gain: float = 3.0, seed: int = 1) -> Catalogue:
    """What a program with perfect errors and a zero point of its own finds."""
    rng = np.random.default_rng(seed)
    true = of.sources
    rows = np.zeros(len(true), [(name, "f8") for name in ("x", "y", "psfFlux", "psfFluxErr")])
    rows["x"], rows["y"] = true["x"] + 0.1, true["y"] - 0.1
    error = true["flux"] / true["snr"]
    rows["psfFlux"] = gain * (true["flux"] + error * rng.standard_normal(len(true)))
    rows["psfFluxErr"] = gain * error
    return Catalogue(rows, 1.0, 2.0)


def judged(found: Catalogue, of: CcdTruth) -> Photometry:
    score = Photometry()
    Judge(0, of, np.zeros(SHAPE, np.int32)).add(score, found)
    return score


def test_a_perfect_program_scatters_by_photons_alone() -> None:
    of = truth()
    score = judged(catalogue(of), of)
    stars = score.star("psfFlux").finite()
    assert len(stars.off) == len(of.sources) - 1
    assert abs(np.median(stars.between("mag", 17, 19).off)) < 1e-9
    assert beyond_photons(stars) < 0.01
    assert scatter_at_20(stars) == pytest.approx(1.0, abs=0.35)
    assert score.milliseconds() == pytest.approx(2e3 / len(of.sources))
    assert score.per_megapixel() == pytest.approx(3.0 / 0.81)


def test_the_galaxy_is_told_by_its_number() -> None:
    of = truth()
    (galaxy,) = judged(catalogue(of), of).galaxy("psfFlux").key
    assert galaxy == 40


def test_zero_points_of_programs_do_not_matter() -> None:
    of = truth()
    one, two = (judged(catalogue(of, gain), of).star("psfFlux") for gain in (1.0, 50.0))
    np.testing.assert_allclose(one.off, two.off, atol=1e-9)
    np.testing.assert_array_equal(one.key, two.key)


def test_a_flux_that_is_not_positive_has_no_magnitude() -> None:
    of = truth()
    found = catalogue(of)
    found.rows["psfFlux"][100] = -5.0
    stars = judged(found, of).star("psfFlux")
    assert np.isnan(stars.off).sum() == 1 and len(stars.finite().off) == len(stars.off) - 1


def test_what_is_near_full_pixels_is_not_judged() -> None:
    of = truth()
    of.spoiled[300:310, 300:310] = True
    rows = np.zeros(2, [("x", "f8"), ("y", "f8")])
    rows["x"], rows["y"] = (305.0, 630.0), (305.0, 630.0)
    found = Judge(0, of, np.zeros(SHAPE, np.int32)).detected(rows)
    assert (found.n_judged, found.n_false, found.n_excused) == (1, 1, 1)


def test_completeness_is_read_where_purity_is_the_same() -> None:
    def at(n_found: int, n_false: int) -> Detected:
        counts = np.full(len(EDGES) - 1, 100)
        return Detected(counts, counts * 0 + n_found, 1000, n_false, 0, 0, np.zeros(6, int), 1.0)

    score = Photometry(curve=[[at(90, 30), at(70, 10), at(40, 0)]])
    level, share = score.at_purity(0.98)
    assert level == pytest.approx(0.98)
    np.testing.assert_allclose(share, 0.8)
    level, share = score.at_purity(0.5)
    assert level == pytest.approx(0.97)
    np.testing.assert_allclose(share, 0.9)


def test_common_sources_are_told_by_key() -> None:
    values = np.arange(4.0)
    one = Offsets(np.array([1, 5, 7, 9]), values, values, values, values)
    two = Offsets(np.array([9, 5, 2, 3]), values, values, values, values)
    np.testing.assert_array_equal(one.common(two).key, [5, 9])


def test_the_filter_sums_to_one() -> None:
    kernel = gaussian(4.3)
    assert kernel.shape == (11, 11)
    assert kernel.sum() == pytest.approx(1.0)
    assert kernel[5, 5] == kernel.max()
