"""A task, and the table of all tasks of a plan: columns from which a task is made when asked for.

A million tasks as Python objects would take gigabytes, and every process of a run would have to
make them; as columns they take some hundred bytes each, are mapped from the plan's file by all
processes of a machine together, and a process makes the few tasks that it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np

from mpipipe.data.inventory import FrameFiles

_CHUNK = 1 << 15
_NO_CHANNEL = -1


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of scheduled work.

    Attributes
    ----------
    id
        Its number; tasks are numbered in the order of phases, then of their content.
    phase
        ``calibrate`` or one of `mpipipe.run.plan.CALIB_PHASES`.
    visit
        -1 for a calibration task.
    frames
        The read-outs it works on: snaps of a visit, or calibration frames.
    more
        Further read-outs: the bias frames that photon transfer needs beside the flats.
    problems
        What the plan already knows to be wrong with its input.
    cost_s, memory_bytes
        Expected seconds, and memory of the process that runs it.
    """

    id: int
    phase: str
    visit: int
    ccd: str
    band: str
    frames: tuple[FrameFiles, ...]
    more: tuple[FrameFiles, ...] = ()
    n_expected_snaps: int = 0
    problems: tuple[str, ...] = ()
    cost_s: float = 0.0
    memory_bytes: int = 0

    @property
    def label(self) -> str:
        """What people call it."""
        return label_of(self.phase, self.visit, self.ccd, self.band)


def label_of(phase: str, visit: int, ccd: str, band: str) -> str:
    """What people call a task."""
    what = f"visit {visit}" if visit >= 0 else phase
    return " ".join(part for part in (what, ccd, band) if part)


def full_label_of(phase: str, visit: int, ccd: str, band: str) -> str:
    """The same with its phase, which tells the tasks of a run apart."""
    label = label_of(phase, visit, ccd, band)
    return f"{phase} {label}" if visit >= 0 else label


class Draft(NamedTuple):
    """A task that has no number and no costs yet; fields as those of `Task`."""

    phase: str
    visit: int
    ccd: str
    band: str
    frames: Sequence[FrameFiles]
    more: Sequence[FrameFiles] = ()
    n_expected_snaps: int = 0
    problems: Sequence[str] = ()


