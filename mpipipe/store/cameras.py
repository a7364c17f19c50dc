"""Camera descriptions: the built-in ones and the user's own, read from TOML."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mpipipe.data
from mpipipe.data.camera import Camera
from mpipipe.data.errors import ConfigError
from mpipipe.data.validation import explain

_FOLDER = Path(mpipipe.data.__file__).parent / "cameras"


def builtin_cameras() -> list[str]:
    """Names of the built-in cameras, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_camera(name_or_path: str | Path) -> Camera:
    """A built-in camera by its name, or any camera by the path of its TOML file.

    A file may say ``base = "NAME"`` (a built-in camera) or ``base = "OTHER.toml"`` (relative to
    itself): it then changes only what it names; tables are merged, lists are replaced.

    Raises
    ------
    ConfigError
        Naming the file, the key and the nearest known one when the description is at fault, or
        the nearest built-in camera when there is no such file.
    """
    text = str(name_or_path)
    if text in builtin_cameras():
        return _load_builtin(text)
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        close = difflib.get_close_matches(text, builtin_cameras(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "mpipipe camera list shows them"
        raise ConfigError(f"there is no built-in camera {text!r}", way_out=hint)
    return _load_file(path)


def recognise_camera(header: Mapping[str, Any]) -> str | None:
    """The built-in camera that wrote a primary header.

    Parameters
    ----------
    header
        Keys and values; the keys in `recognition_keys` matter.

    Returns
    -------
    str or None
        The first by name of `matching_cameras`; None when no camera matches.
    """
    return next(iter(matching_cameras(header)), None)


def matching_cameras(header: Mapping[str, Any]) -> dict[str, str]:
    """The built-in cameras that may have written a primary header, and why; sorted by name.

    Those whose every condition holds; of them the ones with most conditions.
    """
    found: dict[int, dict[str, str]] = {}
    for name in builtin_cameras():
        conditions = _conditions(_load_builtin(name))
        if conditions and all(_matches(header.get(k), p) for k, p in conditions.items()):
            why = " and ".join(f"{key} is {header[key]!r}" for key in sorted(conditions))
            found.setdefault(len(conditions), {})[name] = why
    return found[max(found)] if found else {}


def recognition_keys() -> tuple[str, ...]:
    """All header keys by which built-in cameras are recognised, sorted."""
    cameras = (_load_builtin(name) for name in builtin_cameras())
    return tuple(sorted({key for camera in cameras for key in _conditions(camera)}))


def _conditions(camera: Camera) -> dict[str, tuple[str, ...]]:
    conditions = dict(camera.recognise)
    if camera.instrument:
        conditions["INSTRUME"] = camera.instrument
    return conditions


def _matches(value: Any, patterns: tuple[str, ...]) -> bool:
    if value is None:
        return False
    text = str(value).strip().lower()
    return any(fnmatch.fnmatchcase(text, pattern.lower()) for pattern in patterns)


@functools.cache
def _load_builtin(name: str) -> Camera:
    return _load_file(_FOLDER / f"{name}.toml")


def _load_file(path: Path) -> Camera:
    content = _read_toml(path, ())
    try:
        return Camera.model_validate(content)
    except ValidationError as error:
        raise explain(error, path, Camera) from error


def _read_toml(path: Path, via: tuple[Path, ...]) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such camera file",
            file=path,
            way_out="mpipipe camera list shows the names of built-in cameras",
        ) from error
    except OSError as error:
        raise ConfigError(f"can not be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is no text file in UTF-8", file=path) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is no TOML: {error}", file=path) from error
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError("must be a camera's name or a file", file=path, key="base")
    base_path = _FOLDER / f"{base}.toml" if base in builtin_cameras() else path.parent / base
    if base_path.resolve() in via or base_path.resolve() == path.resolve():
        raise ConfigError("leads back to this file", file=path, key="base")
    return _merged(_read_toml(base_path, (*via, path.resolve())), content)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        tables = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(result[key], value) if tables else value
    return result
