"""FITS image sections such as ``[11:522,1:2002]``: parsing, slicing, flips."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mpipipe.data.errors import BadDataError

_SECTION = re.compile(r"^\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*$")


@dataclass(frozen=True)
class Section:
    """A rectangle of pixels, half open and zero based, with the direction of its axes.

    FITS sections are one based and inclusive; a descending range such as ``[512:1,...]`` means
    that the axis runs the other way and sets `flip_x` or `flip_y`.
    """

    x0: int
    x1: int
    y0: int
    y1: int
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def parse(cls, text: str) -> Section:
        """Read a FITS section string.

        Raises
        ------
        BadDataError
            If `text` is no section or counts from below 1.
        """
        match = _SECTION.match(text) if isinstance(text, str) else None
        if match is None:
            raise BadDataError(
                f"{text!r} is no image section", way_out="a section looks like [1:512,1:2048]"
            )
        xa, xb, ya, yb = (int(group) for group in match.groups())
        if min(xa, xb, ya, yb) < 1:
            raise BadDataError(f"section {text!r} counts from below 1")
        return cls(
            min(xa, xb) - 1,
            max(xa, xb),
            min(ya, yb) - 1,
            max(ya, yb),
            flip_x=xa > xb,
            flip_y=ya > yb,
        )

    def __str__(self) -> str:
        x = (self.x1, self.x0 + 1) if self.flip_x else (self.x0 + 1, self.x1)
        y = (self.y1, self.y0 + 1) if self.flip_y else (self.y0 + 1, self.y1)
        return f"[{x[0]}:{x[1]},{y[0]}:{y[1]}]"

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the rectangle."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """The numpy index (rows, columns), axes ascending: flips are not applied."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def fits_in(self, shape: tuple[int, ...]) -> bool:
        """Whether the rectangle lies inside an image of shape (ny, nx)."""
        return len(shape) == 2 and self.y1 <= shape[0] and self.x1 <= shape[1]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The view of `image` (ny, nx) under this section, axes turned to ascend."""
        view = image[self.slices]
        return view[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def binned(self, bin_x: int, bin_y: int) -> Section:
        """The same rectangle in binned pixels."""
        return Section(
            self.x0 // bin_x,
            -(-self.x1 // bin_x),
            self.y0 // bin_y,
            -(-self.y1 // bin_y),
            self.flip_x,
            self.flip_y,
        )

    def shifted(self, dx: int, dy: int) -> Section:
        """The same rectangle moved by (dx, dy) pixels."""
        return Section(
            self.x0 + dx, self.x1 + dx, self.y0 + dy, self.y1 + dy, self.flip_x, self.flip_y
        )
