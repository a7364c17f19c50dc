"""A reference catalogue out of a run's own frames: what `mpipipe refcat from-run` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mpipipe
from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.run.context import RunContext
from mpipipe.run.plan import Plan, load_run, require_run
from mpipipe.stages.ic.wcs_determination import WcsDeterminationConfig, tan_sip_of
from mpipipe.stages.selfref.catalogue import FramesCatalogue, catalogue_of
from mpipipe.stages.selfref.frame import Frame, frame_of
from mpipipe.stages.selfref.magnitudes import ZERO
from mpipipe.store.hdf5 import read_catalogue
from mpipipe.store.images import read_outline
from mpipipe.store.layout import RunLayout
from mpipipe.store.refcat.index import Index
from mpipipe.store.refcat.writing import refuse_used, write_refcat

_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class FromRun:
    """What was made.

    Attributes
    ----------
    index
        Of the catalogue that was written.
    catalogue
        Its stars, and how the frames agree.
    without_calexp
        Labels of tasks that gave no calexp.
    """

    index: Index
    catalogue: FramesCatalogue
    without_calexp: tuple[str, ...]


def refcat_from_run(layout: RunLayout, folder: Path, name: str) -> FromRun:
    """Make a reference catalogue of the stars that a run's frames show.

    Parameters
    ----------
    layout
        The run, whose catalogue icSrc has been published.
    folder
        The catalogue to make.
    name
        Of the catalogue, for people.

    Raises
    ------
    ConfigError
        If there is no run, its frames show no stars that agree, or the folder is used already.
    BadDataError
        If the run has no icSrc yet, or a product is damaged.
    OutputError
        If the catalogue can not be written.
    """
    require_run(layout)
    refuse_used(folder)
    context, plan = load_run(layout)
    options = context.stage_configs["ic.wcsDetermination"]
    assert isinstance(options, WcsDeterminationConfig)
    path = layout.catalogue("icSrc")
    if not path.exists():
        raise BadDataError(
            "is missing: the run is not complete",
            file=path,
            way_out=f"go on with it: mpipipe run --resume {layout.root}",
        )
    without: list[str] = []
    frames = list(_frames(context, plan, read_catalogue(path), options, without))
    found = catalogue_of(frames, options)
    if not len(found.rows):
        reasons = [report.reason for report in found.frames if report.reason]
        raise ConfigError(
            f"no catalogue can be made of {len(frames)} frames: "
            f"{_commonest(reasons) if reasons else 'no star is seen twice'}",
            file=layout.root,
            way_out="give the run a catalogue of the field (mpipipe refcat ingest FILE)",
        )
    index = write_refcat(
        folder,
        [found.rows],
        found.bands,
        name,
        is_absolute=False,
        made=lambda: _made(found),
    )
    return FromRun(index, found, tuple(without))


def _frames(
    context: RunContext,
    plan: Plan,
    sources: np.ndarray,
    options: WcsDeterminationConfig,
    without: list[str],
) -> Iterator[Frame]:
    """Every visit and CCD with a calexp, in the order of visits and CCDs."""
    layout, camera = context.layout, context.camera
    order = np.lexsort((sources["id"], sources["ccdNumber"], sources["visit"]))
    sources = sources[order]
    keys = np.stack([sources["visit"], sources["ccdNumber"].astype(np.int64)], axis=1)
    starts = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=-1) != 0, axis=1))
    ends = np.append(starts[1:], len(keys))
    rows_of = {
        tuple(keys[start].tolist()): slice(start, end)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    }
    tasks = plan.in_phase("calibrate")
    labels = [tasks.labels_at(number) for number in range(tasks.start, tasks.stop)]
    numbered = [(visit, camera.detector(ccd).number, ccd) for _, visit, ccd, _ in labels]
    for visit, number, ccd in sorted(numbered):
        path = layout.image("calexp", visit, ccd)
        if not path.exists():
            without.append(f"visit {visit} {ccd}")
            continue
        outline = read_outline(path)
        info = outline.info
        yield frame_of(
            sources[rows_of.get((visit, number), slice(0, 0))],
            visit=visit,
            ccd=ccd,
            band=info.band,
            mjd=info.mjd_start + 0.5 * np.nan_to_num(info.exposure_time) / _SECONDS_PER_DAY,
            seconds=info.exposure_time,
            shape=outline.shape,
            pixel_scale=camera.pixel_scale * info.binning[0],
            header=tan_sip_of(outline.wcs, outline.shape),
            pointing=(info.ra, info.dec),
            options=options,
        )


def _commonest(reasons: list[str]) -> str:
    return max(sorted(set(reasons)), key=reasons.count)


def _made(found: FramesCatalogue) -> dict[str, Any]:
    """What the index tells, for people."""
    n_frames = len(found.frames)
    return {
        "by": f"mpipipe {mpipipe.__version__}",
        "notes": [
            f"made of {n_frames - found.n_lost} of {n_frames} frames of a run, "
            f"{found.n_groups} groups; internal rms {found.rms:.3f} pixels an axis (SNR > 50)",
            "positions: frames agree with each other, each group with its headers in the mean",
            f"magnitudes: a star of {ZERO:g} mag gives one electron a second in the clearest frame "
            "of its band",
        ],
        "parts": dict(found.n_parts),
    }
