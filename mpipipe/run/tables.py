"""Rows of the tables that every task gives."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import SDQA
from mpipipe.data.sdqa import Sdqa


def sdqa_rows(sdqa: Sdqa, visit: int, ccd: str, band: str) -> np.ndarray:
    """The metrics of a task as rows of the table `sdqa`."""
    rows = SDQA.empty(len(sdqa.metrics))
    rows["visit"] = visit
    rows["ccd"] = ccd.encode()
    rows["band"] = band.encode()
    rows["metric"] = [metric.name for metric in sdqa.metrics]
    for name in ("snap", "channel", "value", "unit"):
        rows[name] = [getattr(metric, name) for metric in sdqa.metrics]
    return rows
