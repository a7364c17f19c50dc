"""Fit of a TAN-SIP solution to stars and their reference positions.

Robust weighted least squares in the tangent plane of the CCD's centre. Every star has one weight
for both axes, from the errors of its centroid and of the catalogue, and from a scatter common to
all that is raised until the residuals are explained. The degree of the polynomials follows the
number of stars, and within that cross-validation. Where the colours of reference stars are known, a
displacement common to the CCD, proportional to colour, is fitted beside the polynomials: refraction
in the atmosphere (Bernstein et al. 2017, PASP 129, 074503). It stays if an F-test says that it is
real.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpipipe.data.tan_sip import (
    TanSip,
    approximate,
    coefficient_table,
    design_matrix,
    gnomonic,
    inverse_gnomonic,
    middle,
)
from mpipipe.stages.ic.nearest import nearest_pairs

_MEDIAN_CHI2 = 1.386
"""Median of chi2 of two degrees of freedom."""
_MAX_CLIPS = 20
_CHECKED = 12
"""Positions a side where the error of a solution is evaluated."""
_MAD_TO_SIGMA = 1.4826
_START_ROUNDS = 6
_SETTLED = 0.1
"""Coefficients that change less, in units of the median error of a star, are settled."""
_RIDGE = 1e-11
_MAX_TURNS = 8
_COARSE_DEGREES = (1, 3)
"""Of the first turns of matching and fit, where stars allow that."""
_MOST_CHI2 = 8.0
"""Of one star in the choice of the degree, in units of the squared clip."""
_TWO_AXES = 1.2
"""Squared distances of two axes are held against the squared clip times this."""
_LEAST_STARS = {5: 100, 4: 60, 3: 25, 2: 10, 1: 6}
"""Stars that a degree needs."""
_MAX_EXTRAPOLATION = 10.0
"""Largest error on the CCD of a degree that may be chosen, in units of its error at the stars."""
COLOUR_STARS = 30
"""Stars of known colour that refraction needs, which must be half of all at least."""


@dataclass(frozen=True)
class FitOptions:
    """How stars are weighted, rejected and how far the model may go.

    Attributes
    ----------
    max_order
        Highest degree, 1 to 5.
    clip
        Stars farther off than this times their standard deviation are left out.
    floor_mas, floor_pixels
        Least systematic errors of a star's position an axis: mas on the sky, and pixels.
    folds
        Of cross-validation.
    significance
        Chance at which refraction counts as real.
    """

    max_order: int = 5
    clip: float = 4.0
    floor_mas: float = 2.0
    floor_pixels: float = 0.01
    folds: int = 5
    significance: float = 0.01


@dataclass(frozen=True, eq=False)
class Stars:
    """Sources and reference stars that are to be brought together.

    Attributes
    ----------
    x, y, error
        (n,) sources, brightest first: pixels, standard error an axis.
    ra, dec, sky_error
        (m,) reference stars, brightest first: degrees, standard error an axis in mas.
    row, reference_row
        (n,) and (m,): where they stand in the tables they come from.
    off_pivot
        (m,) colour minus pivot of the reference stars, mag, NaN where unknown; None: of all.
    """

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    sky_error: np.ndarray
    row: np.ndarray
    reference_row: np.ndarray
    off_pivot: np.ndarray | None = None

    def among(self, sources: np.ndarray, references: np.ndarray | slice) -> Stars:
        """Some of the sources and of the reference stars."""
        return Stars(
            self.x[sources],
            self.y[sources],
            self.error[sources],
            self.ra[references],
            self.dec[references],
            self.sky_error[references],
            self.row[sources],
            self.reference_row[references],
            None if self.off_pivot is None else self.off_pivot[references],
        )

    def placed(self, wcs: TanSip, refraction: np.ndarray | None = None) -> np.ndarray:
        """(m, 2) pixels where the reference stars should be found.

        Parameters
        ----------
        refraction
            (2,) pixels per magnitude; stars of unknown colour are placed as those of the pivot.
        """
        placed = np.stack(wcs.sky_to_pixel(self.ra, self.dec), axis=1)
        if refraction is None or self.off_pivot is None:
            return placed
        return np.asarray(placed + np.nan_to_num(self.off_pivot)[:, None] * refraction)

    def near(
        self, wcs: TanSip, radius: float, refraction: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of sources and stars that are each other's nearest within `radius` pixels."""
        placed = self.placed(wcs, refraction)
        return nearest_pairs(np.stack([self.x, self.y], axis=1), placed, radius)


