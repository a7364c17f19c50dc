"""sa_SourceClusterAttributes: what the sources of an object say together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.association import column_ending, object_schema
from mpipipe.stages.sa.astrometry import TimeBase, astrometry
from mpipipe.stages.sa.epochs import epochs_of
from mpipipe.stages.sa.fluxes import fluxes
from mpipipe.stages.sa.friends import unit_vectors
from mpipipe.stages.sa.refraction import refraction
from mpipipe.stages.sa.segments import sort_members, take_rows
from mpipipe.stages.sa.shapes import flags, shapes
from mpipipe.stages.stage import StageConfig, stage


class SourceClusterAttributesConfig(StageConfig):
    """What is fitted to the sources of an object."""

    position_floor: float = Field(
        default=1.2,
        ge=0.0,
        description="error of a visit's astrometry beside that of the reference stars, which all "
        "visits share, mas, in quadrature to the sources' own",
    )
    motion_base: float = Field(
        default=0.5, gt=0.0, description="least time for a proper motion, years"
    )
    parallax_base: float = Field(
        default=1.0, gt=0.0, description="least time for a parallax, years"
    )
    pair_interval: float = Field(
        default=0.1, ge=0.0, description="days within which two visits are a pair of Stetson's J"
    )
    colour_spread: float = Field(
        default=0.8,
        gt=0.0,
        description="width of the distribution of colours, mag: the error of a colour that is "
        "unknown, where refraction displaces sources by their colours",
    )


@stage(
    "sa.SourceClusterAttributes",
    needs=("rows", "cluster", "merged", "bands"),
    adds=("object", "refraction"),
    config=SourceClusterAttributesConfig,
    always=True,
)
def source_cluster_attributes(
    config: SourceClusterAttributesConfig,
    *,
    rows: np.ndarray,
    cluster: np.ndarray,
    merged: np.ndarray,
    bands: tuple[str, ...],
) -> Mapping[str, Any]:
    """Positions, motions, fluxes, shapes, variability and flags of objects, ascending by id.

    `refraction` has for every row how far it is displaced, (n, 2) mas east and north, and whether
    that is unknown, (n,) bool.
    """
    schema = object_schema(bands)
    numbers = _band_numbers(rows["band"], bands)
    members, starts, bounds = sort_members(cluster, numbers, rows["mjd"], len(bands))
    if not len(members):
        nothing = np.zeros((len(rows), 2)), np.zeros(len(rows), bool)
        return {"object": schema.empty(), "refraction": nothing}
    n_rows = len(rows)
    epochs = epochs_of(rows, np.arange(len(rows))).of(members)
    rows = take_rows(rows, members)
    rows["flag_merged"] = merged[members]
    columns = {
        "objectId": np.minimum.reduceat(rows["id"], starts[:-1]),
        "nSources": np.diff(starts),
        "mjdFirst": np.minimum.reduceat(rows["mjd"], starts[:-1]),
        "mjdLast": np.maximum.reduceat(rows["mjd"], starts[:-1]),
    }
    endings = tuple(map(column_ending, bands))
    of_bands = fluxes(rows, bounds, endings, config.pair_interval)
    mean, error = (
        np.stack([of_bands[f"psfFluxMean{what}_{band}"] for band in endings], axis=1)
        for what in ("", "Err")
    )
    refracted = refraction(rows, starts, bands, (mean, error), config.colour_spread)
    rows["flag_refraction"] = refracted.is_unknown
    vectors = unit_vectors(rows["ra"], rows["dec"])
    base = TimeBase(config.motion_base, config.parallax_base, config.position_floor)
    columns |= astrometry(rows, starts, epochs, vectors, base, refracted)
    columns |= of_bands
    columns |= shapes(rows, starts)
    columns |= flags(rows, starts)
    return {"object": schema.table(columns), "refraction": refracted.at(members, n_rows)}


def _band_numbers(names: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """Places of bands in `bands`, int64; the number of bands for others."""
    numbers = np.full(len(names), len(bands))
    for number, band in enumerate(bands):
        numbers[names == band.encode()] = number
    return numbers
