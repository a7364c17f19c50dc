"""Regions of a shared checkpoint file: who takes one leaves a file that only one can make."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mpipipe.data.errors import OutputError

FOLDER = "regions"
"""Beside the checkpoint file."""


class RegionPool:
    """The regions of one file, from the side of one rank.

    Parameters
    ----------
    folder
        Where the claims are.
    n_regions
        How many there are.
    rank
        This rank, whose first region has the same number.
    n_ranks
        How many ranks begin so.
    """

    def __init__(self, folder: Path, n_regions: int, rank: int, n_ranks: int) -> None:
        self._folder, self._n_regions, self._rank = folder, n_regions, rank
        self._candidate = rank
        self._next = n_ranks

    def claim(self) -> int | None:
        """A region that nobody else has or will have; None if all are taken.

        Raises
        ------
        OutputError
            If claims can not be written.
        """
        try:
            self._folder.mkdir(exist_ok=True)
            if self._candidate == self._rank and self._claims(self._rank):
                self._candidate = self._next
                return self._rank
            self._candidate = max(self._candidate, self._next, self._last_claimed() + 1)
            while self._candidate < self._n_regions:
                region = self._candidate
                self._candidate += 1
                if self._claims(region):
                    return region
        except OSError as error:
            raise OutputError(
                f"no region can be claimed: {error.strerror}",
                file=self._folder,
                way_out="make space or mend permissions, then resume",
            ) from error
        return None

    def _last_claimed(self) -> int:
        """The highest region that is taken."""
        return max((int(p.name) for p in self._folder.iterdir() if p.name.isdigit()), default=-1)

    def _claims(self, region: int) -> bool:
        """Whether this rank is the one that made the claim."""
        if region >= self._n_regions:
            return False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(self._folder / f"{region:06d}", flags, 0o644)
        except FileExistsError:
            return False
        with contextlib.closing(os.fdopen(fd, "w")) as stream:
            stream.write(f"{self._rank}\n")
        return True
