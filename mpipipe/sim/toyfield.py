"""Small synthetic exposures with known stars and cosmic rays, without optics or read-out.

For tests and benchmarks of single stages: assembled snaps in electrons, as the pipeline ca would
give them. The simulator proper makes raw data; this makes one CCD's sky in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE
from mpipipe.data.raw import FrameInfo


@dataclass
class ToyField:
    """Snaps and the truth about them.

    Attributes
    ----------
    exposures
        One a snap, sky included.
    deposits
        For each snap (ny, nx) float32: electrons that cosmic rays left.
    stars
        Structured: x, y (pixels), flux (electrons a snap).
    expected
        (ny, nx) float32: noise-free electrons a snap, sky included.
    sky
        Electrons a pixel and snap.
    """

    exposures: list[Exposure]
    deposits: list[np.ndarray]
    stars: np.ndarray
    expected: np.ndarray
    sky: float


@dataclass(frozen=True)
class ToyOptions:
    """What is on a toy field; sizes in pixels, densities per Mpixel, fluxes in electrons."""

    shape: tuple[int, int] = (500, 512)
    fwhm: float = 4.0
    beta: float = 3.5
    sky: float = 900.0
    read_noise: float = 8.0
    n_snaps: int = 2
    stars: float = 1500.0
    faintest: float = 300.0
    brightest: float = 1e6
    galaxies: float = 800.0
    cosmic_rays: float = 250.0
    full_well: float = 1e5
    master_sigma: float = 0.0
    fwhm_ratio: float = 1.0
    """FWHM of the second snap over that of the first."""


def toy_field(options: ToyOptions, seed: int, visit: int = 1) -> ToyField:
    """Make the snaps of one visit; the same for the same options and seed."""
    rng = np.random.default_rng([seed, 77])
    n_pixels = options.shape[0] * options.shape[1] / 1e6
    stars = _stars(options, rng.poisson(options.stars * n_pixels), rng)
    galaxies = _stars(options, rng.poisson(options.galaxies * n_pixels), rng, brightest=3e4)
    widths = rng.uniform(1.2, 3.0, len(galaxies))
    masters = rng.normal(0, 1, options.shape) * options.master_sigma
    exposures, deposits, expected = [], [], np.zeros(options.shape, np.float32)
    for snap in range(options.n_snaps):
        fwhm = options.fwhm * (options.fwhm_ratio if snap else 1.0)
        scene = np.full(options.shape, options.sky, dtype=np.float64)
        for star in stars:
            add_moffat(scene, star["x"], star["y"], star["flux"], fwhm, options.beta)
        for galaxy, width in zip(galaxies, widths, strict=True):
            add_moffat(scene, galaxy["x"], galaxy["y"], galaxy["flux"], fwhm * width, 2.5)
        expected = scene.astype(np.float32) if snap == 0 else expected
        deposit = cosmic_rays(options.shape, rng.poisson(options.cosmic_rays * n_pixels), rng)
        exposures.append(_expose(scene, deposit, masters, options, rng, visit, snap))
        deposits.append(deposit.astype(np.float32))
    return ToyField(exposures, deposits, stars, expected, options.sky)


def _expose(
    scene: np.ndarray,
    deposit: np.ndarray,
    masters: np.ndarray,
    options: ToyOptions,
    rng: np.random.Generator,
    visit: int,
    snap: int,
) -> Exposure:
    noise = np.sqrt(scene) * rng.standard_normal(scene.shape)
    noise += options.read_noise * rng.standard_normal(scene.shape)
    # Charge of a cosmic ray comes in one piece, but is counted with shot noise like any other.
    electrons = np.minimum(scene + noise + deposit, options.full_well)
    mask = np.where(electrons >= options.full_well, VALUE["SAT"], 0).astype(DTYPE)
    variance = np.maximum(electrons, 0) + options.read_noise**2
    info = FrameInfo(
        camera="toy",
        visit=visit,
        snap=snap,
        detector="S00",
        detector_number=0,
        kind="science",
        band="r",
        exposure_time=15.0,
        dark_time=15.0,
        mjd_start=60000.0,
    )
    sigma = np.full(scene.shape, options.master_sigma, np.float32)
    return Exposure(
        (electrons + masters).astype(np.float32),
        mask,
        variance.astype(np.float32),
        info,
        master_sigma=sigma if options.master_sigma > 0 else None,
    )


def _stars(
    options: ToyOptions, n: int, rng: np.random.Generator, brightest: float | None = None
) -> np.ndarray:
    """Positions, and fluxes with counts that fall as flux^-0.8."""
    top = options.brightest if brightest is None else brightest
    stars = np.zeros(n, dtype=[("x", "f8"), ("y", "f8"), ("flux", "f8")])
    stars["x"] = rng.uniform(0, options.shape[1] - 1, n)
    stars["y"] = rng.uniform(0, options.shape[0] - 1, n)
    low, high = options.faintest**-0.8, top**-0.8
    stars["flux"] = (low + rng.uniform(0, 1, n) * (high - low)) ** (-1 / 0.8)
    return stars


def add_moffat(
    image: np.ndarray, x: float, y: float, flux: float, fwhm: float, beta: float = 3.5
) -> None:
    """Add a round Moffat star, integrated over pixels, out to where it fades below 0.1 e."""
    parts = 5 if fwhm < 3.5 else 3
    alpha = 0.5 * fwhm / np.sqrt(2 ** (1 / beta) - 1)
    centre = flux * (beta - 1) / (np.pi * alpha**2)
    reach = alpha * max((centre / 0.1) ** (0.5 / beta), 4.0)
    ny, nx = image.shape
    x0, x1 = max(0, int(x - reach)), min(nx, int(x + reach) + 2)
    y0, y1 = max(0, int(y - reach)), min(ny, int(y + reach) + 2)
    fine = (np.arange(parts) + 0.5) / parts - 0.5
    fine_x = (np.arange(x0, x1)[:, None] + fine).ravel() - x
    fine_y = (np.arange(y0, y1)[:, None] + fine).ravel() - y
    squared = (fine_y[:, None] ** 2 + fine_x[None, :] ** 2) / alpha**2
    profile = centre * np.exp(-beta * np.log1p(squared))
    shape = (y1 - y0, parts, x1 - x0, parts)
    image[y0:y1, x0:x1] += profile.reshape(shape).mean(axis=(1, 3))


def cosmic_rays(shape: tuple[int, int], n: int, rng: np.random.Generator) -> np.ndarray:
    """Tracks of `n` cosmic rays: straight, of all lengths, a little widened by diffusion.

    Returns
    -------
    numpy.ndarray
        (ny, nx) electrons.
    """
    ny, nx = shape
    deposit = np.zeros(shape)
    for _ in range(n):
        length = min(rng.exponential(8.0), 120.0)
        angle = rng.uniform(0, 2 * np.pi)
        n_steps = max(2, int(8 * length))
        along = np.linspace(0, length, n_steps)
        spread = rng.uniform(0.1, 0.45)
        x = rng.uniform(0, nx) + along * np.cos(angle) + rng.normal(0, spread, n_steps)
        y = rng.uniform(0, ny) + along * np.sin(angle) + rng.normal(0, spread, n_steps)
        charge = rng.lognormal(np.log(2000.0), 0.7) * max(length, 1.0) / n_steps
        column, row = np.rint(x).astype(int), np.rint(y).astype(int)
        inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        np.add.at(deposit, (row[inside], column[inside]), charge)
    return deposit
