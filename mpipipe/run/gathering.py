"""From the records of all visits to one file a sky cell: the gather of the association.

Every rank reads an equal share of the records, whoever wrote them, tells the others where on the
sky their sources are, and comes to the same cells. Then rows go to the rank that looks after their
cell (`parallel.exchange`), which writes its files. When a rank is lost the others do all of this
again, but for the files that the survivors have finished.

Bottlenecks: every record is read twice, once to count; each rank holds how many sources there are
in every pixel of order 11 of the whole survey (16 bytes each).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpipipe.data.association import SOURCE
from mpipipe.data.errors import OutputError
from mpipipe.data.outcome import OutcomeKind
from mpipipe.data.refcat import DAYS_PER_YEAR
from mpipipe.data.sky_cells import (
    NOWHERE,
    SMALLEST_CELL,
    SkyCells,
    choose_cells,
    finest_cells,
    parents,
)
from mpipipe.parallel.exchange import Batch, exchange
from mpipipe.parallel.together import all_or_none
from mpipipe.parallel.world import World
from mpipipe.run.context import RunContext
from mpipipe.run.ledger import Ledger
from mpipipe.run.sky_plan import SOURCES, SkyPlan
from mpipipe.stages.sa.source_clustering import SourceClusteringConfig, halo_radius
from mpipipe.stages.sa.tracks import MIN_SOURCES
from mpipipe.store.cell_rows import TRAVELLING, CellRowsWriter
from mpipipe.store.columns import decode_columns, encode_columns

_FACTS = np.dtype([("cell", "<i8"), ("n_own", "<i8"), ("n_halo", "<i8"), ("digest", "S64")])
_AT_ONCE = 1 << 20
"""Rows that are counted together, at least."""
_DEFAULT_FWHM = 1.0
"""Arcsec, for a run whose sources have no position at all."""


@dataclass(frozen=True, eq=False)
class _Found:
    """What all sources of a run say together.

    Attributes
    ----------
    pixels, counts
        Pixels of order `SMALLEST_CELL` that hold sources, ascending, and how many.
    n_rows
        All sources, also those without a position.
    fwhm
        Median of the exposures' PSFs, arcsec.
    years
        From the first to the last visit; 0 where there are too few for anything to be seen moving.
    """

    pixels: np.ndarray
    counts: np.ndarray
    n_rows: int
    fwhm: float
    years: float
    bands: tuple[str, ...]


class Gathering:
    """Brings the sources of a run into files by sky cell; what it has done stays when repeated.

    Parameters
    ----------
    ledger
        The records of the visits, which must not change any more.
    incarnation
        Keeps files that are being written apart from those of others.
    look
        Called for every record: gives a sign of life.
    """

    def __init__(
        self,
        world: World,
        ledger: Ledger,
        context: RunContext,
        incarnation: int,
        look: Callable[[], object],
    ) -> None:
        self._world, self._ledger, self._context = world, ledger, context
        self._incarnation, self._look = incarnation, look
        self._finished: dict[int, np.void] = {}

    def run(self) -> SkyPlan:
        """Do it. Collective; every rank gets the same answer.

        Raises
        ------
        RankLostError
            If a rank is lost: call it again, within a step.
        MpipipeError
            On every rank, if files can not be written or records not be read.
        """
        found = self._count()
        config = self._context.config.associate
        cells = choose_cells(found.pixels, found.counts, config.max_rows)
        halo = halo_for(self._context, found.fwhm, found.years)
        facts = self._exchange(cells, halo, found)
        if (n_own := int(facts["n_own"].sum())) != found.n_rows:
            raise OutputError(
                f"{found.n_rows} sources were sent to their cells, {n_own} came",
                file=self._context.layout.cells.parent,
                way_out="see that nobody else works on the run, then resume",
            )
        return SkyPlan(
            cells,
            facts["n_own"],
            facts["n_halo"],
            facts["digest"],
            found.fwhm,
            found.years,
            halo,
            config.max_rows,
            found.bands,
            sources_digest(self._ledger),
        )

    # -- counting --------------------------------------------------------------------------------

    def _tables(self) -> Iterator[np.ndarray]:
        """The rows of this rank's share of the visits."""
        ids = _with_sources(self._ledger)[self._world.rank :: self._world.size]
        for task_id in ids.tolist():
            self._look()
            yield self._ledger.tables(task_id).get("source", SOURCE.empty())

    def _count(self) -> _Found:
        with all_or_none(self._world):
            mine = encode_columns(self._count_own())
        everyones = [decode_columns(raw)[0] for raw in self._world.allgather(mine)]
        together = {name: np.concatenate([one[name] for one in everyones]) for name in everyones[0]}
        pixels, counts = _sum_up(together["pixels"], together["counts"])
        n_rows = int(together["n_rows"].sum())
        times = together["mjd"][np.isfinite(together["mjd"])]
        n_visits = len(np.unique(together["visit"]))
        years = float(np.ptp(times)) / DAYS_PER_YEAR if n_visits >= MIN_SOURCES else 0.0
        known = together["fwhm"][np.isfinite(together["fwhm"])]
        median = float(np.median(known)) if len(known) else _DEFAULT_FWHM
        return _Found(
            pixels, counts, n_rows, median, years, self._in_order(set(together["bands"].tolist()))
        )

    def _count_own(self) -> dict[str, np.ndarray]:
        """What this rank's share says: pixels and counts, FWHM and time of each exposure, bands."""
        pixels, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        fwhm: list[float] = []
        mjd: list[float] = []
        visits: list[int] = []
        n_rows = n_waiting = 0
        waiting: list[np.ndarray] = []
        bands: set[bytes] = set()
        for rows in self._tables():
            finest = finest_cells(rows["ra"], rows["dec"])
            waiting.append(parents(finest[finest != NOWHERE], SMALLEST_CELL))
            n_rows += len(rows)
            n_waiting += len(waiting[-1])
            if n_waiting > max(len(pixels), _AT_ONCE):
                pixels, counts = _sum_up_more(pixels, counts, waiting)
                waiting, n_waiting = [], 0
            if len(rows):
                visits.append(int(rows["visit"][0]))
                fwhm.append(float(rows["fwhm"][0]))
                mjd.append(float(rows["mjd"][0]))
                bands.add(bytes(rows["band"][0]))
        pixels, counts = _sum_up_more(pixels, counts, waiting)
        return {
            "pixels": pixels,
            "counts": counts,
            "fwhm": np.array(fwhm, dtype=np.float64),
            "mjd": np.array(mjd, dtype=np.float64),
            "visit": np.array(visits, dtype=np.int64),
            "n_rows": np.array([n_rows], dtype=np.int64),
            "bands": np.array(sorted(bands), dtype="S16"),
        }

    def _in_order(self, bands: set[bytes]) -> tuple[str, ...]:
        """The camera's bands that occur, in its order, then others."""
        found = {band.decode() for band in bands}
        order = dict.fromkeys(self._context.camera.filters.values())
        known = [band for band in order if band in found]
        return (*known, *sorted(found - set(known)))

    # -- exchange --------------------------------------------------------------------------------

    def _exchange(self, cells: SkyCells, halo: float, found: _Found) -> np.ndarray:
        """Fill the files of the cells; the facts of each, `_FACTS`."""
        world, layout = self._world, self._context.layout
        n_files = len(cells) + 1
        finished = self._gathered()
        open_ones = np.setdiff1d(np.arange(n_files), finished["cell"])
        rank_of = np.full(n_files, NOWHERE)
        rank_of[open_ones] = np.arange(len(open_ones)) % world.size
        mine = np.flatnonzero(rank_of == world.rank).tolist()
        buffer = int(self._context.config.associate.round_memory * 1e6)
        # What a cell gives follows from these, too.
        facts = {"fwhm": found.fwhm, "years": found.years, "bands": found.bands, "halo": halo}
        with all_or_none(world):
            files = {n: layout.cell_rows(cells.name(n)) for n in mine}
            writer = CellRowsWriter(files, buffer, facts, str(self._incarnation))
        exchange(world, self._batches(cells, halo, rank_of), writer.add, TRAVELLING, buffer)
        with all_or_none(world):
            for number in mine:
                self._look()
                self._finished[number] = np.array([(number, *writer.finish(number))], _FACTS)[0]
        return self._gathered()

    def _batches(self, cells: SkyCells, radius_deg: float, rank_of: np.ndarray) -> Iterator[Batch]:
        """The rows of this rank's share with their cells, for the ranks that look after those."""
        for rows in self._tables():
            finest = finest_cells(rows["ra"], rows["dec"])
            owners = np.where(finest == NOWHERE, len(cells), cells.owners(finest))
            placed = np.flatnonzero(finest != NOWHERE)
            place, around = cells.halos(finest[placed], radius_deg)
            travelling = np.empty(len(rows) + len(place), dtype=TRAVELLING)
            travelling["cell"] = np.concatenate([owners, around])
            travelling["own"] = np.arange(len(travelling)) < len(rows)
            travelling["row"] = np.concatenate([rows, rows[placed[place]]])
            ranks = rank_of[travelling["cell"]]
            wanted = ranks != NOWHERE
            yield travelling[wanted], ranks[wanted]

    def _gathered(self) -> np.ndarray:
        """What all ranks have finished, by cell. Collective."""
        mine = np.array(list(self._finished.values()), dtype=_FACTS)
        found = np.concatenate(
            [np.frombuffer(raw, dtype=_FACTS) for raw in self._world.allgather(mine.tobytes())]
        )
        return found[np.argsort(found["cell"])]


