"""The task of the phase `calibrate`: one visit and CCD, raw channels to calexp, PSF and src.

Each snap goes through isr and ca, all snaps together through cs. The calexp is then brought into
the form in which it is stored, and ic and sfm work on that: so it can be characterized and its
sources measured again later, with other options, and come out as if all had been done at once.

A snap that can not be used is left out and the task ends as partial; so it does when a stage of ic
can not do its job (too few stars, a wrong field), and what that stage makes is absent. A task
without any usable snap has bad data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpipipe.data.background import Background
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure, Masters
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.mask import DETECTIONS, DTYPE, bits
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.data.raw import RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.run.completion import fault_of, products_of
from mpipipe.run.context import MASTERS, Earlier, RunContext, TaskResultTables
from mpipipe.run.failures import Failures
from mpipipe.run.origin import (
    origin_of,
    origin_of_masters,
    origin_of_sources,
    without_sources,
)
from mpipipe.run.pipelines import AT_POSITIONS, ON_CALEXP, PER_SNAP, PER_VISIT
from mpipipe.run.reference import positions_for, reference_for
from mpipipe.run.tables import sdqa_rows
from mpipipe.run.task import Task
from mpipipe.stages.stage import Clipboard, run_chain
from mpipipe.store import images, raw
from mpipipe.store.checksums import sha256_file
from mpipipe.store.psf import write_psf
from mpipipe.trace import events


@dataclass
class _Image:
    """The image of a visit and CCD, and what was noted while it was made.

    Attributes
    ----------
    calexp
        As it is stored; its mask has no detections yet.
    n_snaps
        Snaps that could be used.
    provenance
        What it follows from.
    masters
        The masters behind it, rows of `MASTERS`.
    """

    calexp: images.SettledExposure
    background: Background
    snap_sources: np.ndarray
    sdqa: np.ndarray
    warnings: list[str]
    n_snaps: int
    provenance: dict[str, str]
    masters: np.ndarray


_TABLES_OF_IMAGE = frozenset(
    ("snapsrc", "sdqa", "image", "masters", "products", "inputs", "input_paths")
)
_NOTES = np.dtype([("n_warnings", "i4"), ("n_snaps", "i4")])
"""What is noted of an image in the table `image`: how many warnings it gave, and its snaps."""


def calibrate(task: Task, context: RunContext) -> TaskResultTables:
    """Run the whole chain on one visit and CCD and write its image products.

    If an earlier attempt's image holds (`RunContext.earlier`), only its sources are measured again.

    Raises
    ------
    MpipipeError
        With the reason; `context.stage` names the stage in which it happened.
    """
    result = TaskResultTables()
    image = None
    if context.earlier is not None:
        image = _earlier_image(task, context, context.earlier, result)
    if image is None:
        result = TaskResultTables()
        image = _make_image(task, context, result)
    failures = Failures()
    clipboard = _measure(context, image, result, failures)
    context.enter("output")
    measured = sdqa_rows(clipboard["sdqa"], task.visit, task.ccd, task.band)
    result.tables = {
        "src": clipboard["src"],
        "source": clipboard["source"],
        "icSrc": clipboard["icSrc"],
        "icMatch": clipboard["icMatch"],
        "snapsrc": image.snap_sources,
        "sdqa": np.concatenate([image.sdqa, measured]),
        "image": np.array([(len(image.warnings), image.n_snaps)], dtype=_NOTES),
        "masters": image.masters,
    }
    if context.forced is not None:
        result.tables["forcedSrc"] = clipboard["forcedSrc"]
    provenance = image.provenance | origin_of_sources(task, context, result)
    _write_measured(task, context, image, clipboard, provenance, result)
    warnings = tuple(dict.fromkeys(clipboard["warnings"]))
    reasons = failures.reasons
    if image.n_snaps < task.n_expected_snaps or task.problems:
        reasons = (*reasons, *warnings)
    result.outcome = Outcome(
        OutcomeKind.PARTIAL if reasons else OutcomeKind.DONE,
        reason="; ".join(reasons),
        stage=failures.first_stage,
        traceback=failures.tracebacks,
        warnings=warnings,
    )
    return result


def _write_measured(
    task: Task,
    context: RunContext,
    image: _Image,
    clipboard: Clipboard,
    provenance: dict[str, str],
    result: TaskResultTables,
) -> None:
    """Calexp and PSF as ic and sfm leave them."""
    path = context.layout.image("calexp", task.visit, task.ccd)
    with events.span("write", "calexp") as noted:
        digest = image.calexp.write(path, provenance)
        noted.n_bytes = path.stat().st_size
    result.add_product("calexp", path, digest, context.layout)
    path = context.layout.image("psf", task.visit, task.ccd)
    info = image.calexp.exposure.info
    psf, correction = clipboard["psf"], clipboard["aperture_correction"]
    with events.span("write", "psf") as noted:
        digest = write_psf(path, psf, correction, info, provenance=provenance)
        noted.n_bytes = path.stat().st_size
    result.add_product("psf", path, digest, context.layout)


def _measure(
    context: RunContext, image: _Image, result: TaskResultTables, failures: Failures
) -> Clipboard:
    """ic and sfm on the calexp as it is stored."""
    clipboard = values_on_calexp(
        image.calexp.exposure, image.background, image.warnings, context, result, failures
    )
    stages = ON_CALEXP
    if context.forced is not None:
        stages += AT_POSITIONS
    return run_chain(
        stages, context.stage_configs, clipboard, failed=failures.note, **context.hooks()
    )


def values_on_calexp(
    calexp: Exposure,
    background: Background,
    warnings: list[str],
    context: RunContext,
    result: TaskResultTables,
    failures: Failures,
) -> Clipboard:
    """What the stages of ic and sfm are given."""
    scale = context.camera.pixel_scale * calexp.info.binning[0]
    context.enter("reference")
    clipboard: Clipboard = {
        "calexp": calexp,
        "background": background,
        "pixel_scale": scale,
        "reference": reference_for(calexp, scale, context, result, failures),
        "sdqa": Sdqa(),
        "warnings": list(warnings),
    }
    if context.forced is not None:
        context.enter("positions")
        clipboard["positions"] = positions_for(calexp, scale, context, result, failures)
    return clipboard


def _make_image(task: Task, context: RunContext, result: TaskResultTables) -> _Image:
    """From raw frames to the calexp as it will be stored; writes the background."""
    sdqa, warnings = Sdqa(), list(task.problems)
    masters = context.masters_for(task.ccd, task.band)
    origin = origin_of(task, context.basis, "image") | origin_of_masters(masters)
    work = _Snaps(task, context, masters, sdqa, warnings, result, origin)
    exposures, provenance = _all_snaps(work)
    n_snaps = len(exposures)
    clipboard = values_of_visit(exposures, context, sdqa, warnings)
    del exposures  # the stages free them as they go
    run_chain(PER_VISIT, context.stage_configs, clipboard, **context.hooks())
    calexp: Exposure = clipboard["calexp"]
    settled = settle(calexp, context)
    context.note_masters(task.ccd, task.band, masters, result)
    background: Background = clipboard["background"]
    path = context.layout.image("bkgd", task.visit, task.ccd)
    with events.span("write", "bkgd") as noted:
        digest = images.write_background(path, background, calexp.info, provenance=provenance)
        noted.n_bytes = path.stat().st_size
    result.add_product("bkgd", path, digest, context.layout)
    return _Image(
        settled,
        background,
        clipboard["snap_sources"],
        sdqa_rows(sdqa, task.visit, task.ccd, task.band),
        list(dict.fromkeys(warnings)),  # snaps repeat each other's
        n_snaps,
        provenance,
        np.array(list(masters.checksums.items()), dtype=MASTERS),
    )


def values_of_visit(
    exposures: list[Exposure], context: RunContext, sdqa: Sdqa, warnings: list[str]
) -> Clipboard:
    """What the stages of cs are given."""
    return {
        "exposures": exposures,
        "pixel_scale": context.camera.pixel_scale * exposures[0].info.binning[0],
        "sdqa": sdqa,
        "warnings": warnings,
    }


def settle(calexp: Exposure, context: RunContext) -> images.SettledExposure:
    """The calexp as it will be stored, which is what ic and sfm work on; its detections go."""
    context.enter("settle")
    products = context.config.products
    calexp.mask &= DTYPE(~bits(*DETECTIONS))
    with events.span("stage", "settle"):
        return images.settle(calexp, products.compression, products.quantize_level)


def _earlier_image(
    task: Task, context: RunContext, earlier: Earlier, result: TaskResultTables
) -> _Image | None:
    """The image that an earlier attempt made; None if it is not what its record says."""
    context.enter("read image")
    tables, layout = earlier.tables, context.layout
    if not set(tables) >= _TABLES_OF_IMAGE:
        return None
    products = {product.kind: product for product in products_of(tables["products"])}
    if not {"calexp", "bkgd"} <= set(products) or len(tables["image"]) != 1:
        return None
    if any(fault_of(layout, product) for product in products_of(tables["products"])):
        return None
    with events.span("read", "calexp", products["calexp"].size):
        calexp = images.read_settled(layout.inside(products["calexp"].path))
        background = images.read_background(layout.inside(products["bkgd"].path))
    calexp.exposure.mask &= DTYPE(~bits(*DETECTIONS))
    frames = {str(path) for files in task.frames for path in files.paths}
    calibs = context.calibs

    def made_it(path: str) -> bool:
        """Whether the image follows from a file; the others belong to its sources."""
        return path in frames or (calibs is not None and Path(path).is_relative_to(calibs))

    result.take_over(tables, but=("calexp", "psf"), reads=made_it)
    metrics = tables["sdqa"]["metric"]
    of_sources = np.char.startswith(metrics, b"ic.") | np.char.startswith(metrics, b"sfm.")
    notes = tables["image"][0]
    return _Image(
        calexp,
        background,
        tables["snapsrc"],
        tables["sdqa"][~of_sources],
        list(earlier.outcome.warnings[: int(notes["n_warnings"])]),
        int(notes["n_snaps"]),
        without_sources(calexp.provenance),
        tables["masters"],
    )


@dataclass(frozen=True)
class _Snaps:
    """What every snap of a task is worked on with, and where its notes go.

    Attributes
    ----------
    origin
        What the snaps follow from besides their own files.
    """

    task: Task
    context: RunContext
    masters: Masters
    sdqa: Sdqa
    warnings: list[str]
    result: TaskResultTables
    origin: dict[str, str]


def _all_snaps(work: _Snaps) -> tuple[list[Exposure], dict[str, str]]:
    """Each snap through isr and ca; with what those follow from that could be used."""
    exposures: list[Exposure] = []
    origin = dict(work.origin)
    errors: list[BadDataError] = []
    for files in work.task.frames:
        try:
            exposure, inputs = _one_snap(work, files)
        except BadDataError as error:
            errors.append(error)
            work.warnings.append(f"snap {files.snap} left out: {error}")
            continue
        exposures.append(exposure)
        origin |= inputs
    if not exposures:
        raise errors[0]
    return exposures, origin


def _one_snap(work: _Snaps, files: FrameFiles) -> tuple[Exposure, dict[str, str]]:
    """A snap, and the checksums of its files."""
    context = work.context
    context.enter("read")
    if context.camera.kind == "calibrated":
        with events.span("read", "raw", files.n_bytes):
            exposure = raw.read_calibrated(files, context.camera)
        return exposure, _note_inputs(files, work.result)
    with events.span("read", "raw", files.n_bytes):
        frame = raw.read_frame(files, context.camera)
    clipboard = values_of_snap(frame, work.masters, context, work.sdqa, work.warnings)
    run_chain(PER_SNAP, context.stage_configs, clipboard, **context.hooks())
    inputs = _note_inputs(files, work.result)
    _write_snap(work, frame.info.snap, clipboard, work.origin | inputs)
    return clipboard["exposure"], inputs


def _note_inputs(files: FrameFiles, result: TaskResultTables) -> dict[str, str]:
    inputs = {}
    with events.span("read", "checksums of raw", files.n_bytes):
        for path in files.paths:
            digest = sha256_file(path)
            inputs[f"input {Path(path).name}"] = digest
            result.add_input(path, digest)
    return inputs


def _write_snap(work: _Snaps, snap: int, clipboard: Clipboard, origin: dict[str, str]) -> None:
    """The images of a snap that the user wants to keep."""
    task, result, layout = work.task, work.result, work.context.layout
    wanted = work.context.config.products
    if wanted.post_isr:
        path = layout.image("postisr", task.visit, task.ccd, f"-{snap}")
        digest = images.write_channels(path, clipboard["channels"], provenance=origin)
        result.add_product("postisr", path, digest, layout)
    if wanted.assembled:
        path = layout.image("assembled", task.visit, task.ccd, f"-{snap}")
        exposure: Exposure = clipboard["exposure"]
        digest = images.write_exposure(path, exposure, provenance=origin, compression="none")
        result.add_product("assembled", path, digest, layout)


def values_of_snap(
    frame: RawFrame, masters: Masters, context: RunContext, sdqa: Sdqa, warnings: list[str]
) -> Clipboard:
    """What the stages of isr and ca are given."""
    warnings.extend(frame.warnings)
    return {
        "raw": frame,
        "masters": masters,
        "corrections": context.corrections,
        "sdqa": sdqa,
        "warnings": warnings,
    }
