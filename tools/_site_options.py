"""The pages of files that users write, made from the models that check these files."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from enum import Enum

from _site_markdown import code, codes, docstring, heading, table, text
from pydantic import BaseModel

from mpipipe.data.camera import Camera
from mpipipe.data.describe import describe, parts_of
from mpipipe.run.config import load_config, toml_value
from mpipipe.run.site import Site
from mpipipe.sim.survey import PRESETS, Survey, help_of
from mpipipe.store.cameras import builtin_cameras, load_camera

NUMBERS = ("number", "whole number")


def list_options() -> str:
    """Every option of a run."""
    return "\n".join(branches(load_config(), ""))


def branches(config: BaseModel, path: str) -> Iterator[str]:
    """A table for each group of options, outer groups first."""
    fields = type(config).model_fields
    leaves = [name for name in fields if not isinstance(getattr(config, name), BaseModel)]
    if leaves:
        level = 2 if path.count(".") == 0 else 3
        yield heading(level, code(path) if path else "The run itself")
        yield table(
            ("option", "default", "values", "what"),
            ((code(name), default_of(getattr(config, name)), values_of(fields[name]),
              text(fields[name].description or "")) for name in leaves),
        )  # fmt: skip
    elif path:
        yield heading(2, code(path))
    for name in fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from branches(value, f"{path}.{name}" if path else name)


def default_of(value: object) -> str:
    """A default as TOML has it."""
    return "unset" if value is None else code(toml_value(value))


def values_of(field: typing.Any) -> str:
    """Which values an option may have."""
    words = [kind_of(field.annotation)]
    for limit in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            bound = getattr(limit, name, None)
            if bound is not None:
                words.append(f"{sign} {bound:g}")
    return ", ".join(words)


def kind_of(annotation: object) -> str:
    """A type in the words of TOML."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (bool, int, float, str):
        words = {bool: "true or false", int: "whole number", float: "number", str: "text"}
        return words[annotation]  # type: ignore[index]
    if origin is typing.Literal:
        return " or ".join(code(value) for value in inner)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(code(member.value) for member in annotation)
    if origin is typing.Annotated:
        return kind_of(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_of(one) for one in inner if one is not type(None))
    if origin in (tuple, list):
        kinds = list(dict.fromkeys(kind_of(one) for one in inner if one is not ...))
        return "list of " + " and ".join(kind + "s" * (kind in NUMBERS) for kind in kinds)
    if origin is dict:
        return "table"
    return getattr(annotation, "__name__", str(annotation))


def list_camera_keys() -> str:
    """Built-in cameras, and every key of a camera file."""
    cameras = [load_camera(name) for name in builtin_cameras()]
    listed = table(
        ("name", "what", "format", "CCDs"),
        ((code(one.name), text(one.description), code(one.format.value), str(len(one.detectors)))
         for one in cameras),
    )  # fmt: skip
    parts = (model_part(model) for model in parts_of(Camera))
    return "\n".join((heading(2, "Built-in cameras"), listed, *parts))


def list_site_keys() -> str:
    """Every key of a site file."""
    return "\n".join(field_part(model) for model in parts_of(Site) if model is not Site)


def model_part(model: type[BaseModel]) -> str:
    """The keys of one table of a file, whose meanings stand in docstrings."""
    rows = (
        (code(field.name), text(field.type), code(field.default), text(field.meaning))
        for field in describe(model)
    )
    parts = (heading(2, code(model.__name__)), docstring(model) + "\n")
    return "\n".join((*parts, table(("key", "type", "default", "what"), rows)))


def field_part(model: type[BaseModel]) -> str:
    """The keys of one table of a file, whose meanings stand in the fields."""
    rows = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = "required" if field.is_required() else default_of(field.default)
        rows.append((code(name), default, values_of(field), text(field.description or "")))
    title = heading(2, code(f"[{model.__name__.lower()}]"))
    heads = ("key", "default", "values", "what")
    return "\n".join((title, docstring(model) + "\n", table(heads, rows)))


def list_simulator_options() -> str:
    """Every option of the simulator, and what presets change."""
    fields = table(
        ("option", "default", "what"),
        ((code(field.name), code(plain(field.default)), text(help_of(field.name)))
         for field in dataclasses.fields(Survey)),
    )  # fmt: skip
    parts = [heading(2, "Presets")]
    for name, changes in PRESETS.items():
        parts += [
            heading(3, code(name)),
            codes(f"{k}={plain(v)}" for k, v in changes.items()) + "\n",
        ]
    return "\n".join((*parts, heading(2, "Options"), fields))


def plain(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(plain, value))
    return json.dumps(value) if isinstance(value, bool) else str(value)
