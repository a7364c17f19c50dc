"""The stage ic_photocal: bands, choice of stars, columns, flags, metrics, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.ccd_polynomial import CcdPolynomial
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.icsrc import ICMATCH, ICSRC
from mpipipe.data.raw import FrameInfo
from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.ic.photocal import (
    PhotocalConfig,
    photocal,
    reference_band,
    rows_of_ids,
    sound_stars,
)
from mpipipe.stages.stage import run_chain

SHAPE = (100, 110)
ZERO_POINT = 30.0
FACTOR = 1.02


@dataclass
class Case:
    """Stars on a CCD of which every second is in the catalogue, in another order."""

    n: int = 120
    band: str = "r"
    bands: tuple[str, ...] = ("g", "r", "i")
    is_absolute: bool = True
    magnitude_error: float = 0.01
    configuration: PhotocalConfig = field(default_factory=PhotocalConfig)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.n)
        info = FrameInfo("toy", 7, 0, "S00", 1, "science", self.band, 30.0, 30.0, 60000.0)
        plane = np.zeros(SHAPE, np.float32)
        self.calexp = Exposure(plane, plane.astype(np.int32), plane, info)
        magnitude = rng.uniform(16, 19, self.n)
        flux = 10 ** (0.4 * (ZERO_POINT - magnitude)) / FACTOR
        rows = ICSRC.empty(self.n)
        rows["id"] = 1000 + 3 * np.arange(self.n)
        rows["x"], rows["y"] = rng.uniform(0, 109, self.n), rng.uniform(0, 99, self.n)
        rows["psfInstFluxErr"] = np.sqrt(flux + 1e4)
        rows["psfInstFlux"] = flux + rows["psfInstFluxErr"] * rng.normal(size=self.n)
        rows["psfFlux"] = rows["psfFluxErr"] = np.nan
        self.rows, self.magnitude = rows, magnitude
        known = rng.permutation(self.n)[: self.n // 2]
        columns = {"id": 50 + np.arange(self.n), "ra": magnitude, "dec": magnitude}
        for band in self.bands:
            noise = self.magnitude_error * rng.normal(size=self.n)
            columns[f"mag_{band}"] = magnitude + noise
            columns[f"mag_{band}_error"] = np.full(self.n, self.magnitude_error)
        shuffled = rng.permutation(self.n)
        stars = reference_rows(columns, self.bands)[shuffled]
        self.reference: ReferenceStars | None = ReferenceStars(
            stars, self.bands, "toy", self.is_absolute
        )
        self.matches = ICMATCH.empty(len(known))
        self.matches["id"], self.matches["refId"] = rows["id"][known], 50 + known
        self.known = known
        factors = CcdPolynomial.constant(FACTOR, 0.01, SHAPE)
        self.correction = ApertureCorrection(factors, 9, False)
        self.sdqa, self.warnings = Sdqa(), list[str]()

    def run(self) -> Mapping[str, Any]:
        return photocal.run(
            self.configuration,
            calexp=self.calexp,
            icSrc=self.rows,
            icMatch=self.matches,
            aperture_correction=self.correction,
            reference=self.reference,
            sdqa=self.sdqa,
            warnings=self.warnings,
        )


def test_calibrates_every_source() -> None:
    case = Case()
    made = case.run()
    calibration = made["photo_calib"]
    assert calibration.zero_point == pytest.approx(ZERO_POINT, abs=5 * calibration.error)
    assert calibration.error < 0.003
    assert (calibration.band, calibration.is_relative) == ("r", False)
    rows = made["icSrc"]
    magnitude = 31.4 - 2.5 * np.log10(rows["psfFlux"])
    assert np.median(magnitude - case.magnitude) == pytest.approx(0.0, abs=0.004)
    own = rows["psfInstFluxErr"] / rows["psfInstFlux"]
    expected = np.hypot(own, calibration.error * np.log(10) / 2.5)
    np.testing.assert_allclose(rows["psfFluxErr"] / rows["psfFlux"], expected, rtol=1e-6)
    assert not case.warnings


def test_matches_get_magnitudes_by_their_ids() -> None:
    case = Case()
    made = case.run()
    matches, calibration = made["icMatch"], made["photo_calib"]
    np.testing.assert_allclose(matches["refMag"], case.magnitude[case.known], atol=0.06)
    assert (matches["refMagErr"] == np.float32(0.01)).all()
    assert np.isfinite(matches["refColor"]).all()
    assert np.abs(np.median(matches["dMag"])) < 0.003
    assert 0.008 < np.std(matches["dMag"]) < 0.02
    assert matches["photometry_used"].sum() == calibration.n_stars > 50
    used = made["icSrc"]["calib_photometry_used"]
    np.testing.assert_array_equal(
        np.sort(made["icSrc"]["id"][used]), np.sort(matches["id"][matches["photometry_used"]])
    )


def test_nothing_given_is_changed() -> None:
    case = Case()
    before = case.rows.tobytes(), case.matches.tobytes()
    case.run()
    assert (case.rows.tobytes(), case.matches.tobytes()) == before


def test_metrics() -> None:
    case = Case()
    calibration = case.run()["photo_calib"]
    for name in ("zero_point", "error", "n_stars", "scatter", "systematic"):
        assert case.sdqa.get(f"ic.photocal.{name}") == getattr(calibration, name)
    assert case.sdqa.get("ic.photocal.gradient") == 0.0
    assert case.sdqa.get("ic.photocal.colour_term") == 0.0
    assert abs(case.sdqa.get("ic.photocal.excess")) < 1.0


def test_flagged_stars_take_no_part_and_are_calibrated_all_the_same() -> None:
    case = Case()
    spoilt = case.known[:20]
    case.rows["flag_saturated"][spoilt] = True
    case.rows["psfInstFlux"][spoilt] *= 0.5
    made = case.run()
    assert not made["icMatch"]["photometry_used"][:20].any()
    np.testing.assert_allclose(made["icMatch"]["dMag"][:20], 0.753, atol=0.08)


def test_a_failed_psf_flux_stays_nan() -> None:
    case = Case()
    case.rows["psfInstFlux"][case.known[0]] = np.nan
    case.rows["flag_psfFlux"][case.known[0]] = True
    made = case.run()
    assert np.isnan(made["icSrc"]["psfFlux"][case.known[0]])
    assert np.isnan(made["icMatch"]["dMag"][0])


def test_relative_catalogue_makes_relative_zero_points() -> None:
    assert Case(is_absolute=False).run()["photo_calib"].is_relative


def test_gaia_serves_with_a_warning() -> None:
    case = Case(band="z", bands=("gaia_g", "gaia_bp", "gaia_rp"))
    calibration = case.run()["photo_calib"]
    assert calibration.band == "gaia_rp"
    assert "system of its band 'gaia_rp'" in case.warnings[0]
    assert calibration.colour_term is not None
    assert (calibration.colour_term.blue, calibration.colour_term.red) == ("gaia_bp", "gaia_rp")


@pytest.mark.parametrize(
    ("band", "bands", "expected"),
    [
        ("g", ("g", "r"), "g"),
        ("g", ("gaia_bp", "gaia_rp"), "gaia_bp"),
        ("V", ("B", "V", "g"), "V"),
        ("y", ("g", "z"), "z"),
        ("N964", ("gaia_g", "N964"), "N964"),
        ("none", ("u", "r"), "r"),
    ],
)
def test_bands(band: str, bands: tuple[str, ...], expected: str) -> None:
    reference = ReferenceStars(np.empty(0), bands, "toy")
    assert reference_band(band, reference, PhotocalConfig()) == expected


def test_bands_by_configuration() -> None:
    reference = ReferenceStars(np.empty(0), ("g", "w"), "toy")
    config = PhotocalConfig(reference_bands={"g": ("w", "g")})
    assert reference_band("g", reference, config) == "w"
    with pytest.raises(BadDataError, match="no magnitudes for band 'u'.*reference_bands"):
        reference_band("u", reference, config)


def test_given_colour_term() -> None:
    """Held below 100 stars; the error it brings is in the systematic part."""
    config = PhotocalConfig(colour_terms={"r": (0.2, "g", "i", 1.0)}, colour_term_error=0.05)
    case = Case(n=100, configuration=config)
    assert case.reference is not None
    case.reference.rows["mag_g"] = case.reference.rows["mag_i"] + 2.0
    calibration = case.run()["photo_calib"]
    assert calibration.zero_point == pytest.approx(ZERO_POINT - 0.2, abs=0.01)
    assert calibration.systematic == pytest.approx(np.hypot(0.003, 0.05 * 1.0), rel=1e-3)
    missing = PhotocalConfig(colour_terms={"r": (0.2, "u", "i", 1.0)})
    with pytest.raises(BadDataError, match="needs band 'u'"):
        Case(configuration=missing).run()


def test_faint_and_doubtful_stars_only_where_others_are_few() -> None:
    rows = Case(n=20).rows
    rows["flag_crowded"][:12] = True
    rows["flag_bad"][0] = True
    rows["psfInstFluxErr"][1] = rows["psfInstFlux"][1] / 5
    rows["psfInstFluxErr"][2] = rows["psfInstFlux"][2] / 20
    assert sound_stars(rows).nonzero()[0].tolist() == list(range(12, 20))
    rows["flag_crowded"][12] = True
    assert sound_stars(rows).nonzero()[0].tolist() == list(range(2, 20))


@pytest.mark.parametrize("n_known", [0, 1, 2])
def test_too_few_matches(n_known: int) -> None:
    case = Case()
    case.matches = case.matches[:n_known]
    with pytest.raises(BadDataError, match="too few"):
        case.run()


def test_wrong_field() -> None:
    case = Case()
    case.matches["refId"] = np.roll(case.matches["refId"], 1)
    with pytest.raises(BadDataError, match="scatter by"):
        case.run()


def test_no_catalogue_or_ids_that_do_not_exist() -> None:
    case = Case()
    case.matches["refId"][0] = 1
    with pytest.raises(BadDataError, match="does not exist"):
        case.run()


def test_without_a_catalogue_there_is_no_zero_point_and_nothing_is_wrong() -> None:
    case = Case()
    case.reference = None
    found = case.run()
    assert found["photo_calib"] is None
    assert np.isnan(found["icSrc"]["psfFlux"]).all()


def test_rows_of_ids() -> None:
    assert rows_of_ids(np.array([7, 3, 5]), np.array([5, 7, 7])).tolist() == [2, 0, 0]
    assert rows_of_ids(np.array([], int), np.array([], int)).tolist() == []


def test_unknown_errors_of_the_catalogue() -> None:
    """NaN and 0 count as the configured error."""
    case = Case()
    assert case.reference is not None
    case.reference.rows["mag_r_error"][::2] = np.nan
    case.reference.rows["mag_r_error"][1::2] = 0.0
    calibration = case.run()["photo_calib"]
    assert calibration.n_stars > 50
    assert calibration.error == pytest.approx(0.03 / np.sqrt(calibration.n_stars), rel=0.1)


def test_fallback_keeps_what_there_is() -> None:
    """Run as a chain runs it: no zero point, no calibrated flux, the matches stay."""
    case = Case()
    case.matches = case.matches[:2]
    clipboard = {
        "calexp": case.calexp,
        "icSrc": case.rows,
        "icMatch": case.matches,
        "aperture_correction": case.correction,
        "reference": case.reference,
        "sdqa": case.sdqa,
        "warnings": case.warnings,
    }
    failed: list[str] = []
    made = run_chain(
        (photocal,), {}, clipboard, failed=lambda step, error: failed.append(str(error))
    )
    assert made["photo_calib"] is None and len(made["icMatch"]) == 2
    assert np.isnan(made["icSrc"]["psfFlux"]).all()
    assert "too few" in failed[0]
