"""What a stage is, and how a chain of stages is checked and run.

A stage is a function of named values. It declares what it `needs`, what it `adds` to the
clipboard, and its configuration. A pipeline is an ordered list of stages; `check_chain` proves,
before any pixel is read, that every stage will find what it needs.

A stage with a `fallback` can not stop a chain: if it fails, or is switched off, the fallback gives
what it would have added, so that later stages do what they still can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mpipipe.data.errors import ConfigError

Clipboard = dict[str, Any]
"""The values of one task on their way through its stages, by name."""

StageFunction = Callable[..., Mapping[str, Any]]


class StageConfig(BaseModel):
    """Base of a stage's options. Every option has a description; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="run this stage")


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Attributes
    ----------
    name
        ``pipeline.stage``, e.g. ``isr.overscan``.
    needs, adds
        Names of clipboard values it takes and gives. A value it changes stands in both.
    config
        The class of its options.
    run
        ``run(config, **needs) -> {name: value for adds}``.
    always
        Whether it can not be switched off (it makes values that later stages can not miss).
    fallback
        ``fallback(config, **needs) -> {name: value for adds}`` for when it fails or is switched
        off: nothing half-made, and marked as such. None: its failure is that of the chain.
    """

    name: str
    needs: tuple[str, ...]
    adds: tuple[str, ...]
    config: type[StageConfig]
    run: StageFunction
    always: bool = False
    fallback: StageFunction | None = None

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.run.__doc__ or "").strip().splitlines()[0] if self.run.__doc__ else ""


def stage(
    name: str,
    *,
    needs: Iterable[str],
    adds: Iterable[str],
    config: type[StageConfig] = StageConfig,
    always: bool = False,
    fallback: StageFunction | None = None,
) -> Callable[[StageFunction], Stage]:
    """Make a `Stage` of the function below it."""

    def wrap(function: StageFunction) -> Stage:
        return Stage(name, tuple(needs), tuple(adds), config, function, always, fallback)

    return wrap


def check_chain(
    stages: Iterable[Stage], given: Iterable[str], disabled: Iterable[str] = ()
) -> set[str]:
    """Prove that a chain can run; return the names of all values it ends with.

    Parameters
    ----------
    stages
        The chain in order.
    given
        Values that are there before the first stage.
    disabled
        Names of stages that are switched off. A stage that only changes values may be, or one that
        has a fallback; one that adds a value which a later stage needs may not.

    Raises
    ------
    ConfigError
        Naming the stage, the missing value, and the stage that would have added it.
    """
    off = set(disabled)
    have = set(given)
    lost: dict[str, str] = {}
    for step in stages:
        if step.name in off:
            if step.always:
                raise ConfigError(f"stage {step.name} can not be switched off", key=step.name)
            if step.fallback is None:
                lost.update({value: step.name for value in step.adds if value not in have})
                continue
        for value in step.needs:
            if value in have:
                continue
            reason = f"stage {step.name} needs {value!r}, which nothing before it adds"
            if value in lost:
                reason += f"; stage {lost[value]}, which adds it, is switched off"
            raise ConfigError(reason, key=step.name)
        have.update(step.adds)
    return have


StageHook = Callable[[Stage, float, float], None]
"""Called after each stage with (stage, wall seconds, CPU seconds)."""


ValuesHook = Callable[[Stage, Clipboard], None]
"""Called after each stage with the clipboard as it leaves it."""


FailureHook = Callable[[Stage, Exception], None]
"""Called with a stage that has failed and has a fallback, and with its error."""


def run_chain(
    stages: Iterable[Stage],
    configs: Mapping[str, StageConfig],
    clipboard: Clipboard,
    *,
    before: Callable[[Stage], None] | None = None,
    after: StageHook | None = None,
    seen: ValuesHook | None = None,
    failed: FailureHook | None = None,
) -> Clipboard:
    """Run stages in order on a clipboard, which is changed and returned.

    Parameters
    ----------
    configs
        Stage name to its options; a stage that is absent runs with its defaults.
    before, after
        Called around every stage: the caller keeps the name of the running stage and the times.
    seen
        Called after every stage: what it raises ends the chain and goes to the caller.
    failed
        Called when a stage that has a fallback fails, before the fallback is taken; without it
        errors of such stages go to the caller like all others.
    """
    from time import perf_counter, process_time

    for step in stages:
        config = configs.get(step.name) or step.config()
        function = step.run
        if not config.enabled and not step.always:
            if step.fallback is None:
                continue
            function = step.fallback
        if before is not None:
            before(step)
        wall, cpu = perf_counter(), process_time()
        needed = {name: clipboard[name] for name in step.needs}
        try:
            added = function(config, **needed)
        except Exception as error:
            if step.fallback is None or failed is None or isinstance(error, MemoryError):
                raise
            failed(step, error)
            added = step.fallback(config, **needed)
        if set(added) != set(step.adds):
            raise TypeError(f"stage {step.name} promised {step.adds}, gave {tuple(added)}")
        clipboard.update(added)
        if after is not None:
            after(step, perf_counter() - wall, process_time() - cpu)
        if seen is not None:
            seen(step, clipboard)
    return clipboard
