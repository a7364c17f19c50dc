"""A site: which scheduler, which MPI, what its nodes are like. One TOML file a cluster."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mpipipe.data.errors import ConfigError
from mpipipe.data.validation import explain


class _Branch(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Nodes(_Branch):
    """What a node is like."""

    cores: int = Field(ge=1, description="cores of a node that jobs may use: a rank each")
    memory: float = Field(gt=0, description="GB of memory of a node that jobs may use")
    most: int = Field(default=64, ge=1, description="nodes that a job may ask for")


class Launch(_Branch):
    """How ranks are started."""

    mpi: Literal["openmpi5", "openmpi", "mpich", "srun"] = Field(
        default="openmpi5",
        description="openmpi5 survives the loss of ranks (ULFM, over ob1); the others resume",
    )
    options: tuple[str, ...] = Field(
        default=(), description="more words for mpirun or srun: transports, binding"
    )
    setup: tuple[str, ...] = Field(
        default=(),
        description="shell lines before anything else: module load ..., source .../bin/activate",
    )
    archive: str = Field(
        default="",
        description="tar file of the environment, unpacked on every node; empty: shared as it is",
    )
    local: str = Field(default="/tmp", description="folder of a node where the archive is unpacked")


class Job(_Branch):
    """What is asked of the scheduler."""

    scheduler: Literal["slurm", "pbs", "none"] = Field(description="none: mpirun on this machine")
    partition: str = Field(default="", description="partition or queue")
    account: str = Field(default="", description="account or project")
    constraint: str = Field(default="", description="type of node: one type of CPU, same bits")
    longest: float = Field(default=24.0, gt=0, description="hours that a job may take at most")
    lead: int = Field(
        default=300, ge=10, description="seconds before the time limit at which work is drained"
    )
    starts: int = Field(
        default=5, ge=1, description="times that a job may be started by the scheduler"
    )
    tries: int = Field(
        default=3, ge=1, description="times that ranks are started within a job, after losses"
    )
    spare: int = Field(default=0, ge=0, description="nodes more than needed, for lost ones")
    extra: tuple[str, ...] = Field(default=(), description="more directives: --qos=night")

    @model_validator(mode="after")
    def _leaves_time(self) -> Job:
        if self.longest * 3600 <= self.lead:
            raise ValueError("longest leaves no time before the lead")
        return self


class Files(_Branch):
    """The parallel file system."""

    stripes: int = Field(
        default=0, ge=-1, description="Lustre stripes of the run folder; 0: as they are, -1: all"
    )


class Site(_Branch):
    """A cluster, or one machine."""

    nodes: Nodes
    job: Job
    launch: Launch = Launch()
    files: Files = Files()


def load_site(path: Path) -> Site:
    """Read a site file.

    Raises
    ------
    ConfigError
        If it can not be read, or a key is unknown or has no sense.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"can not be read: {error.strerror}",
            file=path,
            key="--site",
            way_out="give the TOML file of your cluster; jobs/sites has examples",
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"is no TOML: {error}", file=path) from error
    try:
        return Site.model_validate(content)
    except ValidationError as error:
        raise explain(error, path, Site) from error
