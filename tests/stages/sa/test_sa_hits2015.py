"""Two real visits whose association is published: difference sources of HiTS 2015."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.association import SOURCE
from mpipipe.stages.sa.associate import associate

RADIUS = 1.0
"""Arcsec between sources of one object of the published association."""


@pytest.mark.parametrize("ccd", ["S22", "S26"])
def test_pairs_of_two_real_visits_are_those_published(realdata: Path, ccd: str) -> None:
    name = f"preloaded_dia_source_DECam_419802_{ccd}_dia_catalogs_apdb.parq"
    path = realdata / "hits2015-dia" / name
    if not path.exists():
        pytest.skip("hits2015-dia is not among the real data")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    columns = {
        ours: table[theirs].to_numpy()
        for ours, theirs in (
            ("id", "diaSourceId"),
            ("visit", "visit"),
            ("mjd", "midpointMjdTai"),
            *((same, same) for same in ("ra", "dec", "snr", "psfFlux", "psfFluxErr")),
        )
    }
    order = np.argsort(columns["id"])
    rows = SOURCE.empty(len(order))
    for column, values in columns.items():
        rows[column] = values[order]
    rows["objectId"], rows["band"], rows["fwhm"] = -1, b"g", RADIUS / 0.6
    rows["snr"] = np.nan  # those of the difference, of either sign
    published = table["diaObjectId"].to_numpy()[order]
    done = associate(rows, np.ones(len(rows), bool), None, ("g",), RADIUS / 0.6, 0.0)
    assert (done.source["id"] == rows["id"]).all()
    pairs = [_pairs(published), _pairs(done.source["objectId"])]
    assert len(pairs[0]) > 20
    common = len(pairs[0] & pairs[1])
    assert common >= 0.97 * len(pairs[0])
    # Theirs join each source to one known object; ours need not agree where three are near.
    assert common >= 0.95 * len(pairs[1])


def _pairs(objects: np.ndarray) -> set[tuple[int, int]]:
    """Places of sources that are in one object."""
    same = np.triu(objects[:, None] == objects[None], 1)
    return set(zip(*(side.tolist() for side in np.nonzero(same)), strict=True))
