"""sa_SourceClustering: which sources are one object.

Exact at any partition of the sky. Let a cell have *own* rows, and *halo* rows: at least all rows of
others within one link radius of an own one (and within one hop: `mpipipe.stages.sa.far_tracks`).
A group of friends without a halo row is a group of the whole sky: a friend of one of its members is
an own or a halo row, so it is there, and in the group. A group of the whole sky that lies in
several cells has, in each of them, only local parts with halo rows: a part without would be all of
it. So *closed* groups, those without halo rows, are finished in their cell, and what is left of all
cells' own rows are whole groups again, each row once. Whether a source is good, how a group is
split, and what an object's attributes are depends on the rows of the group alone, in ascending
order of id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from pydantic import Field

from mpipipe.stages.sa.epochs import epochs_of
from mpipipe.stages.sa.exclusivity import Facts, group_members, split_groups
from mpipipe.stages.sa.far_tracks import Reach, join_far
from mpipipe.stages.sa.friends import friends, unit_vectors
from mpipipe.stages.sa.motion import ARCSEC
from mpipipe.stages.sa.tracks import TrackRules
from mpipipe.stages.stage import StageConfig, stage


class SourceClusteringConfig(StageConfig):
    """What is one object. Lengths are in units of the FWHM of the run's PSFs."""

    link_radius: float = Field(default=0.6, gt=0.0, le=5.0, description="link radius, FWHM")
    reach: float = Field(
        default=0.78,
        gt=0.0,
        le=20.0,
        description="largest distance of a source from the place of its object at rest, FWHM",
    )
    track_scatter: float = Field(
        default=0.2, ge=0.0, description="largest rms of a moving star about its motion, FWHM"
    )
    track_ratio: float = Field(
        default=0.35,
        ge=0.0,
        le=1.0,
        description="largest rms about the motion in units of that about rest",
    )
    max_motion: float = Field(
        default=11.0, ge=0.0, description="largest proper motion of a star, arcsec/yr"
    )
    max_hop: float = Field(
        default=5.0,
        ge=0.0,
        le=50.0,
        description="how far a star may move between two visits that show it, arcsec; halos are as "
        "wide",
    )


def link_radius(config: SourceClusteringConfig, fwhm: float) -> float:
    """The link radius in degrees.

    Parameters
    ----------
    fwhm
        Median FWHM of the run's PSFs, arcsec.
    """
    return config.link_radius * fwhm / 3600.0


def hop_radius(config: SourceClusteringConfig, fwhm: float, years: float) -> float:
    """How far stars are followed from source to source, degrees; 0 where friends are enough.

    Parameters
    ----------
    years
        From the first to the last visit of the run.
    """
    hop = min(config.max_hop, config.max_motion * years) / 3600.0
    return hop if hop > link_radius(config, fwhm) else 0.0


def halo_radius(config: SourceClusteringConfig, fwhm: float, years: float) -> float:
    """How far the halo of a cell must reach at least, degrees; parameters as of `hop_radius`."""
    return max(link_radius(config, fwhm), hop_radius(config, fwhm, years))


@stage(
    "sa.SourceClustering",
    needs=("rows", "own", "reason", "fwhm", "years"),
    adds=("group", "cluster", "merged"),
    config=SourceClusteringConfig,
    always=True,
)
def source_clustering(
    config: SourceClusteringConfig,
    *,
    rows: np.ndarray,
    own: np.ndarray,
    reason: np.ndarray,
    fwhm: float,
    years: float,
) -> Mapping[str, Any]:
    """Put good sources into groups of friends, and those of closed groups into objects.

    `group` and `cluster` (int64) are the lowest index of a source's group and of its object, -1 for
    none; `merged` (bool) tells sources that are the light of several objects.
    """
    good = np.flatnonzero(reason == b"")
    vectors = unit_vectors(rows["ra"][good], rows["dec"][good])
    labels = friends(vectors, link_radius(config, fwhm))
    members, starts = group_members(labels, closed(labels, own[good]))
    epochs, tracks = epochs_of(rows, good), _tracks(config, fwhm)
    facts = Facts(*(rows[name][good].astype(float) for name in ("fwhm", "psfFlux")))
    reach = config.reach * fwhm / ARCSEC
    found, joint = split_groups(members, starts, vectors, epochs, facts, reach, tracks)
    hop = hop_radius(config, fwhm, years)
    if hop > 0.0:
        step = Reach(hop, 0.5 * link_radius(config, fwhm))
        labels, found = join_far(labels, found, vectors, rows, good, epochs, step, tracks)
    group, cluster = np.full((2, len(rows)), -1)
    group[good] = good[labels]
    cluster[good] = np.where(found >= 0, good[found], -1)
    merged = np.zeros(len(rows), bool)
    merged[good] = joint
    return {"group": group, "cluster": cluster, "merged": merged}


def _tracks(config: SourceClusteringConfig, fwhm: float) -> TrackRules:
    return TrackRules(
        scatter=config.track_scatter * fwhm,
        ratio=config.track_ratio,
        near=0.75 * config.reach * fwhm,
        motion=config.max_motion,
    )


@njit(cache=True)
def closed(labels: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Whether all sources of a source's group are own ones."""
    whole = np.ones(len(labels), np.bool_)
    for i in range(len(labels)):
        if not own[i]:
            whole[labels[i]] = False
    return whole[labels]
