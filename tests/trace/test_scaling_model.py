"""The model recovers laws that made the numbers it is given, and says what it does not know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.trace.eventfile import EVENTS
from mpipipe.trace.model.extrap import as_extrap
from mpipipe.trace.model.law import (
    LOAD,
    ONE,
    SHARE,
    TASKS,
    At,
    Column,
    choose_law,
    normal_form,
    sets_of,
)
from mpipipe.trace.model.model import TASK_CPU, Model, fit
from mpipipe.trace.model.observation import (
    COMPUTE,
    COORDINATION,
    FILES,
    IMBALANCE,
    MASTER,
    MEASURED,
    RECOVERY,
    SERIAL,
    START_UP,
    Observation,
    observe,
)
from mpipipe.trace.model.prediction import Asked, predict
from mpipipe.trace.model.schedule import imbalance

RANKS = (1, 2, 4, 8, 16, 32)


def made_up(
    ranks: Sequence[int] = RANKS, noise: float = 0.0, n_tasks: int = 960, seed: int = 0
) -> list[Observation]:
    """Runs whose terms follow laws: 2 cores, tasks of 0.2 s, a file system that gets crowded."""
    generator = np.random.default_rng(seed)
    found = []
    for p in ranks:
        for n in sorted({n_tasks, 30 * p}):
            for _ in range(3):
                byte = 1e-9 * (1 + 0.2 * p)
                terms = dict.fromkeys(MEASURED, 0.0) | {
                    START_UP: 0.5 + 0.3 * p / min(p, 2),
                    SERIAL: 0.1 + 0.001 * n,
                    COMPUTE: 0.2 * n / p,
                    COORDINATION: 0.05 * math.sqrt(p) + 0.002 * n / p,
                    FILES: n / p * (2 * 1e-3 + 1e7 * byte),
                }
                terms = {t: s * math.exp(noise * generator.normal()) for t, s in terms.items()}
                found.append(
                    Observation(
                        p, n, 2, sum(terms.values()), terms, terms[COMPUTE] * p / n, 1e-3, 2.0, 1e7,
                        1e-3, byte, float(p), 2e-6 if p > 1 else math.nan, (1.0,),
                    )
                )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def model() -> Model:
    """Of runs without noise."""
    return fit(made_up(), leave_out=False)


def test_terms_are_recovered(model: Model) -> None:
    start, serial = model.laws[START_UP], model.laws[SERIAL]
    assert start.columns == (ONE, LOAD)
    np.testing.assert_allclose(start.factors, (0.5, 0.3), rtol=1e-6)
    assert serial.columns == (ONE, TASKS)
    np.testing.assert_allclose(serial.factors, (0.1, 0.001), rtol=1e-6)
    waiting = model.laws[COORDINATION]
    assert set(waiting.columns) == {SHARE, Column(ranks=0.5)}
    found = predict(model, 24, 2400, cores=2)
    assert found.terms[COMPUTE] == pytest.approx(0.2 * 100, rel=1e-3)
    assert found.terms[COORDINATION] == pytest.approx(0.05 * math.sqrt(24) + 0.2, rel=1e-6)
    assert found.wall_s == pytest.approx(sum(found.terms.values()))


def test_what_was_left_out_is_predicted() -> None:
    """With noise of 3 %, from runs on other numbers of ranks; the interval holds the truth."""
    model = fit(made_up((1, 2, 4, 8, 32), noise=0.03))
    errors = np.abs([one.error for one in model.left])
    assert len(errors) >= 5
    assert np.median(errors) < 0.05
    truth = next(o for o in made_up((12,)) if o.n_tasks == 960)
    found = predict(model, 12, 960, cores=2)
    assert found.low_s < truth.wall_s < found.high_s
    assert found.low_s > 0.7 * truth.wall_s
    assert found.high_s < 1.4 * truth.wall_s


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([Column(ranks=1.0), Column(ranks=0.5), Column(ranks=0, log=1), LOAD]),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_any_law_is_recovered(column: Column, rest: float, factor: float) -> None:
    """A constant and one column that grows: values are those of the law beyond what was seen."""
    places = [At(p, 100, p / min(p, 2), min(p, 2)) for p in (1, 2, 4, 8, 16, 32, 64)]
    values = np.array([rest + factor * column.at(place) for place in places])
    law = choose_law(places, values, values, sets_of([ONE, LOAD], normal_form()))
    far = At(200, 100, 100, 2)
    assert law.at(far) == pytest.approx(rest + factor * column.at(far), rel=0.02)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_noise_makes_no_growth(seed: int) -> None:
    """What is constant but for noise is not carried on to twice as much: no over-fitting."""
    generator = np.random.default_rng(seed)
    places = [At(p, 100) for p in RANKS for _ in range(3)]
    values = 1 + 0.05 * generator.normal(size=len(places))
    law = choose_law(places, values, values, sets_of([ONE], normal_form()))
    assert law.at(At(1000, 100)) < 2.5 or len(law.columns) == 1


def test_intervals_hold_the_truth() -> None:
    """Of many noisy samples most give intervals that hold the constants."""
    places = [At(p, 100, p, 1) for p in RANKS for _ in range(3)]
    truth = np.array((2.0, 0.5))
    held = []
    for seed in range(60):
        noise = np.exp(0.05 * np.random.default_rng(seed).normal(size=len(places)))
        values = np.array([truth[0] + truth[1] * place.load for place in places]) * noise
        law = choose_law(places, values, values, [(ONE, LOAD)], seed=seed)
        low, high = law.interval().T
        held += [(low[k] <= truth[k] <= high[k]) for k in range(2)]
    assert 0.85 < np.mean(held) <= 1.0


def test_cores_bound_what_is_computed() -> None:
    """Of tasks that need their core, more ranks than cores do no more; sleeping ones do."""
    burning = [
        Observation(
            p, 64, 2, 6.4 / min(p, 2), dict.fromkeys(MEASURED, 0.0) | {COMPUTE: 6.4 / min(p, 2)},
            0.1 * p / min(p, 2), 0.1, 0, 0, 0, 0, 1.0, math.nan, (1.0,),
        )
        for p in (1, 2, 4, 8)
    ]  # fmt: skip
    model = fit(burning, leave_out=False)
    assert model.laws[TASK_CPU].at(At(1, 64)) == pytest.approx(0.1)
    assert predict(model, 8, 640, cores=2).terms[COMPUTE] == pytest.approx(32.0)
    assert predict(model, 8, 640).terms[COMPUTE] == pytest.approx(8.0), "a core each"


def test_contention_ends_at_what_was_measured() -> None:
    """Two busy cores slow each other down by a tenth: what 10,000 of them do nobody has seen."""
    slowed = [
        replace(one, task_s=cpu, task_cpu_s=cpu, cores=2)
        for one in made_up((1, 2, 4))
        for cpu in [1.0 + 0.1 * (min(one.n_ranks, 2) - 1)]
    ]
    model = fit(slowed, leave_out=False)
    assert Column(busy=1) in model.laws[TASK_CPU].columns
    found = predict(model, 10_000, 10_000, n_draws=0)
    assert found.terms[COMPUTE] == pytest.approx(1.1, rel=0.02)


def test_one_number_of_ranks_gives_constants() -> None:
    """Nothing can be left out then: the simplest law, the same one every time, no interval."""
    runs = [one for one in made_up((4,), noise=0.03) if one.n_tasks == 960]
    model, again = fit(runs), fit(runs)
    assert len(runs) == 3
    assert model.laws[SERIAL].columns == model.laws[COORDINATION].columns == (ONE,)
    for name, law in model.laws.items():
        assert len(law.columns) == 1, name
        assert law.factors.tolist() == again.laws[name].factors.tolist(), name
        assert law.draws.tolist() == again.laws[name].draws.tolist(), name
    found = predict(model, 4, 960, cores=2)
    assert math.isnan(found.low_s)
    assert math.isnan(found.high_s)


def test_scatter_is_of_repeats() -> None:
    """Runs that were not repeated say nothing of it; of few repeats it is enlarged."""
    first = made_up((1,))[0]
    runs = [replace(first, wall_s=wall) for wall in (9.0, 10.0, 12.0)]
    single = replace(first, n_tasks=7)
    grown = math.sqrt(3 / 2)
    expected = [-0.1 * grown, 0.0, 0.2 * grown]
    assert fit([*runs, single], leave_out=False).scatter == pytest.approx(expected)
    assert fit([single], leave_out=False).scatter == (0.0,)


def test_files_that_crowd(model: Model) -> None:
    """Transfers slow each other down only while they are under way."""
    crowd = predict(model, 1000, 100_000, cores=1000)
    assert crowd.terms[FILES] > 100 * 1e7 * 1e-9 * 50
    assert crowd.terms[FILES] < 100 * (1e7 * 1e-9 * (1 + 0.2 * 1000) + 2e-3) * 1.001
    assert predict(model, 1000, 100_000, Asked(n_bytes=0.0)).terms[FILES] < 1.0


def test_master_and_recovery(model: Model) -> None:
    assert predict(model, 32, 960, cores=2).terms[MASTER] == 0
    many = predict(model, 5_000, 500_000, Asked(n_bytes=0.0, task_s=1e-6), n_draws=5)
    phase = many.wall_s - many.terms[START_UP] - many.terms[SERIAL]
    assert phase >= 500_000 * 1e-5 * 0.999, "one master can not do it faster"
    free = predict(model, 1000, 100_000)
    lossy = predict(model, 1000, 100_000, Asked(lifetime_s=3.6e6, recovery_s=10.0, commit_s=1.0))
    assert 0 < lossy.terms[RECOVERY] < 0.2 * free.wall_s
    restarted = predict(model, 1000, 100_000, Asked(lifetime_s=3.6e6, survives=False))
    assert restarted.terms[RECOVERY] > 0
    doomed = Asked(lifetime_s=100.0, recovery_s=60.0)
    assert math.isinf(predict(model, 1000, 1000, doomed).terms[RECOVERY]), "it never ends"


@pytest.mark.parametrize("survives", [True, False])
def test_syncs_lose_least(model: Model, survives: bool) -> None:
    """The interval is where syncs and lost work add up to least: a rank's, or everybody's."""
    asked = Asked(lifetime_s=3.6e6, commit_s=1.0, survives=survives)
    found = predict(model, 1000, 100_000, asked, n_draws=0).interval_s
    # Wall time lost in a second: by syncs, and of the half interval that every loss costs.
    losses, shared = 1000 / 3.6e6, 1000 if survives else 1
    intervals = np.geomspace(1.0, 1e5, 20_001)
    lost = 1.0 / intervals + losses * intervals / 2 / shared
    assert found == pytest.approx(intervals[np.argmin(lost)], rel=2e-3)


@given(st.integers(1, 40), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_equal_tasks_leave_what_does_not_divide(n_ranks: int, n_tasks: int) -> None:
    left = imbalance(np.ones(5), n_ranks, n_tasks)
    truth = 0.0 if n_ranks == 1 else math.ceil(n_tasks / n_ranks) - n_tasks / n_ranks
    assert left == pytest.approx(truth, abs=1e-9)


def events(n_ranks: int = 2, n_tasks: int = 10) -> np.ndarray:
    """Tasks of a second, 0.1 s of them a file of 1 or 2 MB, and 0.5 s of start-up."""
    rows = []
    for rank in range(n_ranks):
        rows.append((rank, 0.0, 0.5, 0.4, 0, 0, -1, rank, b"startup", b"python"))
        rows.append((rank, 0.5, n_tasks / n_ranks + 0.5, 0.1, 0, 0, -1, rank, b"phase", b"work"))
    for task in range(n_tasks):
        rank, start = task % n_ranks, 0.5 + task // n_ranks
        process, n_bytes = 100 + rank, 1_000_000 * (1 + task % 2)
        took = 0.05 * (1 + task % 2)
        rows.append((rank, start, 1.0, 0.3, 0, 0, task, process, b"task", b"work"))
        rows.append((rank, start, took, 0.05, 0, n_bytes, task, process, b"read", b"raw"))
    for rank in range(n_ranks):
        end = 0.5 + n_tasks / n_ranks
        rows.append((rank, end, 0.5, np.nan, 0, 0, -1, rank, b"idle", b"no task"))
    return np.array(rows, dtype=EVENTS.dtype)


def test_events_are_told_as_terms() -> None:
    seen = observe(events(), cores=4, wall_s=7.0)
    assert (seen.n_ranks, seen.n_tasks, seen.cores) == (2, 10, 4)
    assert sum(seen.terms.values()) == pytest.approx(7.0)
    assert seen.terms[START_UP] == pytest.approx(1.5), "with what no process was there to tell"
    assert seen.terms[COMPUTE] + seen.terms[FILES] == pytest.approx(5.0)
    assert seen.byte_s == pytest.approx(5e-8)
    assert seen.file_s == pytest.approx(0.0, abs=1e-9)
    assert seen.task_s == pytest.approx(1.0 - 0.075)
    assert seen.terms[IMBALANCE] == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="no task"):
        observe(events(n_tasks=0), 1)


def read_extrap(text: str) -> tuple[list[tuple[float, ...]], dict[str, list[list[float]]]]:
    """Points, and region to values, as Extra-P's own reader takes them apart."""
    points: list[tuple[float, ...]] = []
    regions: dict[str, list[list[float]]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        field, value = line.split(" ", 1)
        if field == "POINTS":
            inner = value.replace(") (", ")(")[1:-1].split(")(")
            points = [tuple(map(float, point.split(" "))) for point in inner]
        elif field == "REGION":
            current = regions.setdefault(value, [])
        elif field == "DATA":
            current.append([float(number) for number in value.split(" ")])
        else:
            assert field in ("PARAMETER", "METRIC")
    return points, regions


@given(st.floats(0, 1e6), st.booleans())
@settings(max_examples=20, deadline=None)
def test_extrap_text(value: float, with_tasks: bool) -> None:
    runs = made_up((1, 2, 4)) if with_tasks else [o for o in made_up() if o.n_tasks == 960]
    runs[0].terms[START_UP] = value
    points, regions = read_extrap(as_extrap(runs))
    assert set(regions) == {"run", *(f"run->{term}" for term in MEASURED)}
    for rows in regions.values():
        assert len(rows) == len(points), "a line for each point"
    assert regions["run->start-up"][0][0] == pytest.approx(value, abs=1e-8)
    assert points[0] == ((1.0, 30.0) if with_tasks else (1.0,))
