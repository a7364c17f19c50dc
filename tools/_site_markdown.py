"""Markdown for the pages of the site that are made from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def text(words: str) -> str:
    """Words of the code (a description, a docstring) as Markdown in one line.

    What stands in backticks is code, single or double as docstrings have it; so are options.
    """
    parts = re.split(r"(``?[^`]+``?|(?<!\S)--[a-z][a-z-]*)", " ".join(words.split()))
    return "".join(
        code(part.strip("`"))
        if part.startswith(("`", "--"))
        else re.sub(r"([\\*<>|\[\]])", r"\\\1", part)
        for part in parts
    )


def code(words: object) -> str:
    """Words as code; nothing of nothing."""
    return f"`{words}`" if str(words) else ""


def codes(words: Iterable[object]) -> str:
    """Several words as code."""
    return ", ".join(code(word) for word in words)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns that are empty in all rows are left out."""
    found = [tuple(row) for row in rows]
    kept = [i for i in range(len(heads)) if any(row[i] for row in found)]
    lines = [
        [heads[i] for i in kept],
        ["---"] * len(kept),
        *([row[i] for i in kept] for row in found),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def heading(level: int, words: str) -> str:
    """A heading."""
    return f"{'#' * level} {words}\n"


def docstring(thing: object) -> str:
    """The docstring of a class or function up to its first section, as paragraphs."""
    whole = inspect.getdoc(thing) or ""
    before = re.split(r"\n[A-Z][A-Za-z ]+\n-{3,}\n", whole)[0]
    return "\n\n".join(text(part) for part in before.split("\n\n"))
