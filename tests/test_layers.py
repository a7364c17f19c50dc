"""The layers: imports point downwards, and only one module opens each door to the outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mpipipe"

ALLOWED = {
    "cli": {"cli", "run", "parallel", "store", "stages", "data", "trace", "sim", "quality"},
    "run": {"run", "parallel", "store", "stages", "data", "trace", "quality"},
    "parallel": {"parallel", "store", "data", "trace"},
    "store": {"store", "data", "trace"},
    "stages": {"stages", "data", "trace"},
    "data": {"data"},
    "trace": {"trace", "data"},
    "sim": {"sim", "store", "data"},
    "quality": {"quality", "store", "data", "stages"},
}
"""Layer to the layers it may import."""

ONE_DOOR = {"h5py": {"store/hdf5.py"}, "mpi4py": {"parallel/world.py", "parallel/doctor.py"}}
"""Library to the only modules that import it."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "mpipipe":
                found |= {f"mpipipe.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0]
    if layer.endswith(".py"):
        return
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "mpipipe" and len(parts) > 1 and parts[1] in ALLOWED:
            assert parts[1] in ALLOWED[layer], f"{layer} must not import {name}"


@pytest.mark.parametrize("library", ONE_DOOR)
def test_libraries_behind_one_door(library: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for name in imports_of(path))
    }
    assert users <= ONE_DOOR[library]


def test_nothing_is_unpickled() -> None:
    """No module imports a library that can run code out of a file or a message."""
    unsafe = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in modules():
        assert not unsafe & {name.split(".")[0] for name in imports_of(path)}, path


def test_the_pipeline_can_not_read_truth() -> None:
    """No layer of the pipeline knows the simulator, or names its truth folder."""
    for layer in ("run", "stages", "store", "parallel", "data"):
        for path in (PACKAGE / layer).rglob("*.py"):
            assert not any(name.startswith("mpipipe.sim") for name in imports_of(path)), path
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert node.value != "truth", path
