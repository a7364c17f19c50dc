"""From headers of single files to visits, snaps, CCDs and calibration sets."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mpipipe.data.camera import Camera, FileFormat
from mpipipe.data.errors import BadDataError
from mpipipe.data.inventory import CalibSet, FrameFiles, Inventory, Problem, VisitCcd
from mpipipe.store.identity import Identity, IdentityError, identify, identify_by_name

_KINDS = ("bias", "dark", "flat")


@dataclass(frozen=True)
class ScannedFile:
    """What scanning saw of one file.

    Attributes
    ----------
    path, size, changed
        Absolute path, bytes, time of change in nanoseconds.
    header
        The cards that were looked for; None if the header can not be read.
    fault
        Why the file or its header can not be read; None if all seems well.
    hdus
        Names of its HDUs, where the camera's files hold several CCDs.
    """

    path: str
    size: int
    changed: int
    header: dict[str, Any] | None
    fault: str | None = None
    hdus: tuple[str, ...] = ()


_Key = tuple[int, int, str]
"""(visit, snap, detector)"""


@dataclass
class _ReadOut:
    """The files of one read-out of one CCD; identity None where only a file's name tells."""

    members: list[tuple[str, ScannedFile, Identity | None]] = field(default_factory=list)

    @property
    def identity(self) -> Identity | None:
        return next((identity for _, _, identity in self.members if identity is not None), None)


def group(scanned: Iterable[ScannedFile], camera: Camera, n_cached: int = 0) -> Inventory:
    """Sort scanned files into an inventory.

    Parameters
    ----------
    scanned
        In any order.
    camera
        The camera of all of them.
    n_cached
        How many of them an index knew; passed on.
    """
    files = sorted(scanned, key=lambda file: file.path)
    problems: list[Problem] = []
    read_outs: dict[_Key, _ReadOut] = defaultdict(_ReadOut)
    for file in files:
        for key, channel, identity in _claims(file, camera, problems):
            read_outs[key].members.append((channel, file, identity))
    frames = {
        key: frame
        for key, read_out in read_outs.items()
        if (frame := _frame(key, read_out, camera, problems)) is not None
    }
    science = _science(frames, camera, problems)
    return Inventory(
        camera=camera,
        science=science,
        calibs=_calibs(frames, camera),
        problems=sorted(
            _merged(problems), key=lambda p: (p.file, p.visit, p.detector, p.snap, p.kind, p.reason)
        ),
        n_files=len(files),
        n_cached=n_cached,
    )


def _claims(
    file: ScannedFile, camera: Camera, problems: list[Problem]
) -> list[tuple[_Key, str, Identity | None]]:
    """The read-outs that a file belongs to, its channel, and its identity."""
    name = os.path.basename(file.path)
    if file.header is None:
        by_name = identify_by_name(name, camera)
        visit, snap, detector, channel = by_name or (-1, -1, "", "")
        problems.append(
            Problem(
                "unreadable",
                file.fault or "has no header",
                "copy it again from its source, or leave it out",
                file=file.path,
                visit=visit,
                snap=snap,
                detector=detector,
            )
        )
        # It stays in its read-out, whose task then ends as bad data that names it.
        return [] if by_name is None else [((visit, snap, detector), channel, None)]
    try:
        identity = identify(file.header, name, camera)
    except IdentityError as error:
        problems.append(_problem_of(error, file))
        return []
    if identity.kind == "ignore":
        return []
    if identity.visit is None:
        problems.append(
            Problem(
                "no visit",
                "neither header nor name tells the visit, or the start of the exposure",
                "set header.visit or file_names.pattern in the camera description",
                file=file.path,
            )
        )
        return []
    if not identity.band_is_known:
        problems.append(
            Problem(
                "unknown filter",
                f"filter {identity.band!r} is not in the camera's table; its name is kept",
                "add it to filters in the camera description",
                file=file.path,
                is_warning=True,
            )
        )
    detectors = [identity.detector] if identity.detector else _detectors_in(file, camera)
    keys = [(identity.visit, identity.snap, detector) for detector in detectors]
    if file.fault is not None:
        problems.append(
            Problem(
                "unreadable",
                file.fault,
                "copy it again from its source, or leave it out",
                file=file.path,
                visit=identity.visit,
                snap=identity.snap,
                detector=identity.detector,
            )
        )
    return [(key, identity.channel, identity) for key in keys]


def _problem_of(error: BadDataError, file: ScannedFile) -> Problem:
    kind: Any = getattr(error, "kind", "contradiction")
    return Problem(kind, error.reason, error.way_out or "", file=file.path, key=error.key or "")


