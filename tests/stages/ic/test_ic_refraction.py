"""Refraction by colour in the WCS: found where it is, not where it is not, and it comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError

from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.data.refraction import Colour, Refraction, colour_among
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.sim.toystars import ToyLists, ToyStars, toy_lists
from mpipipe.stages.ic.wcs_determination import WcsDeterminationConfig
from mpipipe.store.solution_cards import read_astrometry, replace_solution
from tests.stages.ic.test_ic_wcs import clipboard, errors, rms, solved

FIELD = ToyStars(n=250, offset=(20.0, -30.0), distortion=2.0)
STEP = np.array([0.3, -0.4])
"""Pixels per magnitude: 100 mas, as in u at airmass 1.3."""


def coloured(
    seed: int, step: np.ndarray, known: float = 1.0
) -> tuple[dict[str, Any], ToyLists, np.ndarray]:
    """A field whose stars have colours g - i, a share of them known, and stand where a step of so
    many pixels per magnitude brings them; with the colours of its sources."""
    rng = np.random.default_rng(seed)
    field = toy_lists(FIELD, seed)
    colour = 1.4 + 0.8 * rng.normal(size=len(field.ra)).clip(-2.0, 2.5)
    of_source = np.where(field.star >= 0, colour[field.star], 1.0)
    field = replace(
        field, x=field.x + step[0] * (of_source - 1.0), y=field.y + step[1] * (of_source - 1.0)
    )
    given = clipboard(FIELD, field)
    rows = given["reference"].rows
    columns = {name: rows[name] for name in rows.dtype.names}
    columns["mag_g"] = rows["mag_r"] + 0.7 * colour
    columns["mag_i"] = np.where(rng.random(len(rows)) < known, rows["mag_r"] - 0.3 * colour, np.nan)
    columns |= {f"mag_{band}_error": rows["mag_r_error"] for band in "gi"}
    stars = reference_rows(columns, ("g", "r", "i"))
    given["reference"] = ReferenceStars(stars, ("g", "r", "i"), "toy")
    return given, field, of_source


@pytest.mark.parametrize(("seed", "known"), [(1, 1.0), (2, 1.0), (3, 0.7)])
def test_refraction_is_found_and_the_wcs_is_that_of_the_pivot(seed: int, known: float) -> None:
    given, field, _ = coloured(seed, STEP, known)
    solution = solved(given)
    found = solution.refraction
    assert found is not None and (found.blue, found.red, found.pivot) == ("g", "i", 1.0)
    assert 0.001 < found.error < 0.02
    assert np.abs(found.step - STEP).max() < 4.0 * found.error
    assert rms(errors(field, solution.sip, FIELD.shape)) < 7.0
    assert solution.scatter < 5.0
    matches, rows = given["icMatch"], given["reference"].rows
    star = np.searchsorted(rows["id"], matches["refId"])
    coloured_too = np.isfinite(rows["mag_i"][star])
    assert rms(matches["dx"][coloured_too]) < 0.12
    scale = 200.0
    moved = given["sdqa"].get("ic.wcsDetermination.refraction")
    assert moved == pytest.approx(scale * np.hypot(*STEP), rel=0.1)


def test_without_the_term_colours_scatter_the_stars() -> None:
    given, _, _ = coloured(1, STEP)
    solution = solved(given, fit_refraction=False)
    assert solution.refraction is None
    assert solution.scatter > 30.0


def test_it_stays_out_where_there_is_none() -> None:
    found = [solved(coloured(seed, np.zeros(2))[0]) for seed in range(8)]
    assert sum(one.refraction is not None for one in found) <= 1


@pytest.mark.parametrize("known", [0.0, 0.3])
def test_too_few_colours_leave_everything_as_without(known: float) -> None:
    given, _, _ = coloured(4, STEP, known)
    other, _, _ = coloured(4, STEP, known)
    one = solved(given, refraction_colour=("g", "i"))
    two = solved(other, fit_refraction=False)
    assert one.refraction is None
    assert one.sip.cards() == two.sip.cards()
    assert (given["icMatch"]["refId"] == other["icMatch"]["refId"]).all()


def test_another_colour_serves_where_a_band_is_mostly_lacking() -> None:
    given, _, _ = coloured(4, STEP, 0.3)
    found = solved(given).refraction
    assert found is not None and (found.blue, found.red) == ("g", "r")
    assert np.abs(found.step - STEP / 0.7).max() < 4.0 * found.error


def test_a_colour_that_the_catalogue_lacks_is_told() -> None:
    given, _, _ = coloured(4, STEP)
    assert solved(given, refraction_colour=("g", "z")).refraction is None
    assert any("g-z" in text for text in given["warnings"])


def test_uncertain_colours_do_not_flatten_the_slope() -> None:
    given, _, _ = coloured(6, STEP)
    rows, rng = given["reference"].rows, np.random.default_rng(6)
    faint = rng.random(len(rows)) < 0.4
    rows["mag_g"][faint] += rng.normal(0.0, 1.0, faint.sum())
    rows["mag_g_error"][faint] = 1.0
    found = solved(given).refraction
    assert found is not None
    assert np.abs(found.step - STEP).max() < 4.0 * found.error


def test_stars_of_one_colour_tell_nothing() -> None:
    given, field, _ = coloured(5, np.zeros(2))
    rows = given["reference"].rows
    rows["mag_i"] = rows["mag_g"] - 1.7
    solution = solved(given)
    assert solution.refraction is None
    assert rms(errors(field, solution.sip, FIELD.shape)) < 7.0


def test_it_comes_back_from_header_cards() -> None:
    given, _, _ = coloured(1, STEP)
    solution = solved(given)
    exposure = given["calexp"]
    exposure.astrometry = solution
    head = fits.Header()
    replace_solution(head, exposure)
    again = fits.Header.fromstring(head.tostring())
    found = read_astrometry(again, fits.Header(solution.sip.cards()))
    assert isinstance(found, WcsSolution)
    assert found.refraction == solution.refraction
    exposure.astrometry = replace(solution, refraction=None)
    replace_solution(head, exposure)
    assert not [card for card in head if card.startswith("RFR")]


def test_colours_are_known_by_their_names() -> None:
    bands = ("g", "gaia_bp", "gaia_rp", "r", "x-y", "z")
    assert colour_among(bands) == Colour("g", "r")
    assert colour_among(bands, ("g", "z")) == Colour("g", "z")
    assert colour_among(bands, ("g", "i")) is None
    assert colour_among(("r",)) is None
    for colour in (Colour("g", "r"), Colour("gaia_bp", "gaia_rp"), Colour("x-y", "z")):
        assert Colour.named(colour.name, bands) == colour
    assert Colour.named("g-i") == Colour("g", "i")
    assert Colour.named("x-y-z") is None
    assert Colour.named("", bands) is None
    off = Colour("g", "i").off_pivot(np.array([1.5, 10.0, np.nan]))
    assert off[0] == pytest.approx(0.5) and np.isnan(off[1:]).all()
    assert Refraction(0.1, 0.2, 0.01, "g", "i", 1.0).colour == Colour("g", "i")


def test_a_colour_follows_from_others_along_the_main_sequence() -> None:
    """Against what Juric et al. (2008) have, and with errors that grow where it says little."""
    ri = np.linspace(0.0, 0.6, 20)
    gr = 1.39 * (1.0 - np.exp(-4.9 * ri**3 - 2.45 * ri**2 - 1.68 * ri - 0.05))
    from_gr, from_ri = Colour("g", "i").routes
    error = np.full(20, 0.01)
    for route, other in ((from_gr, gr), (from_ri, ri)):
        found, found_error = route.lead(other, error)
        assert np.abs(found - gr - ri).max() < 0.04
        assert (found_error >= 0.04).all()
    _, of_dwarfs = from_gr.lead(np.array([0.5, 1.42]), np.array([0.01, 0.01]))
    assert of_dwarfs[1] > 0.3 > 0.1 > of_dwarfs[0]
    assert np.isnan(from_gr.lead(np.array([np.nan]), np.array([0.1]))[0]).all()


@pytest.mark.parametrize("bands", [("g",), ("g", "g"), ("g", "r", "i"), ("long_name", "other_one")])
def test_a_colour_that_makes_no_sense_is_refused(bands: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        WcsDeterminationConfig(refraction_colour=bands)
