"""All compiled kernels of the pipelines, made ready at once."""

from __future__ import annotations

from mpipipe import jit_cache


def warm_up() -> str:
    """Compile (or load) every kernel on tiny arrays; return the cache folder."""
    from mpipipe.stages.cs import kernels as cs_kernels
    from mpipipe.stages.isr import kernels as isr_kernels

    isr_kernels.warm_up()
    cs_kernels.warm_up()
    return jit_cache.configure()
