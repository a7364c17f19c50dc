"""Schemas of tables: every column with its dtype, unit, description and UCD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name
        Column name.
    dtype
        NumPy dtype string, e.g. ``f8``, ``i8``, ``S16``, ``?``.
    unit
        Unit in astropy's spelling; empty if it has none.
    description
        One line for people.
    ucd
        IVOA UCD1+ word, e.g. ``pos.eq.ra``.
    """

    name: str
    dtype: str
    unit: str
    description: str
    ucd: str = ""


@dataclass(frozen=True)
class Schema:
    """A table's columns, in order, under its name."""

    name: str
    description: str
    columns: tuple[Column, ...]

    @property
    def dtype(self) -> np.dtype:
        """The structured dtype of a row."""
        return np.dtype([(column.name, column.dtype) for column in self.columns])

    @property
    def position(self) -> tuple[str, str]:
        """Names of the columns of right ascension and declination (ICRS, degrees), by their UCDs.

        Raises
        ------
        KeyError
            If the table has none.
        """
        by_ucd = {column.ucd: column.name for column in reversed(self.columns)}
        return by_ucd["pos.eq.ra;meta.main"], by_ucd["pos.eq.dec;meta.main"]

    def empty(self, n_rows: int = 0) -> np.ndarray:
        """A zeroed structured array of `n_rows` rows."""
        return np.zeros(n_rows, dtype=self.dtype)

    def table(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows from one array per column.

        Raises
        ------
        KeyError
            If a column is missing or unknown.
        """
        expected = {column.name for column in self.columns}
        if set(columns) != expected:
            raise KeyError(
                f"table {self.name!r}: missing {sorted(expected - set(columns))}, "
                f"unknown {sorted(set(columns) - expected)}"
            )
        n_rows = len(next(iter(columns.values()))) if columns else 0
        rows = self.empty(n_rows)
        for name, values in columns.items():
            rows[name] = values
        return rows


SDQA = Schema(
    "sdqa",
    "Metrics that the stages measured, one row a number",
    (
        Column("visit", "i8", "", "visit; -1 for master calibrations", "meta.id;obs"),
        Column("ccd", "S32", "", "name of the CCD", "meta.id;instr"),
        Column("band", "S16", "", "band; empty where there is none", "meta.id;instr.bandpass"),
        Column("snap", "i2", "", "snap, -1 for all together", "meta.number"),
        Column("channel", "S16", "", "channel, empty for the whole CCD", "meta.id;instr"),
        Column("metric", "S64", "", "dotted name of the metric, stage first", "meta.id"),
        Column("value", "f8", "", "value", "stat.value"),
        Column("unit", "S16", "", "unit of the value", "meta.unit"),
    ),
)
