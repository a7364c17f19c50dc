"""`mpipipe warmup`: compile the kernels once, so that no run pays for it."""

from __future__ import annotations

import typer


def warmup() -> None:
    """Compile all numba kernels into the cache of this CPU type.

    Example: mpipipe warmup
    """
    from time import perf_counter

    from mpipipe.run.kernels import warm_up

    start = perf_counter()
    folder = warm_up()
    typer.echo(f"kernels ready in {perf_counter() - start:.1f} s, cached in {folder}")
