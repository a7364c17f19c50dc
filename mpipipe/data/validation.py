"""Faults in TOML files, told to people: pydantic's errors as file, key, reason and way out."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mpipipe.data.errors import ConfigError

_WORDS = {
    "missing": "is missing",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "is empty or too short",
}


def explain(
    error: ValidationError, file: str | Path | None, model: type[BaseModel] | None = None
) -> ConfigError:
    """One `ConfigError` that tells all faults pydantic found in a configuration.

    Parameters
    ----------
    error
        What pydantic raised.
    file
        The file, or a word on where the values came from.
    model
        The model that was to be filled; with it an unknown key is answered by the nearest one.

    Returns
    -------
    ConfigError
        Its `key` is the first faulty one; further faults stand in the reason.
    """
    items = [dict(item) for item in error.errors(include_url=False)]
    # A misspelt key also shows as a missing one: tell the cause before the consequence.
    items.sort(key=lambda item: item["type"] != "extra_forbidden")
    faults = [_fault(item, model) for item in items]
    key, reason, way_out = faults[0]
    if len(faults) > 1:
        texts = [f"{what} ({hint})" if hint else what for _, what, hint in faults]
        others = [f"key {name}: {text}" for (name, _, _), text in zip(faults, texts, strict=True)]
        reason, way_out = "; ".join([texts[0], *others[1:]]), None
    return ConfigError(reason, file=file, key=key, way_out=way_out)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to a misspelt one, or None when none is close."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.6)
    return names[close[0]] if close else None


def _fault(item: dict[str, Any], model: type[BaseModel] | None) -> tuple[str, str, str | None]:
    location: Sequence[str | int] = item["loc"]
    kind: str = item["type"]
    key = _dotted(location)
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = nearest(str(location[-1]), known)
        if close is not None:
            return key, "is unknown", f"did you mean {close!r}?"
        return key, "is unknown", f"known here: {', '.join(sorted(known))}" if known else None
    if kind in ("enum", "literal_error"):
        expected = item.get("ctx", {}).get("expected", "")
        return key, f"can not be {item['input']!r}", f"one of {expected}"
    if kind == "value_error":
        cause = item.get("ctx", {}).get("error")
        return key, str(getattr(cause, "reason", cause)), getattr(cause, "way_out", None)
    words = _WORDS.get(kind)
    if words is None:
        words = item["msg"].replace("Input should be", "must be")
        words = words[:1].lower() + words[1:]
    if kind not in ("missing", "too_short"):
        words += f", not {_short(item['input'])}"
    return key, words, None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _dotted(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(whole file)"


def _known_keys(model: type[BaseModel] | None, location: Sequence[str | int]) -> list[str]:
    """Names of the fields at a place in the tree of a model; empty if the place is no table."""
    here: Any = model
    for part in location:
        here = _descend(here, part)
    found = _as_model(here)
    return [] if found is None else [info.alias or n for n, info in found.model_fields.items()]


def _descend(annotation: Any, part: str | int) -> Any:
    model = _as_model(annotation)
    if model is not None:
        info = model.model_fields.get(str(part))
        return None if info is None else info.annotation
    for inner in typing.get_args(annotation):
        origin = typing.get_origin(inner)
        if origin in (dict, tuple, list, typing.Annotated):
            return _descend(inner, part)
    arguments = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case origin if origin is dict:
            return arguments[1]
        case origin if origin in (tuple, list, typing.Annotated):
            return arguments[0]
    return None


def _as_model(annotation: Any) -> type[BaseModel] | None:
    """The model an annotation stands for, looking through ``X | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            if (found := _as_model(inner)) is not None:
                return found
    return None
