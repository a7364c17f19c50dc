"""The WCS of a channel, carried to the assembled image, points at the same sky."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.sections import Section
from mpipipe.store.calibrated import wcs_of_cards
from mpipipe.store.wcs_cards import is_usable, wcs_on_image

CD = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -20.0,
    "CRPIX1": 13.5, "CRPIX2": -40.25, "CD1_1": -5e-5, "CD1_2": 1e-5, "CD2_1": 2e-5,
    "CD2_2": 6e-5, "RADESYS": "ICRS",
}  # fmt: skip
SIP = {
    **CD, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 3, "B_ORDER": 3,
    "A_2_0": 1e-5, "A_1_1": -2e-5, "A_0_3": 3e-8, "B_0_2": 2e-5, "B_1_1": 1e-5, "B_3_0": -2e-8,
}  # fmt: skip
PC = {
    key: value for key, value in CD.items() if not key.startswith("CD")
} | {"CDELT1": -6e-5, "CDELT2": 5e-5, "PC1_2": 0.2, "PC2_1": -0.1}  # fmt: skip
CROTA = {
    key: value for key, value in CD.items() if not key.startswith("CD")
} | {"CDELT1": -6e-5, "CDELT2": 5e-5, "CROTA2": 33.0}  # fmt: skip


@pytest.mark.parametrize("cards", [CD, SIP, PC, CROTA], ids=["cd", "sip", "pc", "crota"])
@given(flips=st.tuples(*[st.booleans()] * 5))
@settings(deadline=None, max_examples=16)
def test_same_sky(cards: dict[str, object], flips: tuple[bool, ...]) -> None:
    """A pixel cut by DATASEC and put by DETSEC keeps its place on the sky."""
    data = Section(10, 60, 5, 35, flips[0], flips[1])
    place = Section(100, 150, 200, 230, flips[2], flips[3])
    height = 300
    raw_y, raw_x = np.mgrid[0:80, 0:90]
    image_x = np.full((height, 200), -1)
    image_y = np.full((height, 200), -1)
    for image, raw in ((image_x, raw_x), (image_y, raw_y)):
        cut = data.cut(raw)
        image[place.slices] = cut[:: -1 if place.flip_y else 1, :: -1 if place.flip_x else 1]
    if flips[4]:
        image_x, image_y = image_x[::-1], image_y[::-1]
    found = wcs_of_cards(wcs_on_image(cards, data, place, height if flips[4] else None))
    expected = wcs_of_cards(dict(cards))
    assert found is not None and expected is not None
    ys, xs = np.nonzero(image_x >= 0)
    ys, xs = ys[::97], xs[::97]
    sky = found.all_pix2world(xs, ys, 0)
    original = expected.all_pix2world(image_x[ys, xs], image_y[ys, xs], 0)
    np.testing.assert_allclose(sky, original, atol=1e-10)


def test_numbers_are_finite_and_wcs_opens() -> None:
    found = wcs_of_cards(wcs_on_image(SIP, Section(0, 10, 0, 10), Section(0, 10, 0, 10)))
    assert isinstance(found, WCS) and found.sip is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"CTYPE1": ""},
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CRVAL1": "unknown"},
        {"CRPIX1": None},
        {"CD1_1": math.nan},
        {"CD1_1": 0.0, "CD1_2": 0.0},
        {"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0},
    ],
)
def test_unusable_wcs_is_left_out(changes: dict[str, object]) -> None:
    header = {**CD, **changes}
    assert not is_usable(header)
    assert wcs_on_image(header, Section(0, 9, 0, 9), Section(0, 9, 0, 9)) == {}
