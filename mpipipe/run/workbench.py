"""The stages of one visit and CCD by hand: run some, look, change an option or a stage, run again.

It is the chain of a run's task, on the same values; nothing is written. Every call begins anew,
from the raw frames, or from the calexp of an earlier call if nothing before that was changed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpipipe.data.background import Background
from mpipipe.data.errors import ConfigError
from mpipipe.data.exposure import Exposure
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.validation import nearest
from mpipipe.run.calibrate import (
    settle,
    values_of_snap,
    values_of_visit,
    values_on_calexp,
)
from mpipipe.run.config import AnyConfig, load_config, options, toml_value
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.failures import Failures
from mpipipe.run.pipelines import AT_POSITIONS, ON_CALEXP, PER_SNAP, PER_VISIT
from mpipipe.run.plan import load_run, require_run
from mpipipe.run.prepare import Request, prepare
from mpipipe.run.task import Task
from mpipipe.stages.stage import Clipboard, Stage, StageFunction, run_chain
from mpipipe.store import raw
from mpipipe.store.layout import RunLayout
from mpipipe.store.naming import named_files
from mpipipe.store.scan import find_raw_files

Options = Mapping[str, Any]
"""Values by dotted key, e.g. ``{"sfm.sourceDetection.threshold": 4}``."""


@dataclass(frozen=True)
class _Image:
    """A calexp as ic and sfm get it, and what it was made with."""

    made_with: tuple[object, ...]
    calexp: Exposure
    background: Background
    warnings: list[str]


class Workbench:
    """One visit and CCD, whose stages are run by hand.

    Parameters
    ----------
    files
        Raw files, patterns and folders, as `mpipipe process` takes them.
    visit, ccd
        Which exposure, if the files hold several.
    camera
        Name or file; None: recognised by the headers.
    calibs, refcat
        Folders of masters and of reference stars; None: the corrections that need them are left
        out.
    options
        Laid over the defaults.

    Attributes
    ----------
    task
        The visit, CCD and frames.
    problems
        What stages could not do in the last `run`, a line each; later ones went on without.

    Raises
    ------
    MpipipeError
        If the files can not be used, or hold several exposures and none was chosen.
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        *,
        visit: int | None = None,
        ccd: str | None = None,
        camera: str | None = None,
        calibs: str | Path | None = None,
        refcat: str | Path | None = None,
        options: Options | None = None,
    ) -> None:
        names = [files] if isinstance(files, (str, Path)) else list(files)
        named = named_files(names, find_raw_files, "FITS file")
        folder = Path(os.path.commonpath([os.path.dirname(path) for path in named.paths]))
        masters, stars = (None if path is None else Path(path) for path in (calibs, refcat))
        asked = assignments_of(options or {})
        request = Request(folder, camera, masters, None, asked, refcat=stars, files=named.paths)
        layout = RunLayout.at(folder)
        plan, config, found = prepare(request, layout)
        given = None if masters is None or plan.calibs is None else Path(plan.calibs)
        reference = None if plan.refcat is None else Path(plan.refcat)
        context = RunContext(layout, config, found.camera, given, reference)
        self._begin(context, list(plan.in_phase("calibrate")), visit, ccd)

    @classmethod
    def of_run(cls, run: str | Path, visit: int | None = None, ccd: str | None = None) -> Workbench:
        """An exposure of a run, with the run's options, masters and catalogues.

        Parameters
        ----------
        run
            Run folder, or folder of `mpipipe process`.
        visit, ccd
            Which exposure, if the run has several.

        Raises
        ------
        MpipipeError
            If there is no such exposure, or several and none was chosen.
        """
        layout = RunLayout.at(run)
        require_run(layout)
        context, plan = load_run(layout)
        bench = cls.__new__(cls)
        bench._begin(context, list(plan.in_phase("calibrate")), visit, ccd)
        return bench

    def _begin(
        self, context: RunContext, tasks: list[Task], visit: int | None, ccd: str | None
    ) -> None:
        chosen = [t for t in tasks if visit in (None, t.visit) and ccd in (None, t.ccd)]
        if len(chosen) != 1:
            listed = ", ".join(f"visit={t.visit}, ccd={t.ccd!r}" for t in (chosen or tasks)[:8])
            what = "is no such exposure" if not chosen else f"are {len(chosen)} exposures"
            raise ConfigError(f"there {what}", way_out=f"choose one: {listed}")
        self.task = chosen[0]
        self.problems: tuple[str, ...] = ()
        self._context = context
        self._image: _Image | None = None

    @property
    def config(self) -> AnyConfig:
        """The options that hold unless a call says otherwise."""
        return self._context.config

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in order."""
        return [step.name for step in self._chain()]

    def stage(self, name: str) -> Stage:
        """A stage: what it `needs`, what it `adds`, and its function, `run`.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        known = {step.name: step for step in self._chain()}
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else "`stages` lists them"
            raise ConfigError(f"there is no stage {name!r}", way_out=hint)
        return known[name]

    def run(
        self,
        through: str | None = None,
        options: Options | None = None,
        replace: Mapping[str, StageFunction] | None = None,
        *,
        before: bool = False,
    ) -> Clipboard:
        """Run the chain from its beginning; give the values that it ends with, by name.

        Parameters
        ----------
        through
            The last stage; None: all of them.
        options
            Laid over those of the bench.
        replace
            Functions in place of stages, called as theirs are: ``function(config, **needs)``, which
            gives a dict of what the stage adds (`stage`).
        before
            Stop short of the last stage: the values are those that it would get.

        Returns
        -------
        dict
            Of a stage of isr or ca: of the first snap. The bench keeps nothing of them: they may be
            changed.

        Raises
        ------
        MpipipeError
            If a stage can not do its job and no later one can do without. Errors of own functions
            are passed on.
        """
        replaced = dict(replace or {})
        for name in (*replaced, *(() if through is None else (through,))):
            self.stage(name)
        context = self._with(options or {})
        self.problems = ()
        wanted = _upto(self._chain(), through, before=before)
        of_snap, of_visit = (_replaced(chain, replaced) for chain in (PER_SNAP, PER_VISIT))
        if through in {step.name for step in of_snap}:
            return self._snaps(context, _upto(of_snap, through, before=before), first_only=True)[0]
        if through in {step.name for step in of_visit}:
            stages = _upto(of_visit, through, before=before)
            return self._visit(context, of_snap, stages)
        image = self._image_with(context, of_snap, of_visit)
        return self._sources(context, image, _replaced(wanted, replaced), replaced)

    def run_stage(self, name: str, values: Clipboard, options: Options | None = None) -> Clipboard:
        """Run one stage on values, which stay as they are.

        Parameters
        ----------
        values
            As ``run(name, before=True)`` gives them.
        options
            Laid over those of the bench, under their names within the stage: ``{"threshold": 4}``.

        Returns
        -------
        dict
            The values with what the stage adds or changes.
        """
        step = self.stage(name)
        missing = [need for need in step.needs if need not in values]
        if missing:
            way_out = f"run({name!r}, before=True) gives all it needs"
            raise ConfigError(f"stage {name} needs {', '.join(missing)}", way_out=way_out)
        full = {f"{name}.{key}": value for key, value in (options or {}).items()}
        found = dict(values) | copy.deepcopy({need: values[need] for need in step.needs})
        return run_chain([step], self._with(full).stage_configs, found)

    # -- inside ----------------------------------------------------------------------------------

    def _chain(self) -> tuple[Stage, ...]:
        more = AT_POSITIONS if self._context.forced is not None else ()
        if self._context.camera.kind == "calibrated":
            return (*PER_VISIT, *ON_CALEXP, *more)
        return (*PER_SNAP, *PER_VISIT, *ON_CALEXP, *more)

    def _with(self, changes: Options) -> RunContext:
        """The context with other options."""
        if not changes:
            return self._context
        old = self._context
        return RunContext(
            old.layout,
            changed(old.config, changes),
            old.camera,
            old.calibs,
            old.refcat,
            old.forced,
        )

    def _snaps(
        self, context: RunContext, stages: Iterable[Stage], *, first_only: bool = False
    ) -> list[Clipboard]:
        """The values of each snap after these stages."""
        masters = self._context.masters_for(self.task.ccd, self.task.band)
        found = []
        for files in self.task.frames[: 1 if first_only else None]:
            if context.camera.kind == "calibrated":
                found.append({"exposure": raw.read_calibrated(files, context.camera)})
                continue
            frame = raw.read_frame(files, context.camera)
            values = values_of_snap(frame, masters, context, Sdqa(), [])
            found.append(run_chain(stages, context.stage_configs, values))
        return found

    def _visit(
        self, context: RunContext, of_snap: Sequence[Stage], of_visit: Sequence[Stage]
    ) -> Clipboard:
        """The values of the visit after these stages."""
        snaps = self._snaps(context, of_snap)
        warnings = [text for snap in snaps for text in snap.get("warnings", ())]
        exposures = [snap["exposure"] for snap in snaps]
        values = values_of_visit(exposures, context, Sdqa(), warnings)
        return run_chain(of_visit, context.stage_configs, values)

    def _image_with(
        self, context: RunContext, of_snap: Sequence[Stage], of_visit: Sequence[Stage]
    ) -> _Image:
        """The calexp as ic gets it; the one that the last call made, if it is the same."""
        steps = (*of_snap, *of_visit)
        configs = tuple(context.stage_configs[step.name] for step in steps)
        functions = tuple(step.run for step in steps)
        made_with = (configs, functions, context.corrections, context.config.products)
        if self._image is None or self._image.made_with != made_with:
            values = self._visit(context, of_snap, of_visit)
            calexp = settle(values["calexp"], context).exposure
            self._image = _Image(made_with, calexp, values["background"], values["warnings"])
        return self._image

    def _sources(
        self,
        context: RunContext,
        image: _Image,
        wanted: Sequence[Stage],
        replaced: Mapping[str, StageFunction],
    ) -> Clipboard:
        """The values after these stages, those of the calexp among them."""
        failures = Failures()
        calexp, background = copy.deepcopy((image.calexp, image.background))
        values = values_on_calexp(
            calexp, background, image.warnings, context, TaskResultTables(), failures
        )

        def failed(step: Stage, error: Exception) -> None:
            if step.name in replaced:
                raise error
            failures.note(step, error)

        names = {step.name for step in (*ON_CALEXP, *AT_POSITIONS)}
        stages = [step for step in wanted if step.name in names]
        run_chain(stages, context.stage_configs, values, failed=failed)
        self.problems = failures.reasons
        return values


def assignments_of(changes: Options) -> tuple[str, ...]:
    """Values by key as the assignments of a command line."""
    return tuple(f"{key}={toml_value(value)}" for key, value in changes.items())


def changed(config: AnyConfig, changes: Options) -> AnyConfig:
    """A configuration with other values.

    Raises
    ------
    ConfigError
        If there is no such option, or it can not have that value.
    """
    old = {key: value for key, value, _ in options(config) if value is not None}
    return load_config(None, assignments_of(old | dict(changes)))


def _upto(chain: Sequence[Stage], last: str | None, *, before: bool) -> tuple[Stage, ...]:
    """The stages of a chain through the last one, or those before it; all if it is in another."""
    names = [step.name for step in chain]
    if last is None or last not in names:
        return tuple(chain)
    return tuple(chain[: names.index(last) + (not before)])


def _replaced(chain: Sequence[Stage], functions: Mapping[str, StageFunction]) -> tuple[Stage, ...]:
    """The stages of a chain with other functions."""
    return tuple(
        replace(step, run=functions[step.name]) if step.name in functions else step
        for step in chain
    )
