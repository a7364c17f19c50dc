"""The pipelines of a run, as data: which stages, in which order, on which values.

`check_pipelines` proves before any pixel is read that every stage finds what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpipipe.stages import ca, cs, ic, isr, sa, sfm
from mpipipe.stages.stage import Stage, check_chain

PIPELINES: dict[str, tuple[Stage, ...]] = {
    "isr": isr.PIPELINE,
    "ca": ca.PIPELINE,
    "cs": cs.PIPELINE,
    "ic": ic.PIPELINE,
    "sfm": sfm.PIPELINE + sfm.FORCED,
    "sa": sa.PIPELINE,
}

PER_SNAP: tuple[Stage, ...] = isr.PIPELINE + ca.PIPELINE
"""Run once a snap: raw channels to one assembled exposure."""

PER_VISIT: tuple[Stage, ...] = cs.PIPELINE
"""Run once a visit and CCD: all snaps to calexp."""

ON_CALEXP: tuple[Stage, ...] = ic.PIPELINE + sfm.PIPELINE
"""Run on the calexp as it is stored, so that it can be run again on one that was: to PSF, WCS, zero
point and src."""

AT_POSITIONS: tuple[Stage, ...] = sfm.FORCED
"""Run behind those where the run has a catalogue of positions to measure at: to forcedSrc."""

PER_CELL: tuple[Stage, ...] = sa.PIPELINE
"""Run once a sky cell, and once for what lies across their borders: from sources to objects."""

GIVEN_PER_SNAP = ("raw", "masters", "corrections", "sdqa", "warnings")
GIVEN_PER_VISIT = ("exposures", "pixel_scale", "sdqa", "warnings")
GIVEN_ON_CALEXP = ("calexp", "background", "pixel_scale", "reference", "sdqa", "warnings")
GIVEN_AT_POSITIONS = ("positions",)
"""Given besides, for `AT_POSITIONS`."""
GIVEN_PER_CELL = ("rows", "own", "cell", "bands", "fwhm", "years")


def check_pipelines(disabled: Iterable[str] = ()) -> None:
    """Check all chains with the stages `disabled` switched off.

    Raises
    ------
    ConfigError
        If a stage would miss a value, or if the products would.
    """
    off = tuple(disabled)
    check_chain(PER_SNAP, GIVEN_PER_SNAP, off)
    check_chain(PER_VISIT, GIVEN_PER_VISIT, off)
    check_chain(ON_CALEXP + AT_POSITIONS, GIVEN_ON_CALEXP + GIVEN_AT_POSITIONS, off)
    check_chain(PER_CELL, GIVEN_PER_CELL, off)
