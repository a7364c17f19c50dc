"""The options of a model in words, from the docstrings that stand under its fields."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import typing
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


@dataclass(frozen=True)
class Described:
    """One field of a model: its name, type and default as text, and what it means."""

    name: str
    type: str
    default: str
    meaning: str


def describe(model: type[BaseModel]) -> list[Described]:
    """The fields of a model, in order; `default` is ``required`` where there is none."""
    annotations, meanings = _from_source(model)
    described = []
    for name, info in model.model_fields.items():
        if info.is_required():
            default = "required"
        elif info.default is PydanticUndefined or isinstance(info.default, BaseModel):
            default = ""
        else:
            default = str(info.default)
        described.append(
            Described(name, annotations.get(name, ""), default, meanings.get(name, ""))
        )
    return described


def parts_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all models inside it, outer ones first, each once."""
    found: list[type[BaseModel]] = []

    def visit(annotation: object) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in found:
                found.append(annotation)
                for info in annotation.model_fields.values():
                    visit(info.annotation)
            return
        for inner in typing.get_args(annotation):
            visit(inner)

    visit(model)
    return found


def _from_source(model: type[BaseModel]) -> tuple[dict[str, str], dict[str, str]]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(tree, ast.ClassDef)
    annotations: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for statement, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        annotations[name] = _in_words(ast.unparse(statement.annotation))
        if (
            isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            meanings[name] = " ".join(following.value.value.split())
    return annotations, meanings


_WORDS = {
    "Literal": "one of ",
    "tuple": "list",
    "dict": "table",
    "str": "string",
    "float": "number",
    "int": "whole number",
    "bool": "true or false",
    "SectionField": "section",
}


def _in_words(annotation: str) -> str:
    """A type in the words of TOML, which has no tuples and no None."""
    text = annotation.replace(" | None", "").replace(", ...", "")
    return re.sub(r"[A-Za-z]+", lambda word: _WORDS.get(word[0], word[0]), text)
