"""All compiled kernels of the pipelines, made ready at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from mpipipe import jit_cache


def warm_up() -> str:
    """Compile (or load) every kernel on tiny arrays; return the cache folder.

    Kernels are compiled by two processes, each for a share that the other's has little of.
    """
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        for done in [pool.submit(share) for share in _SHARES]:
            done.result()
    return jit_cache.configure()


def _visit() -> None:
    from mpipipe.stages.warm_up import run_tiny_visit

    run_tiny_visit()


def _others() -> None:
    from mpipipe.stages.ca import kernels as ca_kernels
    from mpipipe.stages.calibs import kernels as calibs_kernels
    from mpipipe.stages.isr import kernels as isr_kernels
    from mpipipe.stages.sa.warm_up import run_tiny_association

    for kernels in (isr_kernels, ca_kernels, calibs_kernels):
        kernels.warm_up()
    run_tiny_association()


_SHARES: tuple[Callable[[], None], ...] = (_visit, _others)
