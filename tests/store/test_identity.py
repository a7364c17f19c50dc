"""What headers and file names tell: names round trip, contradictions are told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.camera import Camera
from mpipipe.data.errors import BadDataError
from mpipipe.store.cameras import load_camera
from mpipipe.store.identity import identify, identify_by_name, identity_keys

TINY = load_camera("sim-tiny")
GENERIC = load_camera("generic")
DETECTORS = st.sampled_from([detector.name for detector in TINY.detectors])
CHANNELS = st.sampled_from([channel.name for channel in TINY.types["ccd"].channels])


def header(**changes: Any) -> dict[str, Any]:
    content = {
        "OBSID": 7, "SNAP": 1, "CHIPID": "R22_S11", "AMPID": "C03", "FILTER": "g",
        "EXPTIME": 15.0, "IMGTYPE": "OBJECT", "MJD-OBS": 60000.25,
    }  # fmt: skip
    content.update(changes)
    return {key: value for key, value in content.items() if value is not None}


@given(st.integers(0, 10**10), st.integers(0, 99), DETECTORS, CHANNELS,
       st.sampled_from([".fits", ".fits.gz", ".fits.fz"]))  # fmt: skip
def test_file_name_round_trip(
    visit: int, snap: int, detector: str, channel: str, suffix: str
) -> None:
    name = f"imsim_{visit}_{detector}_{channel}_E{snap:03d}{suffix}"
    assert identify_by_name(name, TINY) == (visit, snap, detector, channel)
    told = identify(header(OBSID=None, SNAP=None, CHIPID=None, AMPID=None), name, TINY)
    assert (told.visit, told.snap, told.detector, told.channel) == (visit, snap, detector, channel)


@given(st.text(max_size=60))
def test_other_names_tell_nothing(name: str) -> None:
    assert identify_by_name(name, TINY) is None or name.startswith("imsim_")


def test_header_alone_is_enough() -> None:
    told = identify(header(), "any.fits", TINY)
    assert (told.visit, told.snap, told.detector, told.channel) == (7, 1, "R22_S11", "C03")
    assert (told.kind, told.band, told.exposure_time, told.dark_time) == (
        "science",
        "g",
        15.0,
        15.0,
    )
    assert told.mjd_start == 60000.25


@pytest.mark.parametrize(
    ("changes", "name", "key"),
    [
        ({"CHIPID": "R22_S00"}, "imsim_7_R22_S11_C03_E001.fits", "CHIPID"),
        ({"AMPID": "C04"}, "imsim_7_R22_S11_C03_E001.fits", "AMPID"),
        ({"OBSID": 8}, "imsim_7_R22_S11_C03_E001.fits", "OBSID"),
        ({"SNAP": 0}, "imsim_7_R22_S11_C03_E001.fits", "SNAP"),
        ({"SNAP": "x"}, "a.fits", "SNAP"),
        ({"CHIPID": "R99_S99"}, "a.fits", "CHIPID"),
        ({"CHIPID": None}, "a.fits", "CHIPID"),
        ({"AMPID": "C99"}, "a.fits", "AMPID"),
        ({"IMGTYPE": "LAMP"}, "a.fits", "IMGTYPE"),
        ({"IMGTYPE": None}, "a.fits", "IMGTYPE"),
        ({"FILTER": None}, "a.fits", "FILTER"),
        ({"CCDSUM": "0 0"}, "a.fits", "CCDSUM"),
        ({"CCDSUM": "x y"}, "a.fits", "CCDSUM"),
    ],
)
def test_wrong_keys_are_named(changes: dict[str, Any], name: str, key: str) -> None:
    with pytest.raises(BadDataError) as caught:
        identify(header(**changes), name, TINY)
    assert caught.value.key == key and caught.value.reason


@given(st.dictionaries(
    st.sampled_from(identity_keys(GENERIC)),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
))  # fmt: skip
def test_garbage_values_give_an_identity_or_bad_data(content: dict[str, Any]) -> None:
    try:
        told = identify(content, "a.fits", GENERIC)
    except BadDataError as error:
        assert error.reason
    else:
        assert told.visit is None or 0 <= told.visit < 10**14
        assert min(told.binning) >= 1


def test_visit_of_a_camera_without_one_is_its_start() -> None:
    told = identify(
        {"DATE-OBS": "2025-06-02T04:10:14.288", "EXPTIME": 60.0, "FILTER": "z"}, "a.fits", GENERIC
    )
    assert told.visit == 20250602041014


def test_formatted_keys() -> None:
    camera = load_camera("lsstcam")
    told = identify(
        {"DAYOBS": "20191031", "SEQNUM": 1985, "RAFTBAY": "R22", "CCDSLOT": "S11",
         "IMGTYPE": "SPOT", "EXPTIME": 16.0},
        "a.fits",
        camera,
    )  # fmt: skip
    assert (told.visit, told.detector) == (2019103101985, "R22_S11")


@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [
        ("16 02 11.83", "+28 10 10.7", (240.549292, 28.169639)),
        (" 18:15:29", "-25:17:06", (273.870833, -25.285)),
        ("12:00", "-00:30", (180.0, -0.5)),
        (17.5, -15.0, (17.5, -15.0)),
        ("17.5", "-15.0", (17.5, -15.0)),
        ("unknown", 95.0, (math.nan, math.nan)),
    ],
)
def test_pointing(ra: object, dec: object, expected: tuple[float, float]) -> None:
    told = identify({"RA": ra, "DEC": dec, "FILTER": "r"}, "a.fits", GENERIC)
    assert (told.ra, told.dec) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({}, (1, 1)),
        ({"CCDSUM": "2 4"}, (2, 4)),
        ({"XBINNING": 2, "YBINNING": 3}, (2, 3)),
        ({"CCDSUM": "1 1", "XBINNING": 2, "YBINNING": 2}, (1, 1)),
    ],
)
def test_binning(cards: dict[str, Any], expected: tuple[int, int]) -> None:
    assert identify({"FILTER": "r", **cards}, "a.fits", GENERIC).binning == expected


def test_unknown_filter_is_kept_and_noted() -> None:
    told = identify(header(FILTER="H-alpha"), "a.fits", TINY)
    assert (told.band, told.band_is_known) == ("H-alpha", False)


def test_bias_needs_neither_filter_nor_exposure_time() -> None:
    told = identify(header(IMGTYPE="BIAS", FILTER=None, EXPTIME=None), "a.fits", TINY)
    assert (told.kind, told.band, told.exposure_time) == ("bias", "", 0.0)


def test_hdu_keys(tiny: Camera) -> None:
    camera = Camera.model_validate(
        {**GENERIC.model_dump(), "header": {"visit": ["SCI:RUN"], "constants": {"filter": "r",
                                                                "image_type": "object"}}}
    )  # fmt: skip
    assert "SCI:RUN" in identity_keys(camera)
    assert identify({"SCI:RUN": 12}, "a.fits", camera).visit == 12
