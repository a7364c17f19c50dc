"""One thread a rank: N ranks on N cores must not start N times N threads.

Imports nothing but the standard library, because the settings count only if they are made before
numpy is imported for the first time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

THREAD_KEYS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def limit_threads(environ: MutableMapping[str, str] | None = None) -> list[str]:
    """Set the libraries' thread counts to one where nobody has set them.

    Returns
    -------
    list of str
        Warnings: settings that ask for more than one thread, or that come too late.
    """
    environment = os.environ if environ is None else environ
    warnings = []
    for key in THREAD_KEYS:
        asked = environment.setdefault(key, "1")
        if asked != "1":
            warnings.append(
                f"{key}={asked}: every rank starts that many threads; unset it to have one"
            )
    if environ is None and "numpy" in sys.modules and count_threads() > 1:
        warnings.append("numpy was imported before the number of threads was limited")
    return warnings


def count_threads() -> int:
    """Number of threads of this process; 1 where it can not be told (no /proc)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1
