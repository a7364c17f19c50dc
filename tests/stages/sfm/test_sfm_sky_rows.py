"""Tables of one exposure: what association needs comes back, from those of earlier versions too."""

from __future__ import annotations

import numpy as np
from numpy.lib.recfunctions import drop_fields

from mpipipe.data.association import SOURCE
from mpipipe.stages.sfm.sky_rows import EXPOSURE_SRC, LATER_COLUMNS, sky_rows_of, with_sky_rows
from mpipipe.stages.sfm.src_table import SRC


def _table() -> np.ndarray:
    src, source = SRC.empty(3), SOURCE.empty(3)
    src["id"], src["ra"], src["dec"] = [7, 8, 9], 150.0, -20.0
    source["band"], source["mjd"], source["fwhm"] = b"g", 60000.5, 0.8
    source["ra"] = [150.0, 150.0, np.nan]
    source["ixx"], source["petroRadius"] = 0.3, 2.0
    source["raRefractionSlope"], source["refractionColor"] = 42.0, b"g-i"
    return with_sky_rows(src, source)


def test_rows_come_back() -> None:
    rows = sky_rows_of(_table())
    assert rows.dtype == SOURCE.dtype
    np.testing.assert_array_equal(rows["id"], [7, 8, 9])
    np.testing.assert_array_equal(np.isfinite(rows["ra"]), [True, True, False])
    assert (rows["ixx"] == np.float32(0.3)).all() and (rows["petroRadius"] == 2.0).all()
    assert (rows["raRefractionSlope"] == 42.0).all() and (rows["refractionColor"] == b"g-i").all()


def test_earlier_versions_knew_nothing_of_refraction() -> None:
    assert set(EXPOSURE_SRC.dtype.names or ()) >= LATER_COLUMNS
    older = drop_fields(_table(), sorted(LATER_COLUMNS))
    rows = sky_rows_of(older)
    assert (rows["raRefractionSlope"] == 0.0).all() and (rows["refractionColor"] == b"").all()
    assert (rows["mjd"] == 60000.5).all()
