"""The model of a sweep, kept in its folder as ``model.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.run.sweep import Measured, observations, read_sweep
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.trace.model.law import Column, Law
from mpipipe.trace.model.model import Left, Model, fit

VERSION = 2
_WAY_OUT = "mpipipe scaling fit DIR"
_DIGITS = 9


def fit_sweep(folder: Path, seed: int = 0) -> Model:
    """Fit the model to all runs of a sweep, and keep it there.

    Raises
    ------
    ConfigError
        If there are no runs.
    """
    runs = read_sweep(folder)
    model = fit(observations(runs), seed=seed)
    write_json_atomically(folder / "model.json", as_json(model) | {"runs": _walls(runs)})
    return model


def _walls(runs: Sequence[Measured]) -> dict[str, float]:
    """By which runs of a sweep are told from others."""
    return {one.name: one.seen.wall_s for one in runs}


def load_model(folder: Path) -> Model:
    """The model of a sweep.

    Raises
    ------
    ConfigError
        If none was fitted, or to other runs than are there now.
    BadDataError
        If it can not be read.
    """
    path = folder / "model.json"
    if not path.exists():
        raise ConfigError("has no model", file=folder, way_out=_WAY_OUT)
    content = read_json(path)
    try:
        if content["version"] != VERSION:
            reason = f"is of version {content['version']}, not {VERSION}"
            raise BadDataError(reason, file=path, way_out=_WAY_OUT)
        found, fitted = _of_json(content["model"]), content["runs"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadDataError(f"is no model ({error!r})", file=path, way_out=_WAY_OUT) from error
    if fitted != _walls(read_sweep(folder)):
        raise ConfigError(
            "was fitted to other runs than are there now", file=path, way_out=_WAY_OUT
        )
    return found


def as_json(model: Model) -> dict[str, Any]:
    """A model as JSON."""
    found = asdict(model)
    found["durations"] = model.durations.tolist()
    found["laws"] = {
        name: {
            "columns": [asdict(column) for column in law.columns],
            "factors": law.factors.tolist(),
            "draws": [[float(f"{x:.{_DIGITS}g}") for x in row] for row in law.draws.tolist()],
            "error": law.error if np.isfinite(law.error) else None,
        }
        for name, law in model.laws.items()
    }
    return {"version": VERSION, "model": found}


def _of_json(content: dict[str, Any]) -> Model:
    laws = {
        name: Law(
            tuple(Column(**column) for column in law["columns"]),
            np.array(law["factors"], float),
            np.array(law["draws"], float).reshape(-1, len(law["columns"])),
            np.inf if law["error"] is None else float(law["error"]),
        )
        for name, law in content["laws"].items()
    }
    return Model(
        laws,
        np.array(content["durations"], float),
        float(content["n_files"]),
        float(content["n_bytes"]),
        tuple(content["ranks"]),
        tuple(content["tasks"]),
        int(content["cores"]),
        tuple(Left(**one) for one in content["left"]),
        tuple(map(float, content["scatter"])),
    )
