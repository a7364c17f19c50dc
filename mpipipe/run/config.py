"""The configuration of a run: one strict tree of options, read from TOML and the command line.

The tree has a branch for each pipeline (``isr``, ``ca``, ``cs``, ``sfm``, ``calibs``) with a leaf
for each stage, and branches of the run itself. An unknown key is an error that names the nearest
one; every option has a description (``mpipipe config explain KEY``).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mpipipe.data.camera import Corrections, Need
from mpipipe.data.errors import ConfigError
from mpipipe.data.validation import explain
from mpipipe.run.pipelines import PIPELINES
from mpipipe.stages.calibs.combine import CombineConfig
from mpipipe.stages.calibs.defects import DefectsConfig
from mpipipe.stages.calibs.photon_transfer import PhotonTransferConfig
from mpipipe.stages.stage import Stage, StageConfig
from mpipipe.store.checkpoint.syncing import Durability


class _Branch(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorrectionsConfig(_Branch):
    """What the user asks of each correction; unset means: as the camera description says."""

    saturation: Need | None = Field(default=None, description="mask saturated pixels")
    overscan: Need | None = Field(default=None, description="subtract the overscan level")
    crosstalk: Need | None = Field(default=None, description="subtract crosstalk between channels")
    linearity: Need | None = Field(default=None, description="correct non-linearity")
    bias: Need | None = Field(default=None, description="subtract the master bias")
    dark: Need | None = Field(default=None, description="subtract the master dark")
    flat: Need | None = Field(default=None, description="divide by the master flat")
    defects: Need | None = Field(default=None, description="mask known defects")

    def over(self, camera: Corrections) -> Corrections:
        """The camera's corrections with the user's wishes laid over them."""
        return camera.model_copy(update=self.model_dump(exclude_none=True))


class ProductsConfig(_Branch):
    """Which products are kept, and how."""

    post_isr: bool = Field(default=False, description="keep each channel's image after isr")
    assembled: bool = Field(default=False, description="keep each snap's assembled image after ca")
    compression: Literal["quantized", "none"] = Field(
        default="quantized",
        description="quantized: Rice with steps of the noise over quantize_level (subtractive "
        "dither, fixed seed), the mask exact; none: plain FITS",
    )
    quantize_level: float = Field(
        default=16.0,
        ge=4.0,
        description="noise over quantisation step; 16 adds 0.02 % to the variance",
    )


class SchedulingConfig(_Branch):
    """How tasks are handed out, and when an attempt counts as hung."""

    attempts: int = Field(
        default=3, ge=1, description="attempts at a task that fails, hangs or is lost"
    )
    deadline: float = Field(
        default=900.0, gt=0, description="seconds after which a task counts as hung and is ended"
    )
    memory_limit: float = Field(
        default=0.0, ge=0, description="GB of address space a task may use; 0: no limit"
    )
    node_memory: float = Field(
        default=0.0,
        ge=0,
        description="GB that the tasks of a node may take together by their estimates; "
        "0: what the node of rank 0 has",
    )
    first: tuple[int, ...] = Field(
        default=(), description="visits that are processed before all others"
    )
    silence: float = Field(
        default=60.0,
        gt=0,
        description="seconds after which a rank without a sign of life is killed (under ULFM)",
    )


class CheckpointConfig(_Branch):
    """How what the tasks gave is kept; nothing here changes a product."""

    durability: Durability = Field(
        default=Durability.POWER,
        description="power: records are synced to disk; process: they survive the death of "
        "processes, not of the machine; none: as process, and no space is reserved",
    )
    interval: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="seconds for which records may wait for a sync; 0: each by itself; auto: each "
        "by itself while syncs take less than 1 % of the time",
    )
    mtbf: float = Field(
        default=20000.0, gt=0, description="hours between two losses of a node, for interval = auto"
    )
    files: Literal["auto", "shared", "per-rank"] = Field(
        default="auto",
        description="one file for all ranks, or one each; auto: shared, but not on network file "
        "systems that do not keep several writers apart",
    )


class AssociateConfig(_Branch):
    """How the sources of all visits are brought together; nothing here changes a product."""

    enabled: bool = Field(default=True, description="make objects of the sources of all visits")
    max_rows: int = Field(
        default=200_000,
        ge=1,
        description="sources of a sky cell, by which cells are chosen; a cell of 1.7 arcmin is not "
        "divided",
    )
    round_memory: float = Field(
        default=64.0,
        gt=0,
        le=1000,
        description="MB that a rank sends, and gets, in a round of the exchange",
    )


class CalibsConfig(_Branch):
    """How master calibrations are built."""

    min_frames: int = Field(default=3, ge=1, description="frames needed to build a master")
    combine: CombineConfig = Field(default=CombineConfig(), description="combining frames")
    photon_transfer: PhotonTransferConfig = Field(
        default=PhotonTransferConfig(), description="gain and read noise"
    )
    defects: DefectsConfig = Field(default=DefectsConfig(), description="finding defects")


def _pipeline_model(name: str, stages: Iterable[Stage]) -> type[_Branch]:
    fields: dict[str, Any] = {
        step.name.partition(".")[2]: (step.config, Field(step.config(), description=step.summary))
        for step in stages
    }
    return create_model(f"{name.capitalize()}Config", __base__=_Branch, **fields)


_PIPELINE_FIELDS: dict[str, Any] = {
    name: (model, Field(model(), description=f"stages of the pipeline {name}"))
    for name, model in ((name, _pipeline_model(name, stages)) for name, stages in PIPELINES.items())
}


class AnyConfig(_Branch):
    """The options of the run itself; `RunConfig` adds the branches of the pipelines."""

    camera: str | None = Field(
        default=None,
        description="name of a built-in camera or path of its TOML file; unset: recognised",
    )
    seed: int = Field(default=0, ge=0, description="seed of everything random in the run")
    corrections: CorrectionsConfig = Field(
        default=CorrectionsConfig(), description="require, if-available or off for each correction"
    )
    products: ProductsConfig = Field(
        default=ProductsConfig(), description="which products are kept"
    )
    scheduling: SchedulingConfig = Field(
        default=SchedulingConfig(), description="attempts and deadlines"
    )
    checkpoint: CheckpointConfig = Field(
        default=CheckpointConfig(), description="committed records"
    )
    associate: AssociateConfig = Field(
        default=AssociateConfig(), description="bringing the sources of all visits together"
    )
    calibs: CalibsConfig = Field(default=CalibsConfig(), description="master calibrations")

    def stage_configs(self) -> dict[str, StageConfig]:
        """Stage name to its options, for all pipelines."""
        return {
            step.name: getattr(getattr(self, pipeline), step.name.partition(".")[2])
            for pipeline, stages in PIPELINES.items()
            for step in stages
        }


RunConfig = create_model("RunConfig", __base__=AnyConfig, **_PIPELINE_FIELDS)
"""The whole tree. Built here from the registered stages, so a new stage needs no entry."""


def load_config(file: Path | None = None, assignments: Iterable[str] = ()) -> AnyConfig:
    """Read a configuration: defaults, then a TOML file, then ``KEY=VALUE`` assignments.

    Parameters
    ----------
    file
        TOML file, or None.
    assignments
        ``isr.overscan.smooth=31``; the value is read as TOML, else taken as a string.

    Raises
    ------
    ConfigError
        Naming the file and the key; an unknown key names the nearest one.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"can not be read: {error.strerror}", file=file) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"can not be read: {error}", file=file) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"is no TOML: {error}", file=file) from error
    for assignment in assignments:
        _assign(tree, assignment)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, file or "--set", RunConfig) from error


