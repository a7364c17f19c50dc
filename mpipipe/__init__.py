"""mpipipe: raw frames of a survey camera to calibrated exposures and catalogues, under MPI.

Importing this package costs next to nothing: everything heavy is imported where it is used.
`mpipipe.read_table(path)` gives a published catalogue as an astropy Table.
"""

from typing import TYPE_CHECKING, Any

from mpipipe import jit_cache

if TYPE_CHECKING:
    from mpipipe.store.catalogue import read_table

__all__ = ["read_table"]
__version__ = "0.1.0"

jit_cache.configure()


def __getattr__(name: str) -> Any:
    """`read_table`, imported when it is asked for."""
    if name == "read_table":
        from mpipipe.store.catalogue import read_table

        return read_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
