"""Synthetic lists of sources and reference stars with a known WCS, without images.

For tests and benchmarks of matching and of the WCS: some sources are no stars of the catalogue and
some stars of the catalogue are no sources, brightness is ordered differently in both, and what is
expected of the WCS is wrong in shift, rotation, scale and parity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.tan_sip import TanSip, inverse_gnomonic, middle, polynomial


@dataclass(frozen=True)
class ToyStars:
    """What a toy field is like.

    Attributes
    ----------
    n
        Sources on the CCD.
    outliers
        Fraction of the sources that are not in the catalogue, and of its stars that are no source.
    ra, dec
        Where the header says that the CCD's centre is, degrees.
    offset
        (east, north) from there to the truth, arcsec.
    rotation, scale, parity
        True minus expected position angle (deg), true over expected scale, and whether the CCD is
        mirrored against expectation (-1).
    distortion
        Its largest displacement, arcsec.
    centroid_error, reference_error
        Gaussian, pixels and mas an axis; `faintest` times the former for the faintest.
    colours
        Scatter of magnitudes between the bands of image and catalogue.
    margin
        How far the catalogue reaches beyond the CCD, arcsec.
    pixel_scale, shape
        Arcsec, (ny, nx).
    """

    n: int = 200
    outliers: float = 0.3
    ra: float = 150.0
    dec: float = 2.0
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: float = 1.0
    parity: int = 1
    distortion: float = 3.0
    centroid_error: float = 0.02
    reference_error: float = 5.0
    colours: float = 0.4
    margin: float = 300.0
    pixel_scale: float = 0.2
    shape: tuple[int, int] = (4000, 4072)


@dataclass(frozen=True, eq=False)
class ToyLists:
    """A toy field.

    Attributes
    ----------
    x, y, error, mag, star
        Sources, brightest first: pixels, error an axis, magnitude, index into the reference or -1.
    ra, dec, reference_mag
        Reference stars, brightest first: degrees, magnitude.
    wcs, header
        The truth, and what the header says.
    """

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
    mag: np.ndarray
    star: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    reference_mag: np.ndarray
    wcs: TanSip
    header: TanSip


def toy_lists(options: ToyStars, seed: int) -> ToyLists:
    """Make a toy field."""
    rng = np.random.default_rng(seed)
    wcs, header = _true_wcs(options, rng), _header(options)
    ny, nx = options.shape
    n_true = options.n - round(options.outliers * options.n)
    margin = options.margin / options.pixel_scale
    area = (nx + 2 * margin) * (ny + 2 * margin) / (nx * ny)
    n_around = rng.poisson(options.n * max(area - 1.0, 0.0))
    x = rng.uniform(-0.5, nx - 0.5, n_true)
    y = rng.uniform(-0.5, ny - 0.5, n_true)
    mag = _magnitudes(rng, n_true)
    error = options.centroid_error * 10 ** (0.2 * (mag - 18.0).clip(0.0))
    other_x, other_y = (
        rng.uniform(-margin, nx + margin, n_around),
        rng.uniform(-margin, ny + margin, n_around),
    )
    outside = (other_x < 0) | (other_x > nx) | (other_y < 0) | (other_y > ny)
    n_extra = options.n - n_true
    in_x, in_y = rng.uniform(0, nx, n_extra), rng.uniform(0, ny, n_extra)
    ra, dec = wcs.pixel_to_sky(
        np.concatenate([x, in_x, other_x[outside]]), np.concatenate([y, in_y, other_y[outside]])
    )
    noise = rng.normal(0.0, options.reference_error / 3.6e6, (2, len(ra)))
    ra, dec = (ra + noise[0] / np.cos(np.radians(dec))) % 360.0, dec + noise[1]
    reference_mag = _magnitudes(rng, len(ra))
    reference_mag[:n_true] = mag + rng.normal(0.0, options.colours, n_true)
    order = np.argsort(reference_mag)
    place = np.argsort(order)
    x = np.concatenate([x + rng.normal(0.0, error), rng.uniform(0, nx, n_extra)])
    y = np.concatenate([y + rng.normal(0.0, error), rng.uniform(0, ny, n_extra)])
    error = np.concatenate([error, np.full(n_extra, options.centroid_error)])
    mag = np.concatenate([mag, _magnitudes(rng, n_extra)])
    star = np.concatenate([place[:n_true], np.full(n_extra, -1)])
    sort = np.argsort(mag)
    return ToyLists(
        x=x[sort],
        y=y[sort],
        error=error[sort],
        mag=mag[sort],
        star=star[sort],
        ra=ra[order],
        dec=dec[order],
        reference_mag=reference_mag[order],
        wcs=wcs,
        header=header,
    )


def _magnitudes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Magnitudes 15 to 21 of counts that grow by 10^(0.3 mag)."""
    low, high = 10 ** (0.3 * 15.0), 10 ** (0.3 * 21.0)
    return np.asarray(np.log10(rng.uniform(low, high, n)) / 0.3)


def _header(options: ToyStars) -> TanSip:
    centre, _ = middle(options.shape)
    cd = np.diag([-1.0, 1.0]) * options.pixel_scale / 3600.0
    return TanSip.make((options.ra, options.dec), centre, cd, None, options.shape)


def _true_wcs(options: ToyStars, rng: np.random.Generator) -> TanSip:
    centre, unit = middle(options.shape)
    east, north = (np.array([offset]) / 3600.0 for offset in options.offset)
    ra, dec = inverse_gnomonic(east, north, options.ra, options.dec)
    turn = np.radians(options.rotation)
    cd = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
        [-1.0 * options.parity, 1.0]
    )
    cd *= options.scale * options.pixel_scale / 3600.0
    # Cubic radial distortion about a point in the field, its linear part left to the scale.
    u0, v0 = rng.uniform(-1.0, 1.0, 2)
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[3, 0] = a[1, 2] = b[0, 3] = b[2, 1] = 1.0
    a[2, 0], a[1, 1], a[0, 2] = -3.0 * u0, -2.0 * v0, -u0
    b[0, 2], b[1, 1], b[2, 0] = -3.0 * v0, -2.0 * u0, -v0
    u, v = np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    largest = np.hypot(polynomial(a, u, v), polynomial(b, u, v)).max()
    p, q = np.indices(a.shape)
    scale = options.distortion / options.pixel_scale / largest * unit ** -(p + q).astype(float)
    sky = float(ra[0]), float(dec[0])
    return TanSip.make(sky, centre, cd, (a * scale, b * scale), options.shape)
