"""What a phase's tasks are told besides their numbers; as bytes it goes to the task processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.run.attempts import decode_attempt
from mpipipe.run.context import Earlier
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.columns import decode_columns, encode_columns
from mpipipe.store.records import Record
from mpipipe.trace import log


@dataclass(frozen=True)
class Handover:
    """What has gone before.

    Attributes
    ----------
    undone
        int64, tasks of earlier phases that have not ended well.
    with_record
        int64, ascending: tasks of which there is a record to go on with: an attempt of an earlier
        incarnation whose image holds, or, for what comes after all cells, that of each cell.
    file_of, offset_of
        Which of `files` has that record, and where.
    files
        Checkpoint files.
    """

    undone: np.ndarray
    with_record: np.ndarray
    file_of: np.ndarray
    offset_of: np.ndarray
    files: Sequence[Path]

    @classmethod
    def empty(cls) -> Handover:
        """Nothing has gone before."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, nothing, ())

    def encode(self) -> bytes:
        """As bytes."""
        columns = {
            "undone": self.undone,
            "with_record": self.with_record,
            "file_of": self.file_of,
            "offset_of": self.offset_of,
        }
        arrays = {name: np.asarray(column, dtype=np.int64) for name, column in columns.items()}
        return encode_columns(arrays, {"files": [str(file) for file in self.files]})

    @classmethod
    def decode(cls, raw: bytes) -> Handover:
        """What `encode` wrote; nothing for no bytes."""
        if not raw:
            return cls.empty()
        arrays, attributes = decode_columns(raw)
        return cls(**arrays, files=[Path(file) for file in attributes["files"]])

    def earlier(self, task_id: int) -> Earlier | None:
        """The earlier attempt at a task whose image holds, if there is one that can be read."""
        try:
            record = self._record(task_id)
            if record is None:
                return None
            return Earlier(decode_attempt(record.meta).outcome, decode_columns(record.payload)[0])
        except (BadDataError, ValueError) as error:
            log.get_logger(__name__).warning("begins with the raw frames: %s", error)
            return None

    def tables(self, task_id: int) -> dict[str, np.ndarray]:
        """The tables of a task's record.

        Raises
        ------
        BadDataError
            If there is none, or it is damaged.
        """
        record = self._record(task_id)
        if record is None:
            raise BadDataError(f"there is no record of task {task_id}")
        return decode_columns(record.payload)[0]

    def _record(self, task_id: int) -> Record | None:
        place = int(np.searchsorted(self.with_record, task_id))
        if place >= len(self.with_record) or self.with_record[place] != task_id:
            return None
        with CheckpointReader(self.files[self.file_of[place]]) as reader:
            return reader.at(int(self.offset_of[place]))
