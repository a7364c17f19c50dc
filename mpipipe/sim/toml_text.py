"""Plain values as TOML text; the standard library reads TOML but does not write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_toml(content: Mapping[str, Any]) -> str:
    """`content` (strings, numbers, booleans, lists and tables of those) as TOML.

    None is left out, as TOML has no such value.
    """
    lines: list[str] = []
    _table(content, (), lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(content: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    tables = {key: value for key, value in content.items() if _is_table(value)}
    for key, value in content.items():
        if key not in tables and value is not None:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in tables.items():
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            _table(value, (*path, key), lines)
        else:
            for entry in value:
                lines += ["", f"[[{name}]]"]
                _table(entry, (*path, key), lines)


def _is_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


def _key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    # JSON's string is TOML's but for surrogate pairs and the one control character it leaves.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
