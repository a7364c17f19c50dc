"""The image of a task as one of its stages leaves it."""

from __future__ import annotations

from pathlib import Path

from mpipipe.data.errors import ConfigError
from mpipipe.data.exposure import ChannelStack, Exposure
from mpipipe.data.validation import nearest
from mpipipe.run.pipelines import ON_CALEXP, PER_SNAP, PER_VISIT
from mpipipe.stages.stage import Clipboard, Stage
from mpipipe.store import images

_SNAP_STAGES = [step.name for step in PER_SNAP]
_STAGES = [step.name for step in (*PER_SNAP, *PER_VISIT, *ON_CALEXP)]
_VALUES = ("calexp", "exposures", "exposure", "channels")
"""Where an image stands on the clipboard; the first that is there is the latest."""


def may_be_of_snaps(stage: str) -> bool:
    """Whether a stage can leave an image of each snap, not one of them all."""
    return any(stage == step.name for step in (*PER_SNAP, *PER_VISIT))


def file_of_snap(output: Path, snap: int | str) -> Path:
    """The file of one snap, where each has its own."""
    return output.with_name(f"{output.stem}-{snap}{output.suffix}")


class StageReached(Exception):
    """All that was asked for has been written."""


class StageImages:
    """Writes the image after a stage, of every snap where there are several.

    Called after each stage with what is on the clipboard.

    Parameters
    ----------
    stage
        Its name.
    output
        File to write; of several snaps the number is put behind its name.

    Raises
    ------
    ConfigError
        If there is no such stage.
    """

    def __init__(self, stage: str, output: Path) -> None:
        if stage not in _STAGES:
            near = nearest(stage, _STAGES)
            hint = f"did you mean {near}?" if near else "mpipipe config explain lists them"
            raise ConfigError(f"there is no stage {stage!r} before sources", way_out=hint)
        self._stage, self._output = stage, output
        self._is_of_snap = stage in _SNAP_STAGES
        self.written: list[Path] = []

    def __call__(self, step: Stage, clipboard: Clipboard) -> None:
        """Look at what a stage has left.

        Raises
        ------
        StageReached
            When nothing more is wanted.
        """
        if step.name == self._stage:
            self._write(clipboard)
        if self.written and (not self._is_of_snap or step.name not in _SNAP_STAGES):
            raise StageReached

    def _write(self, clipboard: Clipboard) -> None:
        found = next((name for name in _VALUES if name in clipboard), None)
        if found is None:
            return
        values = clipboard[found] if found == "exposures" else [clipboard[found]]
        for number, value in enumerate(values):
            snap = value.info.snap if found != "calexp" else -1
            several = len(values) > 1 or self._is_of_snap
            of_snap = file_of_snap(self._output, snap if snap >= 0 else number)
            self._write_one(of_snap if several else self._output, value)

    def _write_one(self, path: Path, value: Exposure | ChannelStack) -> None:
        origin = {"after stage": self._stage}
        if isinstance(value, ChannelStack):
            images.write_channels(path, value, provenance=origin)
        else:
            images.write_exposure(path, value, provenance=origin, compression="none")
        self.written.append(path)
