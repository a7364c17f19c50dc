"""What benchmarks of the parallel core share: running a program of their own under mpirun."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from mpipipe.data.errors import MpipipeError
from mpipipe.parallel.mpirun import end_session, mpirun, rank_environment, run_to_end, start_words

__all__ = ["end_session", "environment", "launcher", "run_ranks"]
launcher, environment = mpirun, rank_environment


def run_ranks(ranks: int, arguments: Sequence[object], seconds: float) -> Any:
    """Run Python with these arguments on ranks; what the last line of output says, as JSON.

    Raises
    ------
    RuntimeError
        If it fails or does not end in time; nothing of it is left running.
    """
    command = [*start_words(ranks), sys.executable, *map(str, arguments)]
    try:
        out = run_to_end(command, seconds)
    except MpipipeError as error:
        raise RuntimeError(str(error)) from error
    if not out.strip():
        raise RuntimeError(f"{command} said nothing")
    return json.loads(out.strip().splitlines()[-1])
