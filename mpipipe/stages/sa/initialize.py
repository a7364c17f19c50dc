"""sa_initialize: which sources may be part of objects, and why others may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from mpipipe.data.association import BAD_REASONS, SOURCE
from mpipipe.stages.stage import StageConfig, stage

Cut = Literal["edge", "streak", "bad", "centroid"]

_REASONS: Mapping[Cut, str] = {
    "edge": "edge",
    "streak": "streak",
    "bad": "bad pixel",
    "centroid": "no centroid",
}
"""Flags that a source can be rejected for, and the reason given."""

_SPARED: tuple[Cut, ...] = ("bad", "centroid")
"""Flags that saturated stars have by their nature: there they are no reason."""


class InitializeConfig(StageConfig):
    """What makes a source bad."""

    min_snr: float = Field(
        default=5.0, ge=0.0, description="least SNR; a source of unknown SNR passes"
    )
    reject: tuple[Cut, ...] = Field(
        default=("edge", "streak", "bad", "centroid"),
        description="flags that keep a source out of objects; saturated stars may be bad and "
        "without centroid",
    )


@stage(
    "sa.initialize",
    needs=("rows", "own"),
    adds=("reason",),
    config=InitializeConfig,
    always=True,
)
def initialize(config: InitializeConfig, *, rows: np.ndarray, own: np.ndarray) -> Mapping[str, Any]:
    """Judge every source by itself: `reason` is empty (S32) for those that objects are made of."""
    if rows.dtype != SOURCE.dtype:
        raise TypeError("rows are not of the schema of source")
    if len(own) != len(rows) or (np.diff(rows["id"]) <= 0).any():
        raise ValueError("rows must ascend by id, with one `own` each")
    return {"reason": reasons(rows, config)}


def reasons(rows: np.ndarray, config: InitializeConfig) -> np.ndarray:
    """The first of `BAD_REASONS` that holds for a source, S32; empty for good ones."""
    holds = {
        "no position": ~(np.isfinite(rows["ra"]) & (np.abs(rows["dec"]) <= 90.0)),
        "faint": rows["snr"] < config.min_snr,
    }
    for cut in config.reject:
        spared = rows["flag_saturated"] & (cut in _SPARED)
        holds[_REASONS[cut]] = rows[f"flag_{cut}"] & ~spared
    reason = np.zeros(len(rows), "S32")
    for name in reversed(BAD_REASONS):
        if name in holds:
            reason[holds[name]] = name
    return reason
