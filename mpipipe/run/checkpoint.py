"""The checkpoint of a run: how large it is made, which file a rank writes, when it syncs."""

from __future__ import annotations

from typing import Literal, Protocol

from mpipipe import __version__
from mpipipe.parallel.tasks import Commit, TaskResult
from mpipipe.run.attempts import encode_attempt
from mpipipe.store.checkpoint.create import create_checkpoint
from mpipipe.store.checkpoint.geometry import USER_BLOCK, Geometry
from mpipipe.store.checkpoint.mounts import allows_shared_files, file_system_of
from mpipipe.store.checkpoint.syncing import Durability, SyncTimer
from mpipipe.store.checkpoint.writer import CheckpointWriter
from mpipipe.store.layout import RunLayout
from mpipipe.trace import events, log

_TASK_BYTES = 2 << 20
"""What a record is expected to take; a wrong guess costs files more, nothing else."""
_SPARE = 2
_REGIONS_A_RANK = 4
_MAX_REGION = 64 << 20
_MAX_REGIONS_A_RANK = 64
"""Each has a file that claims it, and a run makes files by its ranks, not by its tasks."""
_ENTRY_EVERY = 1 << 10
"""Bytes of records for which there is an index entry: small records fill the index first."""


class Kept(Protocol):
    """How records are kept; `mpipipe.run.config.CheckpointConfig` is one."""

    @property
    def durability(self) -> Durability:
        """What a committed record survives."""

    @property
    def interval(self) -> float | Literal["auto"]:
        """Seconds for which records may wait for a sync."""

    @property
    def mtbf(self) -> float:
        """Hours between two losses of a node."""

    @property
    def files(self) -> Literal["auto", "shared", "per-rank"]:
        """One file for all ranks, or one each."""


def geometry_for(n_tasks: int, incarnation: int, n_ranks: int, name: str) -> Geometry:
    """Sizes of the file that all ranks write: sparse, so what is not needed costs nothing."""
    expected = _SPARE * _TASK_BYTES * max(n_tasks, 1)
    share = expected // (n_ranks * _REGIONS_A_RANK)
    least = _round_up(expected // (n_ranks * _MAX_REGIONS_A_RANK))
    region = max(min(max(_round_up(share), USER_BLOCK), _MAX_REGION), least)
    n_regions = max(-(-expected // region), n_ranks * _REGIONS_A_RANK)
    attributes = {"run": name, "writer": f"mpipipe {__version__}"}
    return Geometry(n_regions, region, region // _ENTRY_EVERY, incarnation, attributes=attributes)


def _round_up(n_bytes: int) -> int:
    """The next power of 2."""
    return 1 << max(n_bytes - 1, 0).bit_length()


def begin_checkpoint(
    layout: RunLayout, config: Kept, n_tasks: int, incarnation: int, n_ranks: int
) -> None:
    """Make the file of all ranks, where there can be one. For rank 0; can be done again.

    Raises
    ------
    OutputError
        If it can not be made.
    """
    if uses_one_file(layout, config):
        sizes = geometry_for(n_tasks, incarnation, n_ranks, layout.root.name)
        create_checkpoint(layout.checkpoint(incarnation), sizes)


def uses_one_file(layout: RunLayout, config: Kept) -> bool:
    """Whether all ranks write into one file."""
    if config.files == "auto":
        return allows_shared_files(layout.root)
    return config.files == "shared"


def open_checkpoint(
    layout: RunLayout,
    config: Kept,
    n_tasks: int,
    incarnation: int,
    rank: int,
    n_ranks: int,
) -> CheckpointWriter:
    """Open what `begin_checkpoint` made, or files of this rank alone where it made nothing.

    Raises
    ------
    OutputError
        If that can not be done.
    """
    interval = None if config.interval == "auto" else config.interval
    timer = SyncTimer(config.durability, interval, config.mtbf * 3600)
    made = [p for p in layout.checkpoints(incarnation) if p.stem == "checkpoint"]
    if not made:
        text = "each rank commits to a file of its own in %s (%s)"
        kind = file_system_of(layout.root) or "unknown file system"
        log.get_logger(__name__).info(text, layout.record_folder(incarnation), kind)
    own = geometry_for(n_tasks, incarnation, n_ranks, layout.root.name)
    share = Geometry(
        max(own.n_regions // n_ranks, _REGIONS_A_RANK),
        own.region_bytes,
        own.n_entries,
        incarnation,
        attributes=own.attributes,
    )
    folder, shared = layout.record_folder(incarnation), made[0] if made else None
    return CheckpointWriter(folder, rank, n_ranks, share, timer, shared)


def committing(writer: CheckpointWriter, phase: str) -> Commit:
    """What commits the tasks of a phase to the checkpoint of this rank."""

    def commit(result: TaskResult) -> None:
        with events.span("checkpoint", phase, len(result.payload)):
            meta = encode_attempt(result)
            kind = int(result.outcome.kind)
            writer.append(phase, result.task_id, result.attempt, kind, result.payload, meta)

    return commit
