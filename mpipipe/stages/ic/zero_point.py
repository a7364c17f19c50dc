"""Zero point of stars with catalogue magnitudes: with colour term and gradient where significant.

``catalogue = zero point + gradient(x, y) - 2.5 lg flux + coefficient (colour - pivot)``. The
largest model that the number of stars allows is fitted first, robustly; then a gradient and a
change of the colour term stay where an F-test says that they are real. A model too small would
take good stars for outliers, where clouds make a gradient of more than the stars' errors.

Undetected neighbours and sky that is left put the same few electrons into every flux, on average.
Faint stars, of which a catalogue has many, would pull the zero point by 2 mmag: their excess is
fitted beside it, as a term that falls with 1 / flux and is held near 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpipipe.data.ccd_polynomial import CcdPolynomial, terms
from mpipipe.data.errors import BadDataError
from mpipipe.data.photo_calib import ColourTerm
from mpipipe.stages.ic.robust_fit import MAD_TO_SIGMA, LinearFit, robust_fit

LEAST_STARS = 3
GRADIENT_STARS = 20
COLOUR_STARS = 100
"""Stars that a zero point, a gradient, a change of a colour term need. A colour term fitted to 8
stars costs 60 mmag, one that is held 9."""

_GRADIENT_PRIOR = 1.0
_COLOUR_PRIOR = 1.0
"""Standard deviations, magnitudes: no prior to speak of, but a fit is always determined."""


@dataclass(frozen=True)
class ZeroPointOptions:
    """What `fit_zero_point` may do.

    Attributes
    ----------
    fit_gradient, fit_colour_term
        Whether these are looked for at all.
    colour_stars
        Stars that a change of the colour term needs.
    significance
        Chance at which a term counts as significant.
    clip
        Stars farther off are left out, sigma.
    max_scatter
        Scatter from which the match must be wrong, mag.
    """

    fit_gradient: bool = True
    fit_colour_term: bool = True
    colour_stars: int = COLOUR_STARS
    significance: float = 1e-3
    clip: float = 3.5
    max_scatter: float = 0.3


@dataclass(frozen=True, eq=False)
class ZeroPointFit:
    """The outcome of `fit_zero_point`.

    Attributes
    ----------
    zero_points
        mag, order 0 or 1.
    colour_term
        The given one, with the fitted coefficient if that is significantly another; None: colours
        took no part.
    used
        (n,) bool.
    residuals
        (n,) source minus catalogue by this fit, mag; NaN for stars that could not take part.
    scatter
        Robust width of the residuals, outliers included, mag.
    mean_colour
        Of the stars used; NaN without `colour_term`.
    excess
        Light that is not the stars', in the unit of the `excess` given: 1 is as much as expected.
    """

    zero_points: CcdPolynomial
    colour_term: ColourTerm | None
    used: np.ndarray
    residuals: np.ndarray
    scatter: float
    mean_colour: float
    excess: float

    @property
    def n_used(self) -> int:
        """Stars it was made of."""
        return int(self.used.sum())


def fit_zero_point(
    position: tuple[np.ndarray, np.ndarray],
    difference: np.ndarray,
    variance: np.ndarray,
    shape: tuple[int, int],
    *,
    colour: np.ndarray | None = None,
    term: ColourTerm | None = None,
    excess: np.ndarray | None = None,
    options: ZeroPointOptions | None = None,
) -> ZeroPointFit:
    """Zero point of stars that are known in the catalogue.

    Parameters
    ----------
    position
        x, y, each (n,), pixels.
    difference
        (n,) catalogue magnitude + 2.5 lg flux; NaN for stars that are not to take part.
    variance
        (n,) mag^2, of catalogue, flux and whatever else; scatter beyond it is found.
    shape
        (ny, nx) of the CCD.
    colour
        (n,) of the catalogue, in the bands of `term`; NaN where unknown.
    term
        The colour term as it is known beforehand; None: colours take no part.
    excess
        (n,) magnitudes by which each star would be too bright with as much light that is not its
        own as may be expected; None: there is none.

    Raises
    ------
    BadDataError
        If there are fewer than three stars, or they scatter as only a wrong match does.
    """
    options = options or ZeroPointOptions()
    known = np.isfinite(position[0] + position[1] + difference + variance) & (variance > 0)
    term, known = _with_colour(term, colour, known)
    n_known = int(known.sum())
    if n_known < LEAST_STARS:
        raise BadDataError(f"{n_known} stars are too few for a zero point")
    off_pivot, values = None, difference[known]
    if term is not None and colour is not None:
        off_pivot = colour[known] - term.pivot
        values = values - term.coefficient * off_pivot
    places = terms(position[0][known], position[1][known], shape, 1)
    light = None if excess is None else excess[known]
    problem = _Differences(places, values, variance[known], off_pivot, light, options)
    fit, n, has_change = problem.fit_significant()
    _check(fit, options)
    surface = CcdPolynomial(fit.coefficients[:n], fit.covariance[:n, :n], shape)
    if term is not None and has_change:
        coefficient = term.coefficient + float(fit.coefficients[n])
        error = float(np.sqrt(fit.covariance[n, n]))
        term = replace(term, coefficient=coefficient, error=error, is_fitted=True)
    used = np.zeros(len(known), bool)
    used[known] = fit.used
    residuals = np.full(len(known), np.nan)
    residuals[known] = -fit.residuals
    mean = float("nan") if off_pivot is None or term is None else off_pivot[fit.used].mean()
    mean_colour = float(mean + term.pivot) if term is not None else float("nan")
    found = 0.0 if excess is None else float(fit.coefficients[-1])
    return ZeroPointFit(surface, term, used, residuals, _scatter(fit), mean_colour, found)


def _with_colour(
    term: ColourTerm | None, colour: np.ndarray | None, known: np.ndarray
) -> tuple[ColourTerm | None, np.ndarray]:
    """The colour term that can be used, and the stars that can be used with it.

    Stars without a colour are left out where others have one; where hardly any has, a term of
    nothing is let go of.
    """
    if term is None or colour is None:
        return None, known
    with_colour = known & np.isfinite(colour)
    if term.coefficient == 0.0 and 2 * with_colour.sum() < known.sum():
        return None, known
    return term, with_colour


def _scatter(fit: LinearFit) -> float:
    return MAD_TO_SIGMA * float(np.median(np.abs(fit.residuals)))


def _check(fit: LinearFit, options: ZeroPointOptions) -> None:
    """Refuse what no right match gives."""
    scatter, n = _scatter(fit), len(fit.residuals)
    if scatter > options.max_scatter:
        raise BadDataError(
            f"{n} stars scatter by {scatter:.2f} mag about their zero point, more than "
            f"{options.max_scatter:g}: a wrong match, or magnitudes of another band"
        )
    if fit.n_used < max(LEAST_STARS, 0.5 * n):
        raise BadDataError(f"only {fit.n_used} of {n} stars agree on a zero point")


@dataclass(frozen=True, eq=False)
class _Differences:
    """The linear problem: value = zero point + gradient + change of the colour term + excess."""

    places: np.ndarray
    values: np.ndarray
    variance: np.ndarray
    off_pivot: np.ndarray | None
    excess: np.ndarray | None
    options: ZeroPointOptions

    def fit_significant(self) -> tuple[LinearFit, int, bool]:
        """The fit with what is significant, its coefficients of the position (1 or 3), and
        whether the next coefficient is a change of the colour term."""
        n_stars, options = len(self.values), self.options
        gradient = options.fit_gradient and n_stars >= GRADIENT_STARS
        enough = options.fit_colour_term and n_stars >= options.colour_stars
        change = enough and self.off_pivot is not None
        fit = self._fit(gradient, change)
        n = 3 if gradient else 1
        real_gradient = gradient and self._is_significant(fit, slice(1, 3))
        real_change = change and self._is_significant(fit, slice(n, n + 1))
        if (real_gradient, real_change) != (gradient, change):
            fit = self._fit(real_gradient, real_change)
        return fit, 3 if real_gradient else 1, real_change

    def _fit(self, gradient: bool, change: bool) -> LinearFit:
        columns, prior = [self.places[:, 0]], [np.inf]
        if gradient:
            columns += [self.places[:, 1], self.places[:, 2]]
            prior += [_GRADIENT_PRIOR, _GRADIENT_PRIOR]
        if change and self.off_pivot is not None:
            columns.append(self.off_pivot)
            prior.append(_COLOUR_PRIOR)
        if self.excess is not None:
            columns.append(self.excess)
            prior.append(1.0)
        return robust_fit(
            np.stack(columns, axis=1),
            self.values,
            self.variance,
            clip=self.options.clip,
            prior=np.array(prior),
        )

    def _is_significant(self, fit: LinearFit, which: slice) -> bool:
        """F-test of some coefficients against 0: by what chi2 grows without them."""
        from scipy.special import fdtrc

        coefficients, covariance = fit.coefficients[which], fit.covariance[which, which]
        freedom = fit.n_used - len(fit.coefficients)
        if freedom < 1:
            return False
        growth = float(coefficients @ np.linalg.solve(covariance, coefficients))
        n = len(coefficients)
        return bool(fdtrc(n, freedom, growth / n) < self.options.significance)
