"""Stars cut out of an exposure, and what a fit of a PSF model takes and gives.

A kind of PSF is fitted by one function ``fit(stars: PsfStars, options: PsfOptions) -> PsfFit``,
entered under the kind's name into `FITS` of `mpipipe.stages.ic.psf_determination`. It must:

- sum to 1 inside `PsfStars.radius` at every position (see `mpipipe.data.psf.Psf`);
- weigh pixels by sky variance and the photons of the *model*, never of the data;
- leave out bad pixels and, by its own judgement, stars that do not fit;
- give the same bits for the same input, and work from one star upwards: raise a `BadDataError`
  that says why where it can not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mpipipe.data.psf import Psf
from mpipipe.stages.psf_photometry import Pixels

_MOST_HALF = 64
_BAD_VARIANCE = 1e30


@dataclass(frozen=True)
class PsfStars:
    """n stars, each in the middle of a square stamp.

    A pixel (j, i) of stamp k is the image's pixel
    (``middle_y[k] + j - half``, ``middle_x[k] + i - half``). Pixels outside the image are bad.
    The stamps reach the calibration radius in every direction, wherever in its middle pixel a star
    stands: ``half >= radius + 0.5``.

    Attributes
    ----------
    stamps
        (n, size, size) float64, electrons above the sky; 0 where bad. `size` is odd.
    variance
        (n, size, size) float64, electron^2: sky and read noise, without the stars' own photons;
        a large finite number where bad.
    bad
        (n, size, size) bool: pixels that do not count.
    x, y
        (n,) float64: centroids on the image, pixels, zero based. Good to a tenth of a pixel: a fit
        may refine them for itself.
    flux
        (n,) float64, electrons inside `radius`, good to some per cent; > 0.
    middle_x, middle_y
        (n,) int64: the image's pixel under the stamp's middle, (round(x), round(y)).
    shape
        (ny, nx) of the exposure.
    radius
        Calibration radius, pixels.
    fwhm
        Seeing, pixels, of the Gaussian with the stars' adaptive moments.
    """

    stamps: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    middle_x: np.ndarray
    middle_y: np.ndarray
    shape: tuple[int, int]
    radius: float
    fwhm: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def size(self) -> int:
        """Side of the stamps, pixels; odd."""
        return int(self.stamps.shape[1])

    @property
    def half(self) -> int:
        """Pixels on each side of a stamp's middle."""
        return self.size // 2

    def take(self, chosen: np.ndarray) -> PsfStars:
        """Some of the stars, by indices or by a mask."""
        per_star = ("stamps", "variance", "bad", "x", "y", "flux", "middle_x", "middle_y")
        return replace(self, **{name: getattr(self, name)[chosen] for name in per_star})


@dataclass(frozen=True)
class PsfOptions:
    """What a fit may choose from.

    Attributes
    ----------
    orders
        Orders of the polynomials of position that the number of stars allows, ascending; a fit
        chooses among them by cross-validation, or takes the highest.
    usual
        The one of them to take unless another predicts stars significantly better; none: no
        preference.
    """

    orders: tuple[int, ...] = (0, 1, 2)
    usual: int | None = None


@dataclass(frozen=True)
class PsfFit:
    """A fitted model, and what it was made of.

    Attributes
    ----------
    psf
        The model.
    used
        (n,) bool: which stars count in it; the others were rejected as outliers.
    order
        Order of its polynomial of position.
    """

    psf: Psf
    used: np.ndarray
    order: int


def stamp_half(radius: float) -> int:
    """Half width of stamps that reach the calibration radius wherever in its pixel a star stands.

    2.1 FWHM, which a pixel basis needs at least, are well inside the 3 FWHM of the radius. More
    than 64 pixels are not taken: see `PsfStars.radius`.
    """
    return min(math.ceil(radius + 0.5), _MOST_HALF)


def cut_stars(
    pixels: Pixels, x: np.ndarray, y: np.ndarray, flux: np.ndarray, radius: float, fwhm: float
) -> PsfStars:
    """Cut stars out of an exposure.

    Parameters
    ----------
    x, y
        (n,) centroids, pixels.
    flux
        (n,) electrons inside `radius`.
    radius
        Calibration radius, pixels; at most 63.5 of them are taken.
    fwhm
        Seeing, pixels.
    """
    half = stamp_half(radius)
    middle_x, middle_y = np.round(x).astype(np.int64), np.round(y).astype(np.int64)
    offset = np.arange(-half, half + 1)
    rows, columns = middle_y[:, None] + offset, middle_x[:, None] + offset
    ny, nx = pixels.image.shape
    inside_y, inside_x = (rows >= 0) & (rows < ny), (columns >= 0) & (columns < nx)
    place = (
        np.clip(rows, 0, ny - 1)[:, :, None],
        np.clip(columns, 0, nx - 1)[:, None, :],
    )
    bad = pixels.unusable[place] | ~(inside_y[:, :, None] & inside_x[:, None, :])
    return PsfStars(
        stamps=np.where(bad, 0.0, pixels.image[place]),
        variance=np.where(bad, _BAD_VARIANCE, pixels.variance[place]),
        bad=bad,
        x=np.array(x, np.float64),
        y=np.array(y, np.float64),
        flux=np.array(flux, np.float64),
        middle_x=middle_x,
        middle_y=middle_y,
        shape=(ny, nx),
        radius=min(radius, half - 0.5),
        fwhm=fwhm,
    )
