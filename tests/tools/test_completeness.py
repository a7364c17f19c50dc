"""The judge of detections counts what is known: found, missed, doubled, made up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from _completeness import CAUSES, compare, pair, together

SHAPE = (200, 200)
FWHM = 4.0
TRUE = np.dtype([("x", "f8"), ("y", "f8"), ("flux", "f8"), ("snr", "f4"), ("kind", "i2")])
FOUND = np.dtype([("x", "f8"), ("y", "f8"), ("flag_edge", "?")])


def test_the_brightest_chooses_first() -> None:
    partner = pair(
        np.array([10.0, 11.0]), np.array([10.0, 10.0]),
        np.array([10.4, 10.4]), np.array([10.0, 10.0]), np.array([1.0, 5.0]), 3.0,
    )  # fmt: skip
    np.testing.assert_array_equal(partner, [1, 0])
    assert len(pair(*(np.zeros(0),) * 5, 3.0)) == 0


def test_what_is_known_is_counted() -> None:
    sources = np.array(
        [(50, 50, 100, 10, 0), (100, 100, 400, 40, 0), (150, 50, 60, 6, 1), (2, 2, 100, 10, 0)],
        TRUE,
    )
    src = np.array(
        [
            (50.5, 50, False),
            (100, 100, False),
            (102, 100, False),  # a second one of the same star
            (30, 150, False),  # nothing is there
            (190, 150, True),  # nothing either, but it says so
        ],
        FOUND,
    )
    mask, spoiled = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, bool)
    one = compare(src, sources, mask, spoiled, FWHM)
    np.testing.assert_array_equal(one.n_true, [0, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(one.n_found, [0, 0, 1, 0, 1, 0])
    assert (one.n_judged, one.n_false, one.n_excused) == (4, 2, 1)
    assert dict(zip(CAUSES, one.causes, strict=True))["blend"] == 1
    assert one.purity == 0.5
    two = together([one, one])
    assert two.n_false == 4 and two.purity == 0.5
    np.testing.assert_array_equal(two.n_true, 2 * one.n_true)


def test_without_detections_nothing_is_false() -> None:
    sources = np.array([(50, 50, 100, 10, 0)], TRUE)
    one = compare(
        np.zeros(0, FOUND), sources, np.zeros(SHAPE, np.int32), np.zeros(SHAPE, bool), FWHM
    )
    assert np.isnan(one.purity) and one.n_false == 0 and one.n_found.sum() == 0
