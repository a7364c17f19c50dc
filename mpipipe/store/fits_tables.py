"""Tables of a schema as FITS extensions, with units and descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpipipe.data.schema import Schema


def table_hdu(schema: Schema, rows: np.ndarray) -> Any:
    """Rows as an astropy BinTableHDU named after its schema."""
    from astropy.io import fits

    hdu = fits.BinTableHDU(rows, name=schema.name.upper())
    for number, column in enumerate(schema.columns, start=1):
        if column.unit:
            hdu.header[f"TUNIT{number}"] = column.unit
        hdu.header[f"TCOMM{number}"] = column.description
    return hdu
