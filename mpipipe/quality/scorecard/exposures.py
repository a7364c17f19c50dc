"""The CCD-visits of a run: what the headers of their products, and the run's outcomes, tell."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.camera import Camera
from mpipipe.data.errors import MpipipeError
from mpipipe.store.cards import Header
from mpipipe.store.heads import Head, read_head
from mpipipe.store.layout import RunLayout, safe_name

EXPOSURE = np.dtype(
    [
        ("visit", "i8"),
        ("ccd", "U32"),
        ("number", "i4"),
        ("band", "U16"),
        ("outcome", "U16"),
        ("has_image", "?"),
        ("mjd", "f8"),
        ("seconds", "f8"),
        ("airmass", "f8"),
        ("nx", "i4"),
        ("ny", "i4"),
        ("zero_point", "f8"),
        ("zero_point_error", "f8"),
        ("n_zero_point", "i4"),
        ("zero_point_is_relative", "?"),
        ("wcs_kind", "U16"),
        ("wcs_is_relative", "?"),
    ]
)
"""Of a CCD-visit; NaN, 0 or empty for what is not known. `number` is the CCD's in the camera, -1 if
unknown; `outcome` how its task ended; `mjd` the start of the first snap."""

MOST_AIRMASS = 10.0
"""Nobody observes nearer to the horizon; headers that say so are wrong."""

_READERS = 8


def read_exposures(
    layout: RunLayout, camera: Camera | None
) -> tuple[np.ndarray, dict[tuple[int, str], str], list[str]]:
    """All CCD-visits that the run was to make or has made, by visit and CCD.

    Returns
    -------
    exposures
        Of dtype `EXPOSURE`.
    reasons
        Why those that did not end well did not.
    problems
        What could not be read, in words.
    """
    problems: list[str] = []
    numbers = {} if camera is None else {d.name: d.number for d in camera.detectors}
    tasks = {(t["visit"], t["ccd"]): t for t in _tasks(layout, problems)}
    # Files have names that are safe; tasks, or else the camera, tell the CCD's own.
    own = {safe_name(name): name for name in numbers}
    of_file = {(visit, safe_name(ccd)): (visit, ccd) for visit, ccd in tasks}
    found = {
        of_file.get((visit, ccd), (visit, own.get(ccd, ccd))): path
        for (visit, ccd), path in layout.images("calexp").items()
    }
    keys = sorted(tasks.keys() | found.keys())
    rows = np.zeros(len(keys), EXPOSURE)
    for name in ("mjd", "seconds", "airmass", "zero_point", "zero_point_error"):
        rows[name] = np.nan
    paths = [found.get(key) or layout.image("calexp", *key) for key in keys]
    with ThreadPoolExecutor(_READERS) as pool:
        heads = list(pool.map(_head, paths))
    odd: list[float] = []
    for row, key, head in zip(rows, keys, heads, strict=True):
        task = tasks.get(key, {})
        row["visit"], row["ccd"] = key
        row["number"] = numbers.get(key[1], -1)
        row["outcome"] = task.get("outcome", "unknown")
        row["band"] = str(task.get("what", "")).rpartition(" ")[2] if task else ""
        if isinstance(head, Head):
            _fill(row, *head)
        elif row["outcome"] in ("done", "partial", "unknown"):
            problems.append(head)
        if not 1.0 <= row["airmass"] <= MOST_AIRMASS and np.isfinite(row["airmass"]):
            odd.append(float(row["airmass"]))
            row["airmass"] = np.nan
    if odd:
        problems.append(
            f"{len(odd)} CCD-visits tell an airmass that can not be, such as {odd[0]:.4g}: not used"
        )
    reasons = {
        key: "; ".join(filter(None, [str(task["reason"]), *map(str, task["warnings"])]))
        for key, task in tasks.items()
        if task["reason"] or task["warnings"]
    }
    return rows, reasons, problems


def _tasks(layout: RunLayout, problems: list[str]) -> list[dict[str, Any]]:
    """The tasks of visits, as the run's outcomes have them."""
    try:
        tasks = json.loads(layout.outcomes.read_text(encoding="utf-8"))["tasks"]
        known = [
            {
                "visit": int(task["visit"]),
                "ccd": str(task["ccd"]),
                "outcome": str(task["outcome"]),
                "what": str(task["what"]),
                "reason": str(task.get("reason", "")),
                "warnings": list(task.get("warnings", [])),
            }
            for task in tasks
            if task["phase"] == "calibrate"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        problems.append(f"outcomes.json {why}: how tasks ended is not known")
        return []
    return known


def _head(path: Path) -> Head | str:
    """What a calexp tells, or why there is nothing."""
    try:
        return read_head(path)
    except MpipipeError as error:
        told = f"can not be read: {error.reason}" if path.exists() else "is missing"
        return f"{path.name} {told}"


def _fill(row: np.void, head: Header, shape: tuple[int, ...]) -> None:
    row["has_image"] = len(shape) == 2
    if len(shape) == 2:
        row["ny"], row["nx"] = shape
    row["band"] = str(head.get("FILTER", row["band"]))
    for name, key in (
        ("mjd", "MJD-OBS"),
        ("seconds", "EXPTIME"),
        ("airmass", "AIRMASS"),
        ("zero_point", "MAGZERO"),
        ("zero_point_error", "MAGZERR"),
    ):
        row[name] = _number(head.get(key))
    stars = _number(head.get("MAGNSTAR"))
    row["n_zero_point"] = int(stars) if math.isfinite(stars) else 0
    row["zero_point_is_relative"] = head.get("MAGREL") is True
    row["wcs_kind"] = str(head.get("WCSKIND", "none"))
    row["wcs_is_relative"] = head.get("WCSREL") is True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value)
