"""The judge of forced photometry: pulls of what stands alone, by what it truly is."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from _forced import _mean, _pulls

from mpipipe.stages.sfm.forced_table import FORCED_SRC

SOURCES = np.dtype([(name, "f8") for name in ("id", "kind", "x", "y", "mag", "snr")])
TRUE = 10 ** (0.4 * (31.4 - 24.0))


def test_pulls_by_what_stands_there() -> None:
    sources = np.array(
        [
            (9, 0, 50, 50, 24.0, 5.0),
            (3, 0, 100, 100, 24.0, 5.0),
            (4, 1, 104, 100, 24.0, 5.0),  # a galaxy beside that star
            (5, 0, 150, 50, 24.0, 0.1),
        ],
        SOURCES,
    )
    spoiled = np.zeros((200, 200), bool)
    spoiled[60, 160] = True
    truth = SimpleNamespace(sources=sources, fwhm=4.0, spoiled=spoiled, shape=spoiled.shape)
    given = [
        (9, 50, 50, TRUE + 20.0),
        (3, 100, 100, TRUE - 10.0),
        (4, 104, 100, TRUE),
        (5, 150, 50, TRUE),
        (-1, 20, 150, 30.0),
        (-2, 52, 50, 99.0),  # something stands there
        (-3, 160, 61, 99.0),  # a satellite
        (-4, 20, 20, np.nan),
    ]
    rows = FORCED_SRC.empty(len(given))
    for row, (number, x, y, flux) in zip(rows, given, strict=True):
        row["objectId"], row["x"], row["y"], row["psfFlux"] = number, x, y, flux
    rows["psfFluxErr"] = 10.0
    blank, snr, pull, alone = _pulls(truth, rows)  # type: ignore[arg-type]
    np.testing.assert_allclose(blank, [3.0])
    np.testing.assert_allclose(snr, [5.0, 5.0, 0.1])
    np.testing.assert_allclose(pull, [2.0, -1.0, 0.0], atol=1e-6)
    assert alone.tolist() == [True, False, True]


def test_outliers_do_not_make_the_mean() -> None:
    pull = np.append(np.random.default_rng(1).standard_normal(400), 1e4)
    assert abs(_mean(pull)) < 0.2
    assert np.isnan(_mean(np.empty(0)))
