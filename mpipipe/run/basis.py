"""What products follow from besides their frames: options, camera, code, libraries, references.

A run's products are made in four parts, each from the ones before it:

- ``masters``: master calibrations;
- ``image``: calexp and background of a visit and CCD, from raw frames and masters;
- ``sources``: its catalogues, from the calexp as it is stored, the reference catalogue and the
  positions to measure at;
- ``association``: objects, from the sources of all visits.

Every incarnation notes the basis of each part. What an earlier one has made is taken over as long
as its basis is the same; if only that of the sources has changed they alone are made again, and
objects of cells whose sources have come out as before are taken over, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpipipe
from mpipipe.data.camera import Camera
from mpipipe.run.config import AnyConfig, options

PARTS = ("masters", "image", "sources", "association")

PARTS_OF_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "camera": PARTS,
    "seed": PARTS,
    "corrections": ("masters", "image"),
    "products": ("image",),
    "scheduling": (),
    "checkpoint": (),
    "calibs": ("masters",),
    "isr": ("masters", "image"),
    "ca": ("masters", "image"),
    "cs": ("image",),
    "ic": ("sources",),
    "sfm": ("sources",),
    "sa": ("association",),
    "associate": (),
}
"""Which parts the options of each branch of the configuration can change."""

_SHARED_CODE = (
    *("data", "store", "stages/*.py"),
    *("run/context.py", "run/origin.py", "run/tables.py"),
)
_CODE: Mapping[str, tuple[str, ...]] = {
    "masters": (*_SHARED_CODE, "stages/isr", "stages/ca", "stages/calibs", "run/masters.py"),
    "image": (*_SHARED_CODE, "stages/isr", "stages/ca", "stages/cs", "run/calibrate.py"),
    "sources": (
        *_SHARED_CODE,
        "stages/ic",
        "stages/sfm",
        "stages/cs/masked_background.py",
        "run/calibrate.py",
        "run/reference.py",
    ),
    "association": (
        *_SHARED_CODE,
        "stages/sa",
        "run/associate.py",
        "run/gathering.py",
        "run/sky_plan.py",
    ),
}
_OPTION = "option "
_CATALOGUES = ("reference catalogue", "catalogue of positions")
_FOLDER = "folder of the "
"""Before a catalogue's name: tells one that somebody chose instead from one whose content has
changed."""
CODE_CHANGED = "mpipipe's code has changed"
_THINGS = {
    "camera": "the camera's description",
    **{name: f"the {name}" for name in _CATALOGUES},
}


@dataclass(frozen=True)
class Basis:
    """The basis of each part: names of facts to values that JSON can say."""

    parts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        config: AnyConfig,
        camera: Camera,
        reference: tuple[str, str] | None = None,
        forced: tuple[str, str] | None = None,
    ) -> Basis:
        """What products are made from now.

        Parameters
        ----------
        reference, forced
            SHA-256 of the index of the reference catalogue, and of the catalogue of positions to
            measure at, and where they are; None if there is none. They may be moved: that alone is
            no change.
        """
        described = camera.model_dump_json(exclude_none=True)
        common = {"camera": hashlib.sha256(described.encode()).hexdigest()}
        common |= {f"version {name}": text for name, text in versions().items()}
        flat = config.model_dump(mode="json")
        known = [(key, _at(flat, key)) for key, _, _ in options(config)]
        parts = {}
        for part in PARTS:
            chosen = {
                _OPTION + key: value
                for key, value in known
                if part in PARTS_OF_OPTIONS[key.partition(".")[0]]
            }
            parts[part] = common | chosen | {"code": _code_digest(part)}
        for name, catalogue in zip(_CATALOGUES, (reference, forced), strict=True):
            digest, folder = catalogue or ("", "")
            parts["sources"] |= {name: digest, _FOLDER + name: folder}
        return cls(parts)

    @classmethod
    def from_json(cls, content: object) -> Basis | None:
        """The basis that was written; None if this is none."""
        if not isinstance(content, dict) or set(content) != set(PARTS):
            return None
        if not all(isinstance(facts, dict) for facts in content.values()):
            return None
        return cls(content)

    def options_digest(self, part: str) -> str:
        """SHA-256 of the options of a part."""
        chosen = {k: v for k, v in self.parts[part].items() if k.startswith(_OPTION)}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()

    def changes(self, earlier: Basis, parts: Iterable[str]) -> Changes:
        """How this basis of some parts differs from an earlier one, in words."""
        wished, met = [], []
        for part in parts:
            now, was = self.parts[part], earlier.parts[part]
            for name in sorted(set(now) | set(was)):
                if now.get(name) == was.get(name) or name.startswith(_FOLDER):
                    continue
                if name.startswith(_OPTION):
                    key = name.removeprefix(_OPTION)
                    wished.append(f"{key} is {now.get(name)!r}, was {was.get(name)!r}")
                elif name.startswith("version "):
                    name = name.removeprefix("version ")
                    met.append(f"{name} is {now.get('version ' + name)}, "
                               f"was {was.get('version ' + name)}")  # fmt: skip
                elif name in _CATALOGUES and now[_FOLDER + name] != was.get(_FOLDER + name):
                    wished.append(f"the {name} is {now[_FOLDER + name] or 'none'}, "
                                  f"was {was.get(_FOLDER + name) or 'none'}")  # fmt: skip
                else:
                    met.append(CODE_CHANGED if name == "code" else f"{_THINGS[name]} has changed")
        return Changes(tuple(dict.fromkeys(wished)), tuple(dict.fromkeys(met)))


@dataclass(frozen=True)
class Changes:
    """Differences between two bases, a line each: options and catalogues that somebody
    chose, and what came about by itself: other code, libraries, camera, another content of the
    same catalogue."""

    options: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.options or self.others)

    def __str__(self) -> str:
        return "; ".join((*self.options, *self.others))


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what can change the bits of a product."""
    import platform
    from importlib.metadata import version

    names = ("mpipipe", "numpy", "scipy", "astropy", "pyerfa", "cdshealpix", "sep", "numba")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def note_code() -> None:
    """Take the digests of the code as it is now: a checkout may change while a run goes on."""
    for part in PARTS:
        _code_digest(part)


@functools.cache
def _code_digest(part: str) -> str:
    """SHA-256 over the modules that make a part."""
    root = Path(mpipipe.__file__).parent
    digest = hashlib.sha256()
    for pattern in _CODE[part]:
        found = [pattern] if pattern.endswith(".py") else [f"{pattern}/**/*.py"]
        for path in sorted(path for one in found for path in root.glob(one)):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
