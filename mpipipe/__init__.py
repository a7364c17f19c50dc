"""mpipipe: raw frames of a survey camera to calibrated exposures and catalogues, under MPI.

Importing this package costs next to nothing: everything heavy is imported where it is used.
"""

from mpipipe import jit_cache

__version__ = "0.1.0"

jit_cache.configure()
