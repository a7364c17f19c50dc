"""Fluxes in ellipses of the source's shape: a fixed aperture, Kron's and Petrosian's."""

from __future__ import annotations

import numpy as np

from mpipipe.data.schema import Column
from mpipipe.stages.sfm.apertures import full_error
from mpipipe.stages.sfm.ellipse_curves import (
    CUT,
    KRON,
    KRON_REACH,
    NO_CROSSING,
    NOT_POSITIVE,
    OK,
    PETROSIAN,
    Curves,
    ellipse_curves,
    kron_radii,
    petrosian_radii,
)
from mpipipe.stages.sfm.measurement import Flux, Scene, flag, measurement
from mpipipe.stages.sfm.source_stamps import Piece

ELLIPSE_FLUX = Flux("ellipse", "flux in the ellipse of 3 adaptive sigma")
KRON_FLUX = Flux("kron", "flux in an ellipse of 2.5 Kron radii")
PETRO_FLUX = Flux("petro", "flux in an ellipse of two Petrosian radii")

_ELLIPSE = 3.0
_LEAST_KRON = 0.85
_LEAST_PETROSIAN = 1.0
"""Smallest Kron aperture and Petrosian radius, FWHM."""

_APERTURES = np.dtype(
    [(f"{name}_{what}", "f8") for name in ("ellipse", "kron", "petro")
     for what in ("radius", "flux", "variance")]
    + [("known", "f8")]
)  # fmt: skip
"""Radii of apertures, and up to where the curve of growth is known, pixels; flux and variance."""


def _size(name: str, description: str) -> Column:
    return Column(name, "f4", "pixel", description, "phys.angSize")


@measurement(
    "ellipses",
    fluxes=(ELLIPSE_FLUX, KRON_FLUX, PETRO_FLUX),
    columns=(
        _size("kronRadius", "Kron's first-moment radius, sqrt(a b)"),
        _size("petroRadius", "Petrosian radius, sqrt(a b)"),
        _size("petroRadiusErr", "standard error of petroRadius"),
        _size("petroR50", "radius of half of the Petrosian flux, sqrt(a b)"),
        _size("petroR90", "radius of 90 % of the Petrosian flux, sqrt(a b)"),
        flag("ellipse", "too little of the ellipse is known: no flux"),
        flag("kron", "there is no Kron radius: the flux is in the smallest aperture, or none"),
        flag("kron_small", "... as 2.5 radii are less than the smallest aperture"),
        flag("kron_cut", "... as the aperture reaches beyond what is known"),
        flag("kron_dark", "... as the light is not positive"),
        flag("petro", "there is no Petrosian radius: the flux is in two of the least, or none"),
        flag("petro_crossing", "... as the brightness does not fall far enough where it is known"),
        flag("petro_cut", "... as the aperture reaches beyond what is known"),
        flag("petro_dark", "... as the light is not positive"),
    ),
    after=("moments",),
)
def measure_ellipses(scene: Scene, src: np.ndarray, piece: Piece) -> None:
    """Fluxes in ellipses: fixed, Kron (1980), Petrosian (Blanton 2001), and their radii."""
    n = len(src)
    kron, petro = np.zeros(n, KRON), np.zeros(n, PETROSIAN)
    sums = np.full(n, np.nan, _APERTURES)
    moments = np.stack([src[name] for name in ("ixx", "iyy", "ixy")], axis=1).astype(float)

    def wants_more() -> np.ndarray:
        lost = (kron["state"] == CUT) | np.isin(petro["state"], (CUT, NO_CROSSING))
        return np.asarray(lost | (KRON_REACH / _ELLIPSE * sums["ellipse_radius"] > sums["known"]))

    for some, stamps in piece.growing(wants_more):
        curves = ellipse_curves(
            stamps.light, stamps.variance, stamps.known, stamps.x, stamps.y, moments[some]
        )
        kron[some], petro[some], sums[some] = _read(scene, curves, moments[some])
    _fill(scene, src, kron, petro, sums)


def _read(
    scene: Scene, curves: Curves, moments: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radii, and sums in the three apertures."""
    fwhm = scene.psf.fwhm
    ixx, iyy, ixy = moments.T
    size = np.sqrt(np.sqrt(np.maximum(ixx * iyy - ixy**2, 0)))
    kron = kron_radii(curves, size, _LEAST_KRON * fwhm)
    factor = float(scene.factors.at(2 * fwhm))
    petro = petrosian_radii(curves, _LEAST_PETROSIAN * fwhm, factor**2)
    sums = np.empty(len(size), _APERTURES)
    sums["known"] = curves.edges[curves.last]
    radii = {
        "ellipse": _ELLIPSE * size,
        "kron": kron["aperture"],
        "petro": 2 * np.where(petro["state"] == OK, petro["radius"], _LEAST_PETROSIAN * fwhm),
    }
    for name, radius in radii.items():
        sums[f"{name}_radius"] = radius
        sums[f"{name}_flux"], sums[f"{name}_variance"] = curves.inside(radius)
    return kron, petro, sums


def _fill(
    scene: Scene, src: np.ndarray, kron: np.ndarray, petro: np.ndarray, sums: np.ndarray
) -> None:
    share = scene.psf_shapes.light_inside
    for flux in (ELLIPSE_FLUX, KRON_FLUX, PETRO_FLUX):
        radius, value = sums[f"{flux.name}_radius"], sums[f"{flux.name}_flux"]
        sky_error = np.sqrt(sums[f"{flux.name}_variance"])
        src[flux.inst] = value / share(radius)
        error = full_error(value, sky_error, scene.factors.at(radius))
        src[flux.inst_error] = error / share(radius)
    src["flag_ellipse"] = ~np.isfinite(src[ELLIPSE_FLUX.inst])
    src["kronRadius"] = kron["radius"]
    src["petroRadius"], src["petroRadiusErr"] = petro["radius"], petro["radius_error"]
    src["petroR50"], src["petroR90"] = petro["r50"], petro["r90"]
    src["flag_kron"] = (kron["state"] != OK) | ~np.isfinite(src[KRON_FLUX.inst])
    src["flag_petro"] = (petro["state"] != OK) | ~np.isfinite(src[PETRO_FLUX.inst])
    src["flag_kron_small"] = kron["state"] == NO_CROSSING
    src["flag_kron_cut"] = kron["state"] == CUT
    src["flag_kron_dark"] = kron["state"] == NOT_POSITIVE
    src["flag_petro_crossing"] = petro["state"] == NO_CROSSING
    src["flag_petro_cut"] = petro["state"] == CUT
    src["flag_petro_dark"] = petro["state"] == NOT_POSITIVE