class TaskTable(Sequence[Task]):
    """All tasks of a plan, or a stretch of them, as columns.

    Parameters
    ----------
    columns
        What `build_columns` gives. Columns of tasks: phase, visit, ccd, band, n_snaps, cost,
        memory, frames and more (first frame of each; one entry more at the end of frames). Of
        frames: f_visit to f_bytes, f_paths (first file of each). Of files: p_folder, p_channel,
        p_end (where its name ends in p_names). q_task, q_problem: numbers of known problems.
    words
        Names of phases, CCDs, bands, kinds and channels, which columns refer to by place.
    folders
        Folders of files.
    problems
        The plan's problems.
    start, stop
        The stretch.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        words: Sequence[str],
        folders: Sequence[str],
        problems: Sequence[str],
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.columns, self.words, self.folders = columns, words, folders
        self.problems = problems
        self.start = start
        self.stop = len(columns["phase"]) if stop is None else stop

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, place: int) -> Task: ...
    @overload
    def __getitem__(self, place: slice) -> TaskTable: ...
    def __getitem__(self, place: int | slice) -> Task | TaskTable:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            if step != 1:
                raise ValueError("a stretch of a plan has no gaps")
            last = max(first, last)
            return TaskTable(
                self.columns,
                self.words,
                self.folders,
                self.problems,
                self.start + first,
                self.start + last,
            )
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"there is no task {place}")
        return self._task(self.start + place)

    def __iter__(self) -> Iterator[Task]:
        return (self._task(number) for number in range(self.start, self.stop))

    def column(self, name: str) -> np.ndarray:
        """A column of these tasks."""
        return self.columns[name][self.start : self.stop]

    def labels_at(self, number: int) -> tuple[str, int, str, str]:
        """Phase, visit, CCD and band of the task of this number, without making the task."""
        columns, words = self.columns, self.words
        return (
            words[columns["phase"][number]],
            int(columns["visit"][number]),
            words[columns["ccd"][number]],
            words[columns["band"][number]],
        )

    def input_bytes(self) -> int:
        """Bytes of all files that these tasks read, each as often as it is read."""
        ends = self.columns["frames"]
        frames = slice(int(ends[self.start]), int(ends[self.stop]))
        return int(self.columns["f_bytes"][frames].sum())

    # -- inside ----------------------------------------------------------------------------------

    def _task(self, number: int) -> Task:
        columns = self.columns
        phase, visit, ccd, band = self.labels_at(number)
        first, last = int(columns["frames"][number]), int(columns["frames"][number + 1])
        more = int(columns["more"][number])
        known = slice(*np.searchsorted(columns["q_task"], [number, number + 1]))
        return Task(
            number,
            phase,
            visit,
            ccd,
            band,
            tuple(self._frame(frame) for frame in range(first, more)),
            tuple(self._frame(frame) for frame in range(more, last)),
            int(columns["n_snaps"][number]),
            tuple(self.problems[problem] for problem in columns["q_problem"][known]),
            round(float(columns["cost"][number]), 3),
            int(columns["memory"][number]),
        )

    def _frame(self, number: int) -> FrameFiles:
        columns, words = self.columns, self.words
        files = range(int(columns["f_paths"][number]), int(columns["f_paths"][number + 1]))
        channels = columns["p_channel"][files.start : files.stop].tolist()
        return FrameFiles(
            int(columns["f_visit"][number]),
            int(columns["f_snap"][number]),
            words[columns["f_ccd"][number]],
            words[columns["f_kind"][number]],
            words[columns["f_band"][number]],
            tuple(self._path(file) for file in files),
            tuple(words[channel] for channel in channels if channel != _NO_CHANNEL),
            float(columns["f_time"][number]),
            float(columns["f_mjd"][number]),
            int(columns["f_bytes"][number]),
        )

    def _path(self, file: int) -> str:
        ends = self.columns["p_end"]
        first = int(ends[file - 1]) if file else 0
        name = self.columns["p_names"][first : int(ends[file])].tobytes()
        folder = self.folders[int(self.columns["p_folder"][file])]
        return folder + name.decode("utf-8", "surrogateescape")


class _Codes(dict[str, int]):
    """Numbers of words, given in the order in which they are met."""

    def __missing__(self, word: str) -> int:
        code = self[word] = len(self)
        return code


_TASK_TYPES = {"phase": "i4", "visit": "i8", "ccd": "i4", "band": "i4", "n_snaps": "i4"}
_FRAME_TYPES = {
    "f_visit": "i8",
    "f_snap": "i4",
    "f_ccd": "i4",
    "f_kind": "i4",
    "f_band": "i4",
    "f_time": "f8",
    "f_mjd": "f8",
    "f_bytes": "i8",
}


class _Builder:
    """Gathers columns chunk by chunk, so that no list of all tasks, frames or paths is needed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.words, self.folders, self.problems = _Codes(), _Codes(), _Codes()
        for problem in problems:
            self.problems[problem]
        self._parts: dict[str, list[np.ndarray]] = {}
        self._n_tasks = self._n_frames = self._n_files = self._n_bytes = 0

    def add(self, tasks: Sequence[Draft]) -> None:
        """Take a chunk of tasks."""
        code = self.words
        rows = [(code[t.phase], t.visit, code[t.ccd], code[t.band], t.n_expected_snaps)
                for t in tasks]  # fmt: skip
        self._store(_TASK_TYPES, rows)
        sizes = [(len(task.frames), len(task.more)) for task in tasks]
        n_frames, n_more = np.array(sizes, dtype="i8").reshape(-1, 2).T
        begins = self._n_frames + np.cumsum(n_frames + n_more) - (n_frames + n_more)
        self._keep("frames", begins)
        self._keep("more", begins + n_frames)
        frames = [frame for task in tasks for frame in (*task.frames, *task.more)]
        self._add_frames(frames)
        known = [
            (self._n_tasks + place, self.problems[problem])
            for place, task in enumerate(tasks)
            for problem in task.problems
        ]
        self._store({"q_task": "i8", "q_problem": "i8"}, known)
        self._n_tasks += len(tasks)

    def _add_frames(self, frames: Sequence[FrameFiles]) -> None:
        code = self.words
        rows = [(f.visit, f.snap, code[f.detector], code[f.kind], code[f.band],
                 f.exposure_time, f.mjd_start, f.n_bytes) for f in frames]  # fmt: skip
        self._store(_FRAME_TYPES, rows)
        numbers = np.fromiter((len(frame.paths) for frame in frames), "i8", len(frames))
        self._keep("f_paths", self._n_files + np.cumsum(numbers) - numbers)
        parts = [path.rpartition("/") for frame in frames for path in frame.paths]
        channels = [code[name] for frame in frames for name in frame.channels]
        if len(channels) != len(parts):
            channels = [channel for frame in frames for channel in self._channels(frame)]
        names = [name.encode("utf-8", "surrogateescape") for _, _, name in parts]
        folder = self.folders
        self._keep("p_folder", np.array([folder[a + b] for a, b, _ in parts], dtype="i4"))
        self._keep("p_channel", np.array(channels, dtype="i4"))
        lengths = np.fromiter(map(len, names), "i8", len(names))
        self._keep("p_end", self._n_bytes + np.cumsum(lengths))
        self._keep("p_names", np.frombuffer(b"".join(names), dtype="u1"))
        self._n_frames += len(frames)
        self._n_files += len(parts)
        self._n_bytes += int(lengths.sum())

    def _channels(self, frame: FrameFiles) -> list[int]:
        if not frame.channels:
            return [_NO_CHANNEL] * len(frame.paths)
        return [self.words[name] for name in frame.channels]

    def _store(self, types: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
        columns = zip(*rows, strict=True) if rows else [()] * len(types)
        for (name, dtype), values in zip(types.items(), columns, strict=True):
            self._keep(name, np.array(values, dtype=dtype))

    def _keep(self, name: str, part: np.ndarray) -> None:
        self._parts.setdefault(name, []).append(part)

    def finish(self) -> TaskTable:
        """The table; costs and memory are zero."""
        self._keep("frames", np.array([self._n_frames], dtype="i8"))
        self._keep("f_paths", np.array([self._n_files], dtype="i8"))
        columns = {}
        for name in list(self._parts):
            parts = self._parts.pop(name)
            columns[name] = _narrow(np.concatenate(parts))
        columns["cost"] = np.zeros(self._n_tasks, dtype="f4")
        columns["memory"] = np.zeros(self._n_tasks, dtype="i8")
        return TaskTable(columns, list(self.words), list(self.folders), list(self.problems))


def _narrow(column: np.ndarray) -> np.ndarray:
    """The column in the smallest type of integers that holds it."""
    if column.dtype.kind != "i" or not len(column):
        return column
    low, high = int(column.min()), int(column.max())
    for name in ("i1", "i2", "i4"):
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return column.astype(name)
    return column


def build_table(drafts: Iterable[Draft], problems: Sequence[str] = ()) -> TaskTable:
    """A table of tasks in this order, numbered from 0; costs are filled in later.

    Parameters
    ----------
    problems
        The plan's problems, in the order they are told; tasks refer to them.
    """
    builder = _Builder(problems)
    rest = iter(drafts)
    while chunk := list(islice(rest, _CHUNK)):
        builder.add(chunk)
    if builder._n_tasks == 0:
        builder.add(())
    return builder.finish()
