"""Zero points of populations as fields have them: colours, clouds, variables, wrong matches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError
from mpipipe.data.photo_calib import ColourTerm
from mpipipe.stages.ic.zero_point import ZeroPointFit, fit_zero_point

SHAPE = (2000, 2048)
TERM = ColourTerm(0.0, "g", "i", 1.0, 0.03)
ZERO_POINT = 31.0


@dataclass(frozen=True)
class Field:
    """Stars of magnitude 16.5 to 20 on a sky of 20 electrons a pixel, seeing 4 pixels."""

    n: int
    colour_term: float = 0.0
    gradient: tuple[float, float] = (0.0, 0.0)
    extinction: float = 0.0
    outliers: float = 0.0
    variables: float = 0.0
    catalogue_error: float = 0.010

    def fit(self, seed: int, term: ColourTerm | None = TERM) -> ZeroPointFit:
        """The zero point fitted to one realisation."""
        rng = np.random.default_rng((seed, self.n))
        x, y = rng.uniform(0, 2047, self.n), rng.uniform(0, 1999, self.n)
        magnitude = rng.uniform(16.5, 20.0, self.n)
        colour = np.clip(rng.normal(1.3, 0.7, self.n), -0.3, 3.2)
        truth = 10 ** (0.4 * (self.true(x, y, colour) - magnitude))
        error = np.sqrt(truth + 36 * 20.0**2)
        flux = truth + error * rng.normal(size=self.n)
        catalogue = magnitude + self.catalogue_error * rng.normal(size=self.n)
        wrong = rng.uniform(size=self.n) < self.outliers
        catalogue += np.where(wrong, 0.3 + 0.5 * rng.normal(size=self.n), 0.0)
        varies = rng.uniform(size=self.n) < self.variables
        catalogue += np.where(varies, 0.05 * rng.normal(size=self.n), 0.0)
        flux[flux < 10 * error] = np.nan
        variance = self.catalogue_error**2 + (1.0857 * error / flux) ** 2 + 0.003**2
        difference = catalogue + 2.5 * np.log10(flux)
        return fit_zero_point((x, y), difference, variance, SHAPE, colour=colour, term=term)

    def true(self, x: np.ndarray, y: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """The magnitude that gives 1 electron."""
        u, v = 2 * x / 2047 - 1, 2 * y / 1999 - 1
        gradient = self.gradient[0] * u + self.gradient[1] * v
        offset = gradient + self.colour_term * (colour - 1.0) - self.extinction
        return np.asarray(ZERO_POINT + offset)

    def error(self, fit: ZeroPointFit, seed: int) -> float:
        """Median of calibrated minus true magnitude over stars of this field, mag."""
        rng = np.random.default_rng((seed, 99))
        x, y = rng.uniform(0, 2047, 400), rng.uniform(0, 1999, 400)
        colour = np.clip(rng.normal(1.3, 0.7, 400), -0.3, 3.2)
        calibrated, _ = fit.zero_points.at(x, y)
        if fit.colour_term is not None:
            calibrated = calibrated + fit.colour_term.of(colour)
        return float(np.median(calibrated - self.true(x, y, colour)))

    def measure(
        self, seeds: int, term: ColourTerm | None = TERM
    ) -> tuple[float, float, list[ZeroPointFit]]:
        """Rms of `error` in mmag, standard deviation of the pulls at mid-CCD, and the fits."""
        fits = [self.fit(seed, term) for seed in range(seeds)]
        errors = [self.error(fit, seed) for seed, fit in enumerate(fits)]
        centre = ZERO_POINT - self.extinction
        pulls = [
            (fit.zero_points.coefficients[0] - centre) / np.sqrt(fit.zero_points.covariance[0, 0])
            for fit in fits
        ]
        return 1e3 * float(np.sqrt(np.mean(np.square(errors)))), float(np.std(pulls)), fits


@pytest.mark.parametrize(("n", "limit"), [(3, 9.0), (8, 6.0), (20, 3.5), (200, 1.5)])
def test_stars_of_10_mmag(n: int, limit: float) -> None:
    """Catalogue error / root n, with errors that are what they say, and nothing made up."""
    rms, pull, fits = Field(n).measure(60)
    assert rms < limit
    assert 0.6 < pull < 1.25
    assert not any(fit.zero_points.order for fit in fits)
    assert all(fit.colour_term == TERM for fit in fits)


def test_target_of_200_stars_with_everything() -> None:
    """2 mmag with a colour term, clouds, 10 % outliers and 10 % variables at once."""
    field = Field(200, 0.05, (0.03, -0.02), 0.5, outliers=0.1, variables=0.1)
    rms, pull, fits = field.measure(30)
    assert rms <= 2.0
    assert 0.7 < pull < 1.4
    terms = [fit.colour_term for fit in fits if fit.colour_term is not None]
    assert all(term.is_fitted for term in terms) and len(terms) == 30
    assert np.mean([term.coefficient for term in terms]) == pytest.approx(0.05, abs=1e-3)
    assert 0.6 < np.std([(term.coefficient - 0.05) / term.error for term in terms]) < 1.4


def test_eight_stars_with_the_colour_term_held() -> None:
    rms, pull, _ = Field(8, 0.05, outliers=0.05).measure(60, replace(TERM, coefficient=0.05))
    assert rms <= 9.0
    assert pull < 1.3


def test_a_colour_term_is_not_fitted_to_few_stars() -> None:
    """50 stars: it stays what it was, however wrong; 150: it is found."""
    few, many = Field(50, 0.05).fit(1).colour_term, Field(150, 0.05).fit(1).colour_term
    assert few == TERM
    assert many is not None
    assert many.coefficient == pytest.approx(0.05, abs=4 * many.error)


@pytest.mark.parametrize("n", [20, 200])
def test_gradients_of_clouds(n: int) -> None:
    """Some 10 mmag over the CCD are seen; the corners come out right with true errors."""
    field = Field(n, gradient=(0.04, -0.03), extinction=1.0, outliers=0.1)
    _, _, fits = field.measure(40)
    with_gradient = [fit for fit in fits if fit.zero_points.order == 1]
    assert len(with_gradient) >= (0.9 if n == 20 else 1.0) * len(fits)
    corner = np.array([0.0, 2047.0]), np.array([1999.0, 1999.0])
    pulls = []
    for fit in with_gradient:
        value, error = fit.zero_points.at(*corner)
        pulls.append((value - field.true(*corner, np.ones(2))) / error)
    assert 0.75 < np.std(pulls) < 1.25


def test_no_gradient_where_there_is_none() -> None:
    """At a chance of 1e-3 a field, hardly any of 100 has one."""
    fits = [Field(60, outliers=0.1).fit(seed) for seed in range(100)]
    assert sum(fit.zero_points.order for fit in fits) <= 2


@pytest.mark.parametrize(("n", "limit"), [(8, 0.08), (20, 0.02), (200, 0.003)])
def test_clouds_of_three_magnitudes(n: int, limit: float) -> None:
    """Stars at the faint end go below the limit; what is left gives the zero point."""
    field = Field(n, gradient=(0.1, 0.05), extinction=3.0, outliers=0.05)
    errors = []
    for seed in range(20):
        try:
            errors.append(field.error(field.fit(seed), seed))
        except BadDataError:
            assert n == 8
    assert len(errors) >= 15
    assert np.sqrt(np.mean(np.square(errors))) < limit


def test_three_stars_with_one_wrong_are_refused_or_say_so() -> None:
    """Never a confident wrong answer."""
    for seed in range(100):
        try:
            fit = Field(3, outliers=0.3).fit(seed)
        except BadDataError:
            continue
        error = np.sqrt(fit.zero_points.covariance[0, 0])
        assert abs(fit.zero_points.coefficients[0] - ZERO_POINT) < 5 * error


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_stars_are_refused(n: int) -> None:
    with pytest.raises(BadDataError, match="too few"):
        Field(n).fit(0)


@pytest.mark.parametrize("n", [3, 5, 10, 100])
def test_a_wrong_field_is_refused(n: int) -> None:
    """Magnitudes paired at random scatter by more than a magnitude."""
    refused = 0
    for seed in range(40):
        rng = np.random.default_rng((seed, n))
        difference = 31.0 + rng.uniform(-2, 2, n) + rng.uniform(-2, 2, n)
        position = rng.uniform(0, 2000, n), rng.uniform(0, 2000, n)
        try:
            fit_zero_point(position, difference, np.full(n, 2e-4), SHAPE)
        except BadDataError as error:
            refused += 1
            assert "scatter" in str(error) or "agree" in str(error)
    assert refused >= (40 if n >= 10 else 35)


def test_light_of_others_does_not_pull() -> None:
    """60 electrons too many in each flux, which faint stars turn into a bias."""
    plain, with_excess, found = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(0, 2000, (2, 300))
        flux = 10 ** rng.uniform(4.3, 6.0, 300)
        noise = 0.004 * rng.normal(size=300)
        difference = 31.0 + 2.5 * np.log10((flux + 60.0) / flux) + noise
        given = (x, y), difference, np.full(300, 1.6e-5), SHAPE
        plain.append(fit_zero_point(*given).zero_points.coefficients[0] - 31.0)
        fit = fit_zero_point(*given, excess=1.0857 * 50.0 / flux)
        error = np.sqrt(fit.zero_points.covariance[0, 0])
        with_excess.append((fit.zero_points.coefficients[0] - 31.0) / error)
        found.append(50.0 * fit.excess)
    assert np.mean(plain) > 6e-4
    assert abs(np.mean(with_excess)) < 0.5 and np.std(with_excess) < 1.3
    assert np.mean(found) == pytest.approx(55.0, abs=8.0)


def test_order_of_the_stars_does_not_matter() -> None:
    """And NaN anywhere leaves a star out, nothing else."""
    rng = np.random.default_rng(3)
    x, y, colour = rng.uniform(0, 2000, (3, 150))
    colour = colour / 1000
    difference = 31 + 0.05 * (colour - 1) + 0.01 * rng.normal(size=150)
    variance = np.full(150, 1e-4)
    difference[3], colour[9], variance[20], x[30] = np.nan, np.nan, np.nan, np.nan
    fits = []
    for order in (np.arange(150), rng.permutation(150)):
        position = x[order], y[order]
        given = difference[order], variance[order], SHAPE
        fit = fit_zero_point(position, *given, colour=colour[order], term=TERM)
        used = np.zeros(150, bool)
        used[order] = fit.used
        fits.append((fit.zero_points.coefficients, used))
    np.testing.assert_allclose(fits[0][0], fits[1][0], rtol=1e-9)
    np.testing.assert_array_equal(fits[0][1], fits[1][1])
    assert not fits[0][1][[3, 9, 20, 30]].any() and fits[0][1].sum() > 140


def test_stars_without_colours() -> None:
    """A term of nothing is let go of; one that is something needs colours."""
    x = np.linspace(0, 2000, 10)
    given = (x, x), np.full(10, 31.0), np.full(10, 1e-4), SHAPE
    colour = np.full(10, np.nan)
    fit = fit_zero_point(*given, colour=colour, term=TERM)
    assert fit.colour_term is None and fit.n_used == 10
    with pytest.raises(BadDataError, match="too few"):
        fit_zero_point(*given, colour=colour, term=replace(TERM, coefficient=0.1))


@pytest.mark.parametrize(
    ("name", "band", "bands", "seconds", "expected"),
    [
        ("cpt1m012-fa06-20200113-0102", "i", "ri", 250.032, 23.1),
        ("ogg2m001-ep04-20201006-0097", "g", "gr", 60.0, 25.15),
    ],
)
def test_matched_catalogues_of_lco(
    realdata: Path, name: str, band: str, bands: str, seconds: float, expected: float
) -> None:
    """Zero points of two real frames as their observatory's pipeline has them, to 0.1 mag."""
    from astropy.io import fits

    path = realdata / "banzai-matched" / f"{name}-matched-cat.fits"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the real frames")
    stars = fits.getdata(path, 1)
    stars = stars[(stars["flag"] == 0) & (stars["flux"] > 0) & (stars[f"{band}mag"] > 0)]
    flux, error = stars["flux"], stars["fluxerr"]
    colour = stars[f"{bands[0]}mag"] - stars[f"{bands[1]}mag"]
    fit = fit_zero_point(
        (stars["x"] - 1, stars["y"] - 1),
        stars[f"{band}mag"] + 2.5 * np.log10(flux),
        stars[f"{band}magerr"] ** 2 + (1.0857 * error / flux) ** 2 + 0.003**2,
        (int(stars["y"].max()), int(stars["x"].max())),
        colour=np.where(np.abs(colour) < 5, colour, np.nan),
        term=ColourTerm(0.0, bands[0], bands[1], 0.0),
    )
    per_second = fit.zero_points.coefficients[0] - 2.5 * np.log10(seconds)
    assert per_second == pytest.approx(expected, abs=0.1)
    assert fit.n_used > 50 and fit.scatter < 0.2
