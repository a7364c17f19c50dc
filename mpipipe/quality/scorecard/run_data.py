"""What metrics are made of: the published products of a run, read when they are asked for.

Tables are read column by column in chunks, and of large ones a sample that their content chooses is
kept, so that memory is bounded however large the run is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

import numpy as np

from mpipipe.data.camera import Camera
from mpipipe.data.errors import MpipipeError
from mpipipe.quality.scorecard.exposures import read_exposures
from mpipipe.quality.scorecard.measured import CONTRIBUTION, NotGiven, NotMeasurable
from mpipipe.quality.scorecard.repeats import Keep, Repeats, read_repeats
from mpipipe.quality.scorecard.truth import TruthOf
from mpipipe.store.catalogue import chunks
from mpipipe.store.checksums import read_json, sha256_file
from mpipipe.store.hdf5 import OpenCatalogue, opened_catalogue
from mpipipe.store.layout import RunLayout

Columns = dict[str, np.ndarray]
_Found = TypeVar("_Found")

MOST_ROWS = 4_000_000
"""Of a table in memory; of more those of every n-th CCD-visit are kept."""

MOST_CHECKED = 1 << 30
"""Bytes up to which a table is compared with its checksum; a larger one by its size alone."""

SDQA = (
    "ca.amp_offset.median", "ca.sky.noise", "ca.sky.noise_expected",
    "cs.crSplitCombine.n_cr", "cs.diffim.flux_ratio", "cs.diffim.noise_ratio",
    "cs.diffim.star_pull", "cs.diffim.star_residual", "cs.output.background",
    "ic.psfDetermination.ellipticity", "ic.psfDetermination.fwhm",
    "ic.psfDetermination.n_used", "ic.psfDetermination.validation_dT_mean",
    "ic.psfDetermination.validation_dT_rms", "ic.psfDetermination.validation_de_rms",
    "ic.wcsDetermination.pixel_scale", "ic.wcsDetermination.n_used", "ic.wcsVerification.rms",
    "sfm.sourceDetection.map_width", "sfm.sourceDetection.n_negative",
    "sfm.sourceDetection.n_sources",
    "isr.overscan.level", "isr.read_noise",
    "calibs.bias.structure", "calibs.read_noise",
)  # fmt: skip
"""Numbers of the stages that metrics use; a metric that needs another one adds it here."""


class RunData:
    """The products of one run; a context manager, as tables stay open.

    Attributes
    ----------
    layout
        Its folder.
    problems
        What could not be read, in words; grows while metrics are made.
    truth
        Gives what a visit and CCD truly saw; None without truth.
    """

    def __init__(self, layout: RunLayout, truth: TruthOf | None = None) -> None:
        self.layout = layout
        self.truth = truth
        self.problems: list[str] = []
        self._remembered: dict[tuple[object, ...], object] = {}
        self._open: dict[str, OpenCatalogue] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.clear()
        self._stack.close()

    def remember(self, key: tuple[object, ...], make: Callable[[], _Found]) -> _Found:
        """What `make` gave when this key was asked for first: for what several metrics need."""
        if key not in self._remembered:
            self._remembered[key] = make()
        found: _Found = self._remembered[key]  # type: ignore[assignment]
        return found

    @cached_property
    def camera(self) -> Camera | None:
        """The camera as the run used it; None, with a problem noted, if that is not readable."""
        try:
            return Camera.model_validate_json(self.layout.camera.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
            self.problems.append(f"camera.json {why}: places of CCDs are not known")
            return None

    @cached_property
    def _exposures(self) -> tuple[np.ndarray, dict[tuple[int, str], str]]:
        rows, reasons, problems = read_exposures(self.layout, self.camera)
        self.problems += problems
        return rows, reasons

    @property
    def exposures(self) -> np.ndarray:
        """All CCD-visits, by visit and CCD; see `EXPOSURE`."""
        return self._exposures[0]

    def require_headers(self) -> None:
        """Go on only where headers of calexps tell of zero points, WCS, and the size of images.

        Raises
        ------
        NotMeasurable
            If there is none.
        """
        if not self.exposures["has_image"].any():
            raise NotMeasurable("the run has no calexp that can be read: its header would tell")

    @property
    def has_wcs(self) -> np.ndarray:
        """Which of `exposures` have a WCS found on stars."""
        return np.isin(self.exposures["wcs_kind"], ("sip", "affine", "shift"))

    @property
    def reasons(self) -> dict[tuple[int, str], str]:
        """What is wrong with CCD-visits that did not end well."""
        return self._exposures[1]

    # -- tables ------------------------------------------------------------------------------------

    def table(self, name: str, columns: Sequence[str]) -> Columns:
        """Columns of a published table; of a large one those of every n-th CCD-visit.

        Raises
        ------
        NotMeasurable
            If there is no such table, or it can not be read.
        """
        key = ("table", name, tuple(columns))
        return self.remember(key, lambda: self.read(name, columns))

    def read(
        self,
        name: str,
        columns: Sequence[str],
        keep: Keep | None = None,
        later: Mapping[str, object] = MappingProxyType({}),
    ) -> Columns:
        """Columns of a published table, those rows that are to be kept, chunk by chunk.

        Parameters
        ----------
        keep
            Gives which rows of a chunk.
        later
            Columns that older tables lack, and the value they have there.

        Raises
        ------
        NotMeasurable
            If there is no such table, or it can not be read.
        """
        try:
            catalogue = self._catalogue(name)
            there = [name for name in columns if name in catalogue.names or name not in later]
            schema = catalogue.select(there)
            every = -(-catalogue.n_rows // MOST_ROWS)
            parts: dict[str, list[np.ndarray]] = {column: [] for column in there}
            for chunk in chunks(catalogue, schema):
                chosen = sampled(chunk, every) if keep is None else keep(chunk)
                for column, values in chunk.items():
                    parts[column].append(values[chosen])
            empty = schema.empty()
        except MpipipeError as error:
            raise NotMeasurable(f"table {name} can not be read: {error.reason}") from error
        read = {
            column: np.concatenate(found) if found else empty[column]
            for column, found in parts.items()
        }
        n = len(read[there[0]])
        return {name: read[name] if name in read else np.full(n, later[name]) for name in columns}

    def _catalogue(self, name: str) -> OpenCatalogue:
        """A table, opened once: finding its columns takes longer than reading some."""
        if name not in self._open:
            path = self.layout.catalogues().get(name)
            if path is None:
                raise NotMeasurable(f"the run has no table {name}")
            self._refuse_altered(path)
            self._open[name] = self._stack.enter_context(opened_catalogue(path))
        return self._open[name]

    def _refuse_altered(self, path: Path) -> None:
        """Refuse a table that is not as the run published it: numbers of it would say nothing, and
        libhdf5 may crash on damaged files."""
        known = self._published.get(self.layout.relative(path))
        if known is None:
            return
        size, checksum = known
        try:
            same = path.stat().st_size == size
            if same and size <= MOST_CHECKED:
                same = sha256_file(path) == checksum
        except OSError as error:
            raise NotMeasurable(f"table {path.stem} can not be read: {error.strerror}") from error
        if not same:
            raise NotMeasurable(
                f"table {path.stem} is not as the run published it (mpipipe verify tells more)"
            )

    @cached_property
    def _published(self) -> dict[str, tuple[int, str]]:
        """Sizes and checksums of the tables in the completion record; empty without one."""
        try:
            products = read_json(self.layout.completion)["products"]
            return {
                str(path): (int(size), str(checksum))
                for kind, path, size, checksum in products
                if kind == "catalogue"
            }
        except (MpipipeError, OSError, ValueError, KeyError, TypeError):
            self.problems.append("the run has no completion record: its tables are not verified")
            return {}

    def n_rows(self, name: str) -> int:
        """Rows of a published table.

        Raises
        ------
        NotMeasurable
            If there is no such table, or it can not be read.
        """
        try:
            return self._catalogue(name).n_rows
        except MpipipeError as error:
            raise NotMeasurable(f"table {name} can not be read: {error.reason}") from error

    @cached_property
    def repeats(self) -> Repeats:
        """The measurements of objects that were seen.

        Raises
        ------
        NotMeasurable
            If the run has no objects.
        """
        return read_repeats(self.read)

    def at_exposures(self, visit: np.ndarray, number: np.ndarray) -> np.ndarray:
        """For rows of a table the place in `exposures` of their CCD-visit; -1 for none.

        Raises
        ------
        NotMeasurable
            If numbers of CCDs are not known.
        """
        if self.camera is None:
            raise NotMeasurable("camera.json can not be read: which CCD a row is of is not known")
        keys = self.exposures["visit"] * 1024 + self.exposures["number"]
        order = np.argsort(keys, kind="stable")
        wanted = np.asarray(visit, np.int64) * 1024 + np.asarray(number, np.int64)
        if not len(keys):
            return np.full(len(wanted), -1)
        place = np.clip(np.searchsorted(keys[order], wanted), 0, len(keys) - 1)
        return np.where(keys[order][place] == wanted, order[place], -1)

    # -- what stages measured ----------------------------------------------------------------------

    @cached_property
    def _sdqa(self) -> Mapping[str, Columns]:
        wanted = np.sort(np.array([name.encode() for name in SDQA], "S64"))
        rows = self.read(
            "sdqa",
            ("visit", "ccd", "band", "snap", "channel", "metric", "value"),
            lambda chunk: np.isin(chunk["metric"], wanted),
        )
        order = np.argsort(rows["metric"], kind="stable")
        names = rows["metric"][order]
        found = {}
        for name in SDQA:
            low, high = (
                np.searchsorted(names, [name.encode()], "left")[0],
                np.searchsorted(names, [name.encode()], "right")[0],
            )
            found[name] = {column: values[order[low:high]] for column, values in rows.items()}
        return found

    def stage_numbers(self, name: str) -> Columns:
        """Rows of `sdqa` of one name, with `exposure`, their places in `exposures` (-1: none).

        Raises
        ------
        NotMeasurable
            If the table is missing.
        NotGiven
            If it has none of them.
        """
        rows = self._sdqa[name]
        if not len(rows["value"]):
            raise NotGiven(f"no stage of the run gave {name}")
        of_ccd = np.zeros(len(rows["visit"]), [("visit", "i8"), ("ccd", "S32")])
        of_ccd["visit"], of_ccd["ccd"] = rows["visit"], rows["ccd"]
        pairs, inverse = np.unique(of_ccd, return_inverse=True)
        known = {
            (visit, ccd): k
            for k, (visit, ccd) in enumerate(
                zip(self.exposures["visit"].tolist(), self.exposures["ccd"].tolist(), strict=True)
            )
        }
        places = np.array(
            [known.get((int(p["visit"]), p["ccd"].decode("utf-8", "replace")), -1) for p in pairs],
            np.int64,
        )
        return {**rows, "exposure": places[inverse]}

    def by_exposure(self, name: str) -> np.ndarray:
        """A number of the stages for each of `exposures`, mean over snaps; NaN without.

        Raises
        ------
        NotMeasurable
            If no CCD-visit has it.
        """
        rows = self.stage_numbers(name)
        known = (rows["exposure"] >= 0) & np.isfinite(rows["value"])
        places, values = rows["exposure"][known], rows["value"][known]
        n = len(self.exposures)
        total, counts = np.bincount(places, values, n), np.bincount(places, minlength=n)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(counts > 0, total / counts, np.nan))

    def contributions(self, values: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Numbers, one for each of `exposures`, as contributions; without those that are NaN."""
        rows = np.zeros(len(self.exposures), CONTRIBUTION)
        rows["visit"], rows["ccd"] = self.exposures["visit"], self.exposures["ccd"]
        rows["value"] = values
        rows["n"] = 1 if counts is None else counts
        return rows[np.isfinite(rows["value"])]

    @property
    def bands(self) -> list[str]:
        """Bands of the CCD-visits, in the order of u g r i z y, others behind."""
        known = {str(band) for band in np.unique(self.exposures["band"]) if band}
        return sorted(known, key=band_order)


def sampled(chunk: Columns, every: int) -> np.ndarray:
    """Rows of every n-th CCD-visit, by a mixture of the bits of its name (Knuth's hash)."""
    n = len(next(iter(chunk.values())))
    if every <= 1 or "visit" not in chunk:
        return np.ones(n, bool)
    number = chunk.get("ccdNumber", np.zeros(1, np.int16)).astype(np.uint64)
    mixed = (chunk["visit"].astype(np.uint64) * np.uint64(1024) + number) * np.uint64(
        11400714819323198485
    )
    return np.asarray((mixed >> np.uint64(32)) % np.uint64(every) == 0)


def band_order(band: str) -> tuple[int, str]:
    """By which bands are sorted: from blue to red, then by name."""
    place = "ugrizy".find(band) if len(band) == 1 else -1
    return (place if place >= 0 else 99, band)
