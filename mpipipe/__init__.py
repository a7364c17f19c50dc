"""mpipipe: raw frames of a survey camera to calibrated exposures and catalogues, under MPI.

Importing this package costs next to nothing: everything heavy is imported where it is used.
`read_exposure`, `read_psf` and `read_table` read products; a `Workbench` runs the stages of one
exposure by hand. docs/python.md shows them at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpipipe import jit_cache

if TYPE_CHECKING:
    from mpipipe.run.workbench import Workbench
    from mpipipe.store.catalogue import read_table
    from mpipipe.store.images import read_exposure
    from mpipipe.store.psf import read_psf

__all__ = ["Workbench", "read_exposure", "read_psf", "read_table"]
__version__ = "0.1.0"

_HOMES = {
    "Workbench": "mpipipe.run.workbench",
    "read_exposure": "mpipipe.store.images",
    "read_psf": "mpipipe.store.psf",
    "read_table": "mpipipe.store.catalogue",
}

jit_cache.configure()


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
