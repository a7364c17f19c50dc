"""Groups of frames agree with the sky as well as their headers do in the mean."""

from __future__ import annotations

import numpy as np

from mpipipe.data.sky_vectors import unit_vectors
from mpipipe.stages.selfref.frame import Frame
from mpipipe.stages.selfref.mosaic import Mosaic, Place
from mpipipe.stages.selfref.sky_stars import MAS

_ROUNDS = 20
_LEAST_EXTENT = 0.01
"""Of a group for its headers to say how it is turned about its middle, radians."""
_LEAST_OFF = 10.0
"""Offsets below this weigh alike, mas."""


def towards_headers(mosaic: Mosaic) -> dict[int, np.ndarray]:
    """Rotation vector of each group, by which it agrees with its headers in the mean.

    Least absolute deviations by reweighting: a single header may be wrong by much.
    """
    turns: dict[int, np.ndarray] = {}
    groups = sorted({place.group for place in mosaic.places.values()})
    for group in groups:
        ours, theirs = [], []
        for number in sorted(mosaic.places):
            place, frame = mosaic.places[number], mosaic.frames[number]
            if place.group == group and frame.header is not None:
                centre = np.array(frame.centre).reshape(2, 1)
                ours.append(unit_vectors(*place.wcs.pixel_to_sky(*centre))[0])
                theirs.append(unit_vectors(*frame.header.pixel_to_sky(*centre))[0])
        turns[group] = _rotation(np.array(ours), np.array(theirs))
    return turns


def _rotation(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The small rotation vector that brings unit vectors to others."""
    turn = np.zeros(3)
    if not len(ours):
        return turn
    weight = np.ones(len(ours))
    for _ in range(_ROUNDS):
        tangential = np.eye(3) - ours[:, :, None] * ours[:, None, :]
        normal = (weight[:, None, None] * tangential).sum(axis=0)
        right = (weight[:, None] * np.cross(ours, theirs - ours)).sum(axis=0)
        turn = np.linalg.pinv(normal, rcond=_LEAST_EXTENT**2, hermitian=True) @ right
        off = np.linalg.norm(theirs - ours - np.cross(turn, ours), axis=1)
        weight = 1.0 / np.maximum(off, _LEAST_OFF * MAS)
    return np.asarray(turn)


def group_of_stars(mosaic: Mosaic) -> np.ndarray:
    """The group of each star; -1 of those that are given up."""
    group = np.full(len(mosaic.stars), -1)
    for number in sorted(mosaic.places, reverse=True):
        place = mosaic.places[number]
        group[place.star] = place.group
    return group


def turned(vectors: np.ndarray, turns: dict[int, np.ndarray], group: np.ndarray) -> np.ndarray:
    """Vectors after the rotation of the group that each belongs to."""
    all_turns = np.array([turns[number] for number in sorted(turns)] + [np.zeros(3)])
    return np.asarray(vectors + np.cross(all_turns[group], vectors))


def header_offset(frame: Frame, place: Place, turns: dict[int, np.ndarray]) -> float:
    """By how much a header is off at the CCD's centre, arcsec; NaN if there is none."""
    if frame.header is None:
        return float("nan")
    centre = np.array(frame.centre).reshape(2, 1)
    ours = turned(unit_vectors(*place.wcs.pixel_to_sky(*centre)), turns, np.array([place.group]))
    theirs = unit_vectors(*frame.header.pixel_to_sky(*centre))
    return float(np.linalg.norm(ours - theirs) / MAS / 1e3)