@dataclass(frozen=True, eq=False)
class WcsFit:
    """A fitted solution.

    Attributes
    ----------
    wcs
        The solution.
    order
        Degree of its polynomials.
    source, reference
        Indices of the matched sources and stars.
    used
        Whether the fit used each match.
    dx, dy
        Source minus reference star by the solution, pixels.
    sigma
        Expected standard deviation of each, mas an axis, without `scatter`.
    scatter
        What was added to it to explain the residuals, mas an axis.
    error, max_error
        Standard error of a position by this solution, mas an axis: rms over the CCD, largest.
    cv_rms
        Scatter of the residuals of stars held out, mas an axis; NaN if they are too few.
    radius
        Within which sources and stars were matched, pixels.
    refraction, refraction_error
        (2,) displacement of sources by colour, pixels per magnitude, and its error an axis; None,
        NaN: there is none to speak of.
    """

    wcs: TanSip
    order: int
    source: np.ndarray
    reference: np.ndarray
    used: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    sigma: np.ndarray
    scatter: float
    error: float
    max_error: float
    cv_rms: float
    radius: float = float("nan")
    refraction: np.ndarray | None = None
    refraction_error: float = float("nan")


def solve_wcs(
    stars: Stars,
    start: TanSip,
    shape: tuple[int, int],
    radius: float,
    options: FitOptions,
    *,
    is_coarse: bool = True,
    refraction: np.ndarray | None = None,
) -> WcsFit | None:
    """Match again and fit by turns, with a radius that follows the residuals.

    Parameters
    ----------
    stars
        Sources and reference stars.
    start
        A solution good to `radius`.
    shape
        (ny, nx) of the CCD.
    radius
        Of the first matching, pixels.
    options
        See `FitOptions`.
    is_coarse
        Whether `start` lacks the distortion.
    refraction
        That goes with `start`.

    Returns
    -------
    WcsFit or None
        None if fewer than 6 stars are left.
    """
    fit, wcs = None, start
    # Chosen once: pairs that come or go later are few.
    chosen: int | None = None
    by_colour = False
    for turn in range(_MAX_TURNS):
        source, reference = stars.near(wcs, radius, refraction)
        if by_colour:
            source, reference = _of_known_colour(stars, source, reference)
        if fit is not None and chosen is not None and _is_of(fit, source, reference):
            break
        pairs = _Pairs.make(stars, source, reference, wcs, shape, options)
        # While the map is coarse a high degree would follow wrong matches.
        if turn < len(_COARSE_DEGREES) and is_coarse:
            best = _coarse(pairs, _COARSE_DEGREES[turn], options)
        elif chosen is None:
            pairs, best = _best_model(pairs, stars, wcs, shape, options)
            chosen, by_colour = best.order if best else None, pairs.off_pivot is not None
        else:
            pairs = pairs.by_colour(stars) if by_colour else pairs
            best = _best_order(pairs, options, range(chosen, chosen + 1))
            best = best or _coarse(pairs, chosen, options)
        if best is None:
            return None
        fit = replace(_finished(pairs, best), radius=radius)
        wcs, radius, refraction = fit.wcs, match_radius(fit), fit.refraction
    return fit


