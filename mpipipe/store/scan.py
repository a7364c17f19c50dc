"""Scanning a folder of raw files by their headers, with an index that remembers them.

Only headers are read, and of each only what says what the file is. One bad file never stops a
scan: it becomes a `Problem` of the inventory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError, ConfigError, MissingInputError, OutputError
from mpipipe.data.inventory import Inventory
from mpipipe.store.cameras import (
    builtin_cameras,
    load_camera,
    matching_cameras,
    recognise_camera,
    recognition_keys,
)
from mpipipe.store.fits import write_bytes_atomically
from mpipipe.store.fitsfile import FitsFile, select_cards
from mpipipe.store.grouping import ScannedFile, group
from mpipipe.store.identity import identity_keys
from mpipipe.store.layout import RunLayout

_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz", ".fz")
SKIP_MARK = ".mpipipe-skip"
"""A file of this name keeps its folder, and what is below it, out of every scan."""
_INDEX_VERSION = 1
_RECOGNITION_SAMPLE = 20


def scan(
    source: str | Path | Iterable[str | Path],
    camera: Camera | None = None,
    index: Path | None = None,
) -> Inventory:
    """Find out what a folder (with its subfolders) or a list of raw files holds.

    Parameters
    ----------
    source
        A folder, of which is left out: hidden files, what is not named like FITS, folders that
        hold a file `SKIP_MARK`, and those in it that runs have filled. Or files.
    camera
        The camera; None: recognised by the headers.
    index
        Folder for the index; files whose path, size and time of change are known to it are not
        opened again. None: no index.

    Returns
    -------
    Inventory
        The same for the same files, in whatever order the file system gives them.

    Raises
    ------
    MissingInputError
        If there is no such folder, or no FITS file in it.
    ConfigError
        If the camera can not be recognised.
    """
    files = find_raw_files(source)
    if not files:
        raise MissingInputError(
            "there is no FITS file",
            file=source if isinstance(source, (str, Path)) else None,
            way_out="give a folder of raw frames (*.fits, *.fits.gz, *.fits.fz)",
        )
    if camera is None:
        camera = _recognised(files)
    keys = identity_keys(camera)
    with_hdus = any(detector.hdus for detector in camera.detectors)
    known = _Index(index, keys, with_hdus)
    scanned = [known.lookup(path) or known.add(_read(path, keys, with_hdus)) for path in files]
    known.save()
    return group(scanned, camera, n_cached=known.n_hits)


def find_raw_files(source: str | Path | Iterable[str | Path]) -> list[str]:
    """Absolute paths of the raw files in a folder, or of the files given; sorted.

    Raises
    ------
    MissingInputError
        If the folder does not exist or can not be read.
    """
    if not isinstance(source, (str, Path)):
        return sorted({os.path.abspath(path) for path in source})
    top = os.path.abspath(source)
    if os.path.isfile(top):
        return [top]
    found: list[str] = []
    folders = [top]
    # Links are followed, but a link back to a parent would never end.
    seen: set[tuple[int, int]] = set()
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if os.path.lexists(os.path.join(folder, SKIP_MARK)):
                continue
            if folder != top and _is_run(folder):
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif entry.name.lower().endswith(_SUFFIXES):
                        found.append(entry.path)
        except OSError as error:
            if folder == top:
                raise MissingInputError(
                    f"the folder can not be read: {error.strerror}",
                    file=top,
                    way_out="give a folder of raw frames",
                ) from error
    return sorted(found)


def _is_run(folder: str) -> bool:
    """Whether a folder was filled by a run: its images are no raw files."""
    return RunLayout.at(folder).plan.exists()


def _read(path: str, keys: Sequence[str], with_hdus: bool) -> ScannedFile:
    try:
        status = os.stat(path)
    except OSError as error:
        return ScannedFile(path, 0, 0, None, f"can not be read: {error.strerror}")
    size, changed = status.st_size, status.st_mtime_ns
    try:
        with FitsFile(path, headers_only=not with_hdus, incomplete=True) as file:
            names = tuple(str(hdu.name) for hdu in file.hdus) if with_hdus else ()
            header = select_cards(file.hdus, keys)
            return ScannedFile(path, size, changed, header, file.truncated, names)
    except BadDataError as error:
        return ScannedFile(path, size, changed, None, error.reason)


def camera_of(files: Sequence[str], most_files: int = 500) -> tuple[Camera, str]:
    """The built-in camera of files, and in words by what it was recognised.

    Parameters
    ----------
    most_files
        So many are looked at; of more, a sample.

    Raises
    ------
    ConfigError
        If it can not be told: no camera or several match, with the names that could be given.
    """
    keys = recognition_keys()
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    headers = {}
    for path in files[:: max(1, -(-len(files) // most_files))]:
        if (header := _read(path, keys, False).header) is None:
            continue
        headers[path] = header
        if matches := matching_cameras(header):
            found.setdefault(tuple(matches), (path, next(iter(matches.values()))))
    if len(found) > 1:
        listed = ", ".join(f"{n[0]} ({os.path.basename(p)}: {w})" for n, (p, w) in found.items())
        raise ConfigError(
            f"files of several cameras: {listed}",
            way_out="process those of each camera by themselves, or name one with --camera",
        )
    if not found:
        raise _unknown_camera(files[0], next(iter(headers.items()), None))
    ((names, (path, why)),) = found.items()
    if len(names) > 1:
        raise ConfigError(
            f"may be of any of these cameras: {', '.join(names)}, for {why}",
            file=path,
            way_out="name the right one with --camera",
        )
    return load_camera(names[0]), why


def _unknown_camera(first: str, seen: tuple[str, dict[str, Any]] | None) -> ConfigError:
    """That no camera is recognised, and what could be done."""
    if seen is None:
        return ConfigError("no FITS header can be read", file=first, way_out="give FITS files")
    path, header = seen
    known = {key: header[key] for key in recognition_keys() if header.get(key) is not None}
    told = [f"{key} is {value!r}" for key, value in known.items()]
    listed = "; ".join(told) or f"it has none of {', '.join(recognition_keys())}"
    return ConfigError(
        f"no built-in camera is recognised by its header: {listed}",
        file=path,
        way_out=f"name one with --camera: {', '.join(builtin_cameras())} (generic: a raw image of "
        "one amplifier; calibrated-generic: one that is reduced already), or a TOML file",
    )


def _recognised(files: list[str]) -> Camera:
    keys = recognition_keys()
    step = max(1, len(files) // _RECOGNITION_SAMPLE)
    names: dict[str, str] = {}
    for path in files[::step]:
        header = _read(path, keys, False).header
        name = None if header is None else recognise_camera(header)
        if name is not None:
            names.setdefault(name, path)
    if len(names) == 1:
        return load_camera(next(iter(names)))
    if names:
        listed = ", ".join(f"{name} ({Path(path).name})" for name, path in sorted(names.items()))
        raise ConfigError(
            f"files of several cameras: {listed}",
            way_out="name one with --camera, or sort the files into folders",
        )
    raise ConfigError(
        "no built-in camera is recognised by the headers",
        file=os.path.dirname(files[0]),
        way_out="name one with --camera: a built-in one (mpipipe camera list) or a TOML file",
    )


class _Index:
    """Headers that were read before, by path, size and time of change."""

    def __init__(self, folder: Path | None, keys: Sequence[str], with_hdus: bool) -> None:
        digest = hashlib.sha256(repr((_INDEX_VERSION, keys, with_hdus)).encode()).hexdigest()
        self._file = None if folder is None else Path(folder) / f"headers-{digest[:16]}.jsonl"
        self._old: dict[str, list[Any]] = {}
        self._all: list[ScannedFile] = []
        self.n_hits = 0
        if self._file is not None:
            self._load(self._file)

    def lookup(self, path: str) -> ScannedFile | None:
        """What is known of a file, if it has not changed since."""
        entry = self._old.get(path)
        if entry is None:
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        if entry[:2] != [status.st_size, status.st_mtime_ns]:
            return None
        self.n_hits += 1
        known = ScannedFile(path, entry[0], entry[1], entry[2], entry[3], tuple(entry[4]))
        self._all.append(known)
        return known

    def add(self, scanned: ScannedFile) -> ScannedFile:
        """Remember a file that was read."""
        self._all.append(scanned)
        return scanned

    def save(self) -> None:
        """Write the index, if anything is new; it is a cache, so failing to is no error."""
        if self._file is None or self.n_hits == len(self._all) == len(self._old):
            return
        lines = (
            json.dumps([f.path, f.size, f.changed, f.header, f.fault, f.hdus]) for f in self._all
        )
        try:
            write_bytes_atomically(self._file, ("\n".join(lines) + "\n").encode())
        except OutputError:
            return

    def _load(self, file: Path) -> None:
        try:
            for line in file.read_text(encoding="utf-8").splitlines():
                path, *entry = json.loads(line)
                if isinstance(path, str) and len(entry) == 5:
                    self._old[path] = entry
        except (OSError, ValueError, TypeError):
            # A damaged index is as good as none.
            self._old = {}
