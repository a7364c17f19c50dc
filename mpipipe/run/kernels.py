"""All compiled kernels of the pipelines, made ready at once."""

from __future__ import annotations

from mpipipe import jit_cache


def warm_up() -> str:
    """Compile (or load) every kernel on tiny arrays; return the cache folder."""
    from mpipipe.stages.ca import kernels as ca_kernels
    from mpipipe.stages.calibs import kernels as calibs_kernels
    from mpipipe.stages.isr import kernels as isr_kernels
    from mpipipe.stages.sa.warm_up import run_tiny_association
    from mpipipe.stages.warm_up import run_tiny_visit

    for kernels in (isr_kernels, ca_kernels, calibs_kernels):
        kernels.warm_up()
    run_tiny_visit()
    run_tiny_association()
    return jit_cache.configure()