def _of_known_colour(
    stars: Stars, source: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Those of some pairs whose reference star has a colour."""
    if stars.off_pivot is None:
        return source[:0], reference[:0]
    known = np.isfinite(stars.off_pivot[reference])
    return source[known], reference[known]


def _best_model(
    pairs: _Pairs, stars: Stars, wcs: TanSip, shape: tuple[int, int], options: FitOptions
) -> tuple[_Pairs, _Polynomials | None]:
    """The best degree, with refraction if that is real, and the pairs that it is fitted to."""
    orders = range(1, options.max_order + 1)
    source, reference = _of_known_colour(stars, pairs.source, pairs.reference)
    if len(source) >= max(COLOUR_STARS, 0.5 * len(pairs.source)):
        coloured = _Pairs.make(stars, source, reference, wcs, shape, options).by_colour(stars)
        best = _best_order(coloured, options, orders)
        if best is not None and _is_real(best, options.significance):
            return coloured, best
    return pairs, _best_order(pairs, options, orders)


def _is_real(fit: _Polynomials, significance: float) -> bool:
    """F-test of the displacement by colour, both axes together, against none."""
    from scipy.special import fdtrc

    freedom = 2 * (int(fit.used.sum()) - len(fit.coefficients))
    if freedom < 1 or not fit.colour_variance > 0.0:
        return False
    growth = float((fit.coefficients[-1] ** 2).sum()) / fit.colour_variance
    return bool(fdtrc(2, freedom, growth / 2.0) < significance)


def match_radius(fit: WcsFit) -> float:
    """Radius within which sources and stars belong together, pixels: 1.5 at least."""
    spread = _MAD_TO_SIGMA * float(np.median(np.hypot(fit.dx, fit.dy)[fit.used])) / 1.7456
    return float(np.clip(5.0 * spread, 1.5, fit.radius if np.isfinite(fit.radius) else 10.0))


def _is_of(fit: WcsFit, source: np.ndarray, reference: np.ndarray) -> bool:
    """Whether these pairs are the ones it was made of."""
    return np.array_equal(fit.source, source) and np.array_equal(fit.reference, reference)


def fit_shift(
    stars: Stars,
    pairs: tuple[np.ndarray, np.ndarray],
    start: TanSip,
    shape: tuple[int, int],
    options: FitOptions,
) -> WcsFit:
    """Move a solution so that matched stars agree in the mean; nothing is clipped."""
    data = _Pairs.make(stars, *pairs, start, shape, options)
    x, y = stars.x[pairs[0]], stars.y[pairs[0]]
    at_x, at_y = start.sky_to_pixel(stars.ra[pairs[1]], stars.dec[pairs[1]])
    scatter = _common_scatter(
        (np.stack([x - at_x, y - at_y], 1) - np.median([x - at_x, y - at_y], 1)) * data.scale,
        data.sigma,
        1,
    )
    weight = 1.0 / (data.sigma**2 + scatter**2)
    dx, dy = (float(np.average(off, weights=weight)) for off in (x - at_x, y - at_y))
    wcs = replace(start, x=start.x + dx, y=start.y + dy)
    error = float(np.sqrt(1.0 / weight.sum()))
    used = np.ones(len(x), bool)
    return WcsFit(
        wcs, 0, *pairs, used, x - at_x - dx, y - at_y - dy,
        data.sigma, scatter, error, error, float("nan"),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Matched pairs in the tangent plane of the CCD's centre.

    `plane` is (n, 2), mas; `off_pivot` are the colours of the stars if the model is to hold
    refraction; `designs` makes and keeps the design matrices.
    """

    source: np.ndarray
    reference: np.ndarray
    x: np.ndarray
    y: np.ndarray
    plane: np.ndarray
    sigma: np.ndarray
    sky: tuple[float, float]
    scale: float
    shape: tuple[int, int]
    ra: np.ndarray
    dec: np.ndarray
    fold: np.ndarray
    off_pivot: np.ndarray | None = None
    designs: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        stars: Stars,
        source: np.ndarray,
        reference: np.ndarray,
        wcs: TanSip,
        shape: tuple[int, int],
        options: FitOptions,
    ) -> _Pairs:
        (xc, yc), _ = middle(shape)
        sky = tuple(float(c[0]) for c in wcs.pixel_to_sky(np.array([xc]), np.array([yc])))
        ra, dec = stars.ra[reference], stars.dec[reference]
        plane = np.stack(gnomonic(ra, dec, *sky), axis=1) * 3.6e6
        scale = float(np.sqrt(abs(np.linalg.det(wcs.jacobian(xc, yc))))) * 1e3
        x, y = stars.x[source], stars.y[source]
        sigma = np.sqrt(
            stars.sky_error[reference] ** 2
            + (stars.error[source] ** 2 + options.floor_pixels**2) * scale**2
            + options.floor_mas**2
        )
        fold = _interleaved(x, y, shape, options.folds)
        return cls(
            source, reference, x, y, plane, sigma, (sky[0], sky[1]), scale, shape, ra, dec, fold
        )

    def by_colour(self, stars: Stars) -> _Pairs:
        """The same, for a model with refraction; all stars must have colours."""
        assert stars.off_pivot is not None
        return replace(self, off_pivot=stars.off_pivot[self.reference], designs={})

    def design(self, order: int) -> np.ndarray:
        """Design matrix of the pairs: terms of the polynomials, and last the colours if any."""
        if order not in self.designs:
            (xc, yc), unit = middle(self.shape)
            design = design_matrix((self.x - xc) / unit, (self.y - yc) / unit, order)
            if self.off_pivot is not None:
                design = np.column_stack([design, self.off_pivot])
            self.designs[order] = design
        return self.designs[order]


