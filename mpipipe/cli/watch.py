"""How far a long work on rows is, with the time that is left, on standard error."""

from __future__ import annotations

import sys
import time


class Watch:
    """Shows a line every so often; on a terminal one that changes."""

    def __init__(self, rows: str = "rows") -> None:
        self._rows = rows
        self._is_live = sys.stderr.isatty()
        self._every_s = 0.5 if self._is_live else 10.0
        self._step = ""
        self._began = self._told = time.monotonic()

    def __call__(self, step: str, share: float, n_rows: int) -> None:
        """Hear of the step, the share of it that is done, and the number of rows so far."""
        from mpipipe.parallel.progress import format_seconds

        now = time.monotonic()
        if step != self._step:
            self._step, self._began = step, now
        if now - self._told < self._every_s and not (self._is_live and share >= 1.0):
            return
        self._told = now
        left = (now - self._began) * (1.0 - share) / max(share, 1e-6)
        line = f"{step}: {100.0 * share:.0f} %, {n_rows} {self._rows}, {format_seconds(left)} left"
        end = "\n" if not self._is_live or share >= 1.0 else ""
        start = "\r\x1b[K" if self._is_live else ""
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