def _assign(tree: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"{assignment!r} is no assignment", way_out="write --set isr.overscan.enabled=false"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *branches, leaf = key.strip().split(".")
    for branch in branches:
        tree = tree.setdefault(branch, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{branch!r} is an option, not a group of options", key=key)
    tree[leaf] = value


def options(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """All options as (dotted key, value, description), depth first."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from options(value, f"{key}.")
        else:
            yield key, value, info.description or ""


def to_toml(config: BaseModel, *, with_help: bool = True) -> str:
    """The whole configuration as TOML, each option under its description.

    An unset option is written as a comment, since TOML has no null.
    """
    lines: list[str] = []
    _write_branch(config, "", lines, with_help)
    return "\n".join(lines).strip() + "\n"


def _write_branch(branch: BaseModel, path: str, lines: list[str], with_help: bool) -> None:
    leaves: list[tuple[str, Any, Any]] = []
    branches: list[tuple[str, Any, Any]] = []
    for name, info in type(branch).model_fields.items():
        value = getattr(branch, name)
        (branches if isinstance(value, BaseModel) else leaves).append((name, value, info))
    if path and leaves:
        lines += ["", f"[{path}]"]
    for name, value, info in leaves:
        if with_help and info.description:
            lines.append(f"# {info.description}")
        lines.append(f"# {name} =" if value is None else f"{name} = {toml_value(value)}")
    for name, value, _ in branches:
        _write_branch(value, f"{path}.{name}" if path else name, lines, with_help)


def toml_value(value: Any) -> str:
    """The value of an option as TOML.

    Raises
    ------
    TypeError
        If TOML has no word for it: None.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case StrEnum() | str():
            return json.dumps(str(value), ensure_ascii=False)
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case Mapping():
            inner = ", ".join(f"{json.dumps(key)} = {toml_value(v)}" for key, v in value.items())
            return "{" + inner + "}"
    raise TypeError(f"no TOML for {value!r}")