def _interleaved(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], folds: int) -> np.ndarray:
    """A fold for each star, so that stars of all folds lie everywhere on the CCD."""
    strips = max(int(np.sqrt(len(x) / folds)), 1)
    strip = np.floor((y + 0.5) / shape[0] * strips).clip(0, strips - 1).astype(int)
    along = np.where(strip % 2 == 0, x, -x)
    fold = np.empty(len(x), int)
    fold[np.lexsort((along, strip))] = np.arange(len(x)) % folds
    return fold


@dataclass(frozen=True, eq=False)
class _Polynomials:
    """A robust fit of one degree: what `_robust` gives.

    `coefficients` is (terms, 2), mas; `off` (n, 2) are all residuals, mas; `colour_variance` is
    that of the last coefficients, if they are of colours.
    """

    order: int
    coefficients: np.ndarray
    off: np.ndarray
    used: np.ndarray
    scatter: float
    error: float
    max_error: float
    cv_rms: float = float("nan")
    colour_variance: float = float("nan")


def _coarse(pairs: _Pairs, order: int, options: FitOptions) -> _Polynomials | None:
    """The highest degree up to `order` that the number of pairs allows."""
    for degree in range(min(order, options.max_order), 0, -1):
        fit = _robust(pairs, degree, options)
        if fit is not None:
            return fit
    return None