def halo_for(context: RunContext, fwhm: float, years: float) -> float:
    """How far halos reach, degrees; `fwhm` and `years` as in `SkyPlan`."""
    config = context.stage_configs["sa.SourceClustering"]
    assert isinstance(config, SourceClusteringConfig)
    return halo_radius(config, fwhm, years)


def sources_digest(ledger: Ledger) -> str:
    """SHA-256 that follows from all records that sources come from."""
    digest = hashlib.sha256()
    for task_id in _with_sources(ledger).tolist():
        head = ledger.head(task_id)
        digest.update(f"{task_id} {head.n_payload} {head.crc}\n".encode())
    return digest.hexdigest()


def _with_sources(ledger: Ledger) -> np.ndarray:
    """Tasks whose records have sources, ascending."""
    tasks = ledger.plan.in_phase(SOURCES if ledger.plan.goal == "associate" else "calibrate")
    kinds = ledger.kinds[tasks.start : tasks.stop]
    return np.asarray(
        tasks.start + np.flatnonzero(np.isin(kinds, (OutcomeKind.DONE, OutcomeKind.PARTIAL)))
    )


def _sum_up_more(
    pixels: np.ndarray, counts: np.ndarray, more: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The same with pixels of further rows."""
    new = np.concatenate([pixels[:0], *more])
    return _sum_up(np.concatenate([pixels, new]), np.concatenate([counts, np.ones_like(new)]))


def _sum_up(pixels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel once, ascending, with the sum of its counts."""
    found, place = np.unique(pixels, return_inverse=True)
    return found, np.bincount(place, counts, len(found)).astype(np.int64)
