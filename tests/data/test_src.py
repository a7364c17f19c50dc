"""The schemas tell every column's unit, meaning and UCD."""

from __future__ import annotations

import pytest
from astropy import units

from mpipipe.data.schema import Schema
from mpipipe.data.src import APERTURES, SNAP_SOURCE, SRC, aperture_column, aperture_error_column


@pytest.mark.parametrize("schema", [SRC, SNAP_SOURCE], ids=lambda schema: schema.name)
def test_columns_are_described(schema: Schema) -> None:
    names = [column.name for column in schema.columns]
    assert len(set(names)) == len(names)
    for column in schema.columns:
        assert column.description and column.ucd, column.name
        units.Unit(column.unit)
        assert column.name.isidentifier()


def test_every_aperture_has_flux_and_error() -> None:
    for radius in APERTURES:
        assert aperture_column(radius) in SRC.dtype.names
        assert aperture_error_column(radius) in SRC.dtype.names