def _best_order(pairs: _Pairs, options: FitOptions, orders: range) -> _Polynomials | None:
    """The fit of the lowest degree that predicts stars as well as any; None for too few stars.

    As well: within half a standard error of the best mean chi2 of stars held out.
    """
    fits = []
    for order in orders:
        fit = _robust(pairs, order, options)
        if fit is None:
            break
        fits.append(fit)
    if not fits:
        return None
    # All degrees are judged by the same stars: those that the highest could use.
    judged = fits[-1].used
    scatter = min(fit.scatter for fit in fits)
    held_out = [_held_out(pairs, fit, judged, options.folds) for fit in fits]
    variance = (pairs.sigma**2 + scatter**2)[judged]
    # One star that a fold extrapolates to must not decide.
    most = _MOST_CHI2 * options.clip**2
    chi2 = [((off[judged] ** 2).sum(axis=1) / variance).clip(max=most) for off in held_out]
    means = np.array([values.mean() for values in chi2])
    best = int(np.argmin(means))
    margin = 0.5 * float(chi2[best].std()) / np.sqrt(len(chi2[best]))
    typical = float(np.sqrt(np.median(pairs.sigma) ** 2 + scatter**2))
    chosen = next(
        (
            k
            for k, fit in enumerate(fits)
            if means[k] <= means[best] + margin and fit.max_error <= _MAX_EXTRAPOLATION * typical
        ),
        0,
    )
    off = held_out[chosen][fits[chosen].used]
    return replace(fits[chosen], cv_rms=float(np.sqrt(np.mean(off**2))))


def _robust(pairs: _Pairs, order: int, options: FitOptions) -> _Polynomials | None:
    """Fit of one degree, clipped until nothing changes; None if it has too few stars."""
    design, least = pairs.design(order), _LEAST_STARS[order]
    if len(design) < least:
        return None
    used = np.ones(len(design), bool)
    off = pairs.plane - design @ _start(design, pairs)
    for _ in range(_MAX_CLIPS):
        scatter = _common_scatter(off[used], pairs.sigma[used], design.shape[1])
        variance = pairs.sigma**2 + scatter**2
        now = (off**2).sum(axis=1) <= options.clip**2 * _TWO_AXES * variance
        if now.sum() < least:
            return None
        coefficients = _weighted(design[now], pairs.plane[now], variance[now])
        off = pairs.plane - design @ coefficients
        settled, used = bool((now == used).all()), now
        if settled:
            break
    weighted = design[used] / np.sqrt(variance[used])[:, None]
    covariance = _inverted(weighted.T @ weighted)
    grid = _positions(pairs.shape, order)
    of_grid = covariance[: grid.shape[1], : grid.shape[1]]
    errors = ((grid @ of_grid) * grid).sum(axis=1).clip(0.0)
    error, max_error = float(np.sqrt(errors.mean())), float(np.sqrt(errors.max()))
    of_colour = float(covariance[-1, -1]) if pairs.off_pivot is not None else float("nan")
    return _Polynomials(
        order, coefficients, off, used, scatter, error, max_error, colour_variance=of_colour
    )


def _finished(pairs: _Pairs, fit: _Polynomials) -> WcsFit:
    """The fit as a WCS, with residuals in pixels."""
    centre, unit = middle(pairs.shape)
    by_colour = pairs.off_pivot is not None
    terms = fit.coefficients[:-1] if by_colour else fit.coefficients
    xi, eta = (coefficient_table(column / 3.6e6, fit.order) for column in terms.T)
    wcs = TanSip.from_polynomial(pairs.sky, centre, unit, xi, eta, pairs.shape)
    to_pixels = np.linalg.inv(wcs.jacobian(pairs.x, pairs.y)) / 1e3
    dx, dy = -np.einsum("nij,nj->in", to_pixels, fit.off)
    refraction, refraction_error = None, float("nan")
    if by_colour:
        # The fit says how to get from sources to stars: sources are displaced the other way.
        refraction = -np.linalg.inv(wcs.jacobian(*centre) * 1e3) @ fit.coefficients[-1]
        refraction_error = float(np.sqrt(fit.colour_variance)) / pairs.scale
    return WcsFit(
        wcs,
        fit.order,
        pairs.source,
        pairs.reference,
        fit.used,
        dx,
        dy,
        pairs.sigma,
        fit.scatter,
        fit.error,
        fit.max_error,
        fit.cv_rms,
        refraction=refraction,
        refraction_error=refraction_error,
    )


