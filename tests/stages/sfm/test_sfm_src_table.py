"""The schemas tell every column's unit, meaning and UCD."""

from __future__ import annotations

import pytest
from astropy import units

from mpipipe.data.schema import Schema
from mpipipe.data.src import SNAP_SOURCE
from mpipipe.stages.sfm.forced_table import FORCED_SRC
from mpipipe.stages.sfm.src_table import SRC


@pytest.mark.parametrize("schema", [SRC, FORCED_SRC, SNAP_SOURCE], ids=lambda schema: schema.name)
def test_columns_are_described(schema: Schema) -> None:
    names = [column.name for column in schema.columns]
    assert len(set(names)) == len(names)
    for column in schema.columns:
        assert column.description and column.ucd, column.name
        units.Unit(column.unit)
        assert column.name.isidentifier()
