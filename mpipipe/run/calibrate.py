"""The task of the phase `calibrate`: one visit and CCD, raw channels to calexp and src.

Each snap goes through isr and ca, all snaps together through cs and sfm. A snap that can not be
used is left out and the task ends as partial; a task without any usable snap has bad data.
"""

from __future__ import annotations

from pathlib import Path

from mpipipe.data.background import Background
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure, Masters
from mpipipe.data.inventory import FrameFiles
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.data.sdqa import Sdqa
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.pipelines import PER_SNAP, PER_VISIT
from mpipipe.run.tables import sdqa_rows
from mpipipe.run.task import Task
from mpipipe.stages.stage import Clipboard, run_chain
from mpipipe.store import images, raw
from mpipipe.store.checksums import sha256_file


def calibrate(task: Task, context: RunContext) -> TaskResultTables:
    """Run the whole chain on one visit and CCD and write its image products.

    Raises
    ------
    MpipipeError
        With the reason; `context.stage` names the stage in which it happened.
    """
    sdqa, warnings = Sdqa(), list(task.problems)
    masters = context.masters_for(task.ccd, task.band)
    result = TaskResultTables()
    exposures, inputs = _snaps(task, context, masters, sdqa, warnings, result)
    clipboard: Clipboard = {
        "exposures": exposures,
        "pixel_scale": context.camera.pixel_scale * exposures[0].info.binning[0],
        "sdqa": sdqa,
        "warnings": warnings,
    }
    run_chain(PER_VISIT, context.stage_configs, clipboard, **context.hooks())
    context.enter("output")
    result.tables = {
        "src": clipboard["src"],
        "snapsrc": clipboard["snap_sources"],
        "sdqa": sdqa_rows(sdqa, task.visit, task.ccd, task.band),
    }
    provenance = _provenance(context, inputs, masters)
    _write_products(task, context, clipboard["calexp"], clipboard["background"], provenance, result)
    n_missing = task.n_expected_snaps - len(exposures)
    partial = n_missing > 0 or bool(task.problems)
    result.outcome = Outcome(
        OutcomeKind.PARTIAL if partial else OutcomeKind.DONE,
        reason="; ".join(dict.fromkeys(warnings)) if partial else "",
        warnings=tuple(dict.fromkeys(warnings)),  # snaps repeat each other's
    )
    return result


def _snaps(
    task: Task,
    context: RunContext,
    masters: Masters,
    sdqa: Sdqa,
    warnings: list[str],
    result: TaskResultTables,
) -> tuple[list[Exposure], dict[str, str]]:
    """Each snap through isr and ca; with the checksums of the files that were used."""
    exposures: list[Exposure] = []
    inputs: dict[str, str] = {}
    errors: list[BadDataError] = []
    for files in task.frames:
        try:
            exposures.append(_one_snap(task, context, files, masters, sdqa, warnings, result))
        except BadDataError as error:
            errors.append(error)
            warnings.append(f"snap {files.snap} left out: {error}")
            continue
        for path in files.paths:
            inputs[f"input {Path(path).name}"] = sha256_file(path)
    if not exposures:
        raise errors[0]
    return exposures, inputs


def _one_snap(
    task: Task,
    context: RunContext,
    files: FrameFiles,
    masters: Masters,
    sdqa: Sdqa,
    warnings: list[str],
    result: TaskResultTables,
) -> Exposure:
    context.enter("read")
    if context.camera.kind == "calibrated":
        return raw.read_calibrated(files, context.camera)
    frame = raw.read_frame(files, context.camera)
    warnings.extend(frame.warnings)
    clipboard: Clipboard = {
        "raw": frame,
        "masters": masters,
        "corrections": context.corrections,
        "sdqa": sdqa,
        "warnings": warnings,
    }
    keep_channels = context.config.products.post_isr
    run_chain(PER_SNAP, context.stage_configs, clipboard, **context.hooks())
    exposure: Exposure = clipboard["exposure"]
    snap = frame.info.snap
    if keep_channels:
        path = context.layout.image("postisr", task.visit, task.ccd, f"-{snap}")
        result.add_product(
            "postisr", path, images.write_channels(path, clipboard["channels"]), context.layout
        )
    if context.config.products.assembled:
        path = context.layout.image("assembled", task.visit, task.ccd, f"-{snap}")
        digest = images.write_exposure(path, exposure, provenance={}, compression="none")
        result.add_product("assembled", path, digest, context.layout)
    return exposure


def _provenance(context: RunContext, inputs: dict[str, str], masters: Masters) -> dict[str, str]:
    rows = dict(inputs)
    rows.update({f"master {kind}": digest for kind, digest in masters.checksums.items()})
    rows.update({f"version {name}": version for name, version in context.versions().items()})
    rows["configuration"] = context.config.digest()
    return rows


def _write_products(
    task: Task,
    context: RunContext,
    calexp: Exposure,
    background: Background,
    provenance: dict[str, str],
    result: TaskResultTables,
) -> None:
    products = context.config.products
    path = context.layout.image("calexp", task.visit, task.ccd)
    digest = images.write_exposure(
        path,
        calexp,
        provenance=provenance,
        compression=products.compression,
        quantize_level=products.quantize_level,
    )
    result.add_product("calexp", path, digest, context.layout)
    path = context.layout.image("bkgd", task.visit, task.ccd)
    digest = images.write_background(path, background, calexp.info, provenance=provenance)
    result.add_product("bkgd", path, digest, context.layout)