def _start(design: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """Coefficients that outliers hardly move: least absolute deviations by reweighting."""
    variance = pairs.sigma**2
    coefficients = _weighted(design, pairs.plane, variance, is_final=False)
    for _ in range(_START_ROUNDS):
        off = np.hypot(*(pairs.plane - design @ coefficients).T)
        weakened = pairs.sigma * np.maximum(off, pairs.sigma)
        now = _weighted(design, pairs.plane, weakened, is_final=False)
        change = float(np.abs(now - coefficients).max())
        coefficients = now
        if change < _SETTLED * float(np.median(pairs.sigma)):
            break
    return coefficients


def _weighted(
    design: np.ndarray, values: np.ndarray, variance: np.ndarray, *, is_final: bool = True
) -> np.ndarray:
    """Weighted least squares by the normal equations; a final one is refined, as good as by QR."""
    weighted = (design / variance[:, None]).T
    inverse = _inverted(weighted @ design)
    coefficients = inverse @ (weighted @ values)
    if not is_final:
        return np.asarray(coefficients)
    return np.asarray(coefficients + inverse @ (weighted @ (values - design @ coefficients)))


def _inverted(normal: np.ndarray) -> np.ndarray:
    """Inverse of a normal matrix; directions that no star measures get a large finite variance."""
    scale = 1.0 / np.sqrt(np.diag(normal))
    ridge = _RIDGE * np.eye(len(normal))
    both = np.outer(scale, scale)
    return np.asarray(np.linalg.inv(normal * both + ridge) * both)


def _common_scatter(off: np.ndarray, sigma: np.ndarray, n_fitted: int) -> float:
    """What must be added in quadrature to `sigma` for half the stars to lie within the median chi2.

    Residuals of a fit of `n_fitted` coefficients an axis are smaller than errors by their share.
    """
    freedom = max(1.0 - n_fitted / len(off), 0.1)
    beyond = (off**2).sum(axis=1) / (freedom * _MEDIAN_CHI2) - sigma**2
    return float(np.sqrt(max(np.median(beyond), 0.0)))


def _held_out(pairs: _Pairs, fit: _Polynomials, judged: np.ndarray, folds: int) -> np.ndarray:
    """(n, 2) residuals, mas, of every star by the fit to the other folds."""
    design = pairs.design(fit.order)
    variance = pairs.sigma**2 + fit.scatter**2
    off = np.zeros_like(pairs.plane)
    for k in range(folds):
        rest = (pairs.fold != k) & judged
        held = pairs.fold == k
        coefficients = _weighted(design[rest], pairs.plane[rest], variance[rest], is_final=False)
        off[held] = pairs.plane[held] - design[held] @ coefficients
    return off


def _positions(shape: tuple[int, int], order: int) -> np.ndarray:
    """Design matrix of a grid over the CCD, edges included."""
    (xc, yc), unit = middle(shape)
    u = np.linspace(-xc - 0.5, xc + 0.5, _CHECKED) / unit
    v = np.linspace(-yc - 0.5, yc + 0.5, _CHECKED) / unit
    grid_u, grid_v = np.meshgrid(u, v)
    return design_matrix(grid_u.ravel(), grid_v.ravel(), order)


def linear_wcs(
    sky: tuple[float, float], start: np.ndarray, match: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
) -> TanSip:  # fmt: skip
    """The TAN solution of a linear map found by matching.

    Parameters
    ----------
    sky
        Expected position of the CCD's centre, degrees.
    start
        (2, 2) arcsec per pixel: expected positions from pixels relative to the centre.
    match
        (2, 2) and (2,), arcsec: from expected to true positions.
    shape
        (ny, nx) of the CCD.
    """
    centre, _ = middle(shape)
    matrix, offset = match

    def pixel_to_sky(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.stack([x - centre[0], y - centre[1]])
        xi, eta = (matrix @ start @ pixels + offset[:, None]) / 3600.0
        return inverse_gnomonic(xi, eta, *sky)

    return approximate(pixel_to_sky, shape, 1)
