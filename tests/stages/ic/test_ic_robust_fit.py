"""The robust linear fit: known answers, outliers, scatter beyond the quoted errors."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.stages.ic.robust_fit import robust_fit


def line(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Design of a straight line and its values for the coefficients (3, -2)."""
    u = rng.uniform(-1, 1, n)
    design = np.stack([np.ones(n), u], axis=1)
    return design, design @ [3.0, -2.0]


def test_exact_values_give_the_exact_answer() -> None:
    design, values = line(np.random.default_rng(0), 20)
    fit = robust_fit(design, values, np.full(20, 1e-4))
    np.testing.assert_allclose(fit.coefficients, [3.0, -2.0], atol=1e-9)
    assert fit.used.all() and fit.scatter == 0.0


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_outliers_on_one_side_do_not_pull(share: float) -> None:
    """Least squares would be off by ten errors and more."""
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        design, values = line(rng, 60)
        values += 0.01 * rng.normal(size=60)
        outliers = np.arange(60) < share * 60
        values[outliers] += rng.uniform(0.1, 2.0, outliers.sum())
        fit = robust_fit(design, values, np.full(60, 1e-4))
        assert not fit.used[outliers].any()
        pulls.append((fit.coefficients[0] - 3.0) / np.sqrt(fit.covariance[0, 0]))
    assert np.std(pulls) < 1.3 and abs(np.mean(pulls)) < 0.5


def test_scatter_beyond_the_errors_is_found_and_widens_them() -> None:
    pulls, scatters = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        design, values = line(rng, 30)
        values += np.hypot(0.01, 0.03) * rng.normal(size=30)
        fit = robust_fit(design, values, np.full(30, 1e-4))
        scatters.append(fit.scatter)
        pulls.append((fit.coefficients - [3.0, -2.0]) / np.sqrt(np.diag(fit.covariance)))
    assert np.median(scatters) == pytest.approx(0.03, rel=0.1)
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=0.15)


def test_a_prior_decides_what_data_leave_open() -> None:
    """All at one place: the slope is the prior's, the fit does not fail."""
    design = np.stack([np.ones(5), np.full(5, 0.5)], axis=1)
    fit = robust_fit(design, np.full(5, 3.0), np.full(5, 1e-4), prior=np.array([np.inf, 0.1]))
    np.testing.assert_allclose(fit.coefficients, [3.0, 0.0], atol=1e-3)
    assert fit.covariance[1, 1] == pytest.approx(0.01, rel=1e-3)


def test_values_that_do_not_agree_still_give_finite_numbers() -> None:
    """Two groups far apart, as a wrong match makes: nothing to trust, but no crash."""
    values = np.array([0.0, 0.0, 9.0, 9.0, 4.0])
    fit = robust_fit(np.ones((5, 1)), values, np.full(5, 1e-6))
    assert np.isfinite(fit.coefficients).all() and np.isfinite(fit.covariance).all()
    one = robust_fit(np.ones((1, 1)), np.array([7.0]), np.array([1e-4]))
    assert one.coefficients[0] == pytest.approx(7.0)
    assert one.covariance[0, 0] == pytest.approx(1e-4)
