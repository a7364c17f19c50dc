"""All compiled kernels of the pipelines, made ready at once."""

from __future__ import annotations

from mpipipe import jit_cache


def warm_up() -> str:
    """Compile (or load) every kernel on tiny arrays; return the cache folder."""
    from mpipipe.stages.ca import kernels as ca_kernels
    from mpipipe.stages.calibs import kernels as calibs_kernels
    from mpipipe.stages.cs import kernels as cs_kernels
    from mpipipe.stages.isr import kernels as isr_kernels

    for kernels in (isr_kernels, ca_kernels, cs_kernels, calibs_kernels):
        kernels.warm_up()
    return jit_cache.configure()