def _detectors_in(file: ScannedFile, camera: Camera) -> list[str]:
    """The CCDs of a mosaic file: those whose HDUs it has; all if it is cut short."""
    if file.fault is not None:
        return [detector.name for detector in camera.detectors]
    there = {name.upper() for name in file.hdus}
    numbers = range(len(file.hdus))
    return [
        detector.name
        for detector in camera.detectors
        if detector.hdus
        and any(
            hdu in numbers if isinstance(hdu, int) else hdu.upper() in there
            for hdu in detector.hdus
        )
    ]


def _frame(
    key: _Key, read_out: _ReadOut, camera: Camera, problems: list[Problem]
) -> FrameFiles | None:
    """The files of a read-out in the order of channels; what is double or missing is noted."""
    visit, snap, detector = key
    identity = read_out.identity
    if identity is None:
        # Nothing but file names of unreadable files, which are problems already.
        return None
    order = [channel.name for channel in camera.type_of(detector).channels]
    rank = {name: index for index, name in enumerate(order)}
    members = sorted(read_out.members, key=lambda m: (rank.get(m[0], -1), m[1].path))
    seen: dict[str, str] = {}
    for channel, file, _ in members:
        if channel in seen:
            what = f"channel {channel}" if channel else f"CCD {detector}"
            problems.append(
                Problem(
                    "double",
                    f"a second file of {what}, besides {os.path.basename(seen[channel])}",
                    "take one of them away",
                    file=file.path,
                    visit=visit,
                    snap=snap,
                    detector=detector,
                )
            )
        seen.setdefault(channel, file.path)
    if camera.format is FileFormat.CHANNEL_FILES:
        lost = [name for name in order if name not in seen]
        if lost:
            problems.append(
                Problem(
                    "missing channel",
                    f"no file of channel {', '.join(lost)}",
                    "add the missing files",
                    visit=visit,
                    snap=snap,
                    detector=detector,
                )
            )
    return FrameFiles(
        visit=visit,
        snap=snap,
        detector=detector,
        kind=identity.kind,
        band=identity.band,
        paths=tuple(file.path for _, file, _ in members),
        channels=tuple(channel for channel, _, _ in members),
        exposure_time=identity.exposure_time,
        mjd_start=identity.mjd_start,
        n_bytes=sum(file.size for _, file, _ in members),
    )


def _science(
    frames: dict[_Key, FrameFiles], camera: Camera, problems: list[Problem]
) -> list[VisitCcd]:
    order = {detector.name: index for index, detector in enumerate(camera.detectors)}
    visits: dict[tuple[int, str], dict[int, FrameFiles]] = defaultdict(dict)
    for (visit, snap, detector), frame in frames.items():
        if frame.kind == "science":
            visits[visit, detector][snap] = frame
    science = []
    for (visit, detector), found in sorted(
        visits.items(), key=lambda item: (item[0][0], order[item[0][1]])
    ):
        snaps = dict(sorted(found.items()))
        for snap in range(camera.n_snaps):
            if snap not in snaps:
                problems.append(
                    Problem(
                        "missing snap",
                        f"no file of snap {snap}; the visit has snaps {list(snaps)}",
                        "add the missing files, or go on with the snaps there are",
                        visit=visit,
                        snap=snap,
                        detector=detector,
                        is_warning=True,
                    )
                )
        first = next(iter(snaps.values()))
        science.append(VisitCcd(visit, detector, first.band, snaps))
    return science


def _calibs(frames: dict[_Key, FrameFiles], camera: Camera) -> list[CalibSet]:
    order = {detector.name: index for index, detector in enumerate(camera.detectors)}
    sets: dict[tuple[str, str, str], list[FrameFiles]] = defaultdict(list)
    for key in sorted(frames):
        frame = frames[key]
        if frame.kind in _KINDS:
            sets[frame.kind, frame.band, frame.detector].append(frame)
    return [
        CalibSet(kind, detector, band, tuple(found))
        for (kind, band, detector), found in sorted(
            sets.items(), key=lambda item: (_KINDS.index(item[0][0]), item[0][1], order[item[0][2]])
        )
    ]


def _merged(problems: list[Problem]) -> list[Problem]:
    """Problems that are the same but for the file, told once."""
    first: dict[tuple[str, str, str], Problem] = {}
    count: dict[tuple[str, str, str], int] = defaultdict(int)
    single = []
    for problem in problems:
        if problem.visit >= 0 or problem.kind in ("unreadable", "contradiction"):
            single.append(problem)
            continue
        key = (problem.kind, problem.reason, problem.key)
        first.setdefault(key, problem)
        count[key] += 1
    return single + [
        problem
        if count[key] == 1
        else replace(problem, reason=f"{problem.reason} ({count[key]} files, this is the first)")
        for key, problem in first.items()
    ]
