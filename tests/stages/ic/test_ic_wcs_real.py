"""The WCS of real frames (skipped where these are absent)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, VALUE
from mpipipe.data.refcat import ReferenceStars, reference_rows
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.stages import ic
from mpipipe.stages.ca.assemble_ccd import read_wcs
from mpipipe.stages.ic.nearest import nearest_pairs
from mpipipe.stages.ic.wcs_determination import WcsDeterminationConfig, wcs_determination
from mpipipe.stages.ic.wcs_verification import WcsVerificationConfig, wcs_verification
from mpipipe.stages.stage import run_chain
from mpipipe.store.calibrated import read_calibrated
from mpipipe.store.cameras import load_camera
from mpipipe.store.raw import read_frame
from mpipipe.store.scan import scan

MEASURING = tuple(stage for stage in ic.PIPELINE if stage.name.endswith(
    ("initialize", "sourceDetection", "sourceMeasurement")
))  # fmt: skip


def sources_of(calexp: Exposure) -> np.ndarray:
    clipboard: dict[str, Any] = {"calexp": calexp, "sdqa": Sdqa(), "warnings": []}
    rows = run_chain(MEASURING, {}, clipboard)["icSrc"]
    assert isinstance(rows, np.ndarray)
    return rows


def solved(
    calexp: Exposure, rows: np.ndarray, reference: ReferenceStars, pixel_scale: float
) -> tuple[WcsSolution, np.ndarray]:
    """The verified solution and its matches."""
    given: dict[str, Any] = {
        "calexp": calexp,
        "icSrc": rows.copy(),
        "reference": reference,
        "pixel_scale": pixel_scale,
        "sdqa": Sdqa(),
        "warnings": [],
    }
    for stage, config in (
        (wcs_determination, WcsDeterminationConfig()),
        (wcs_verification, WcsVerificationConfig()),
    ):
        given |= stage.run(config, **{name: given[name] for name in stage.needs})
    return given["wcs_solution"], given["icMatch"]


def test_lco_frame_with_gaia_stars(realdata: Path) -> None:
    """The header is off by 0.9 pixel, y runs downwards, the catalogue has no proper motions."""
    from astropy.table import Table

    folder = realdata / "lco-gaia"
    if not folder.is_dir():
        pytest.skip("lco-gaia is not among the real frames")
    camera = load_camera("lco-sinistro-reduced")
    calexp = read_calibrated(folder / "template_1.fits.fz", camera)
    calexp.image -= np.median(calexp.image)
    table = Table.read(folder / "sky_image_1_GaiaCat.ecsv")
    rows = reference_rows(
        {
            "id": np.arange(len(table)),
            "ra": np.asarray(table["ra"]),
            "dec": np.asarray(table["dec"]),
            "epoch": np.full(len(table), 57388.0),
            "mag_r": np.ma.filled(table["mag"].astype(float), np.nan),
        },
        ("r",),
    )
    gaia = ReferenceStars(rows, ("r",), "gaia")
    sources = sources_of(calexp)
    for wcs, pointing in ((calexp.wcs, np.nan), (None, 17.3946)):
        info = replace(calexp.info, ra=pointing, dec=pointing * 0.0 + 15.0099)
        solution, matches = solved(
            replace(calexp, wcs=wcs, info=info), sources, gaia, camera.pixel_scale
        )
        bright = matches["refMag"] < 16.5
        assert bright.sum() >= 35
        for name in ("dx", "dy"):
            off = matches[name][bright]
            assert 1.4826 * np.median(np.abs(off - np.median(off))) < 0.13
        assert solution.sip.parity == 1 and abs(abs(solution.sip.rotation) - 179.4) < 0.1
    assert solution.header_offset > 0.0


@dataclass(frozen=True, eq=False)
class Frame:
    """A roughly reduced frame and its sources."""

    calexp: Exposure
    rows: np.ndarray


@pytest.fixture(scope="module")
def night(realdata: Path) -> list[Frame]:
    """The ARCSAT frames less a dark, hot pixels masked."""
    folder = realdata / "arcsat-xo1b"
    if not folder.is_dir():
        pytest.skip("arcsat-xo1b is not among the real frames")
    from astropy.io import fits

    darks = np.stack([fits.getdata(path) for path in sorted(folder.glob("Dark*"))])
    dark = np.median(darks, axis=0)
    hot = dark > np.median(dark) + 50.0
    inventory = scan(folder)
    return [
        _reduced(read_frame(v.snaps[0], inventory.camera), dark, hot) for v in inventory.science
    ]


def _reduced(raw: Any, dark: np.ndarray, hot: np.ndarray) -> Frame:
    image = (raw.channels[0].pixels - dark).astype(np.float32)
    level = np.median(image[~hot])
    sigma = 1.4826 * np.median(np.abs(image[~hot] - level))
    image -= level
    mask = np.where(hot, VALUE["BAD"], 0).astype(DTYPE)
    image[hot] = 0.0
    variance = np.full(image.shape, sigma**2, np.float32)
    calexp = Exposure(image, mask, variance, raw.info, wcs=read_wcs(raw.wcs_header, []))
    return Frame(calexp, sources_of(calexp))


def _catalogue(
    ids: np.ndarray, ra: np.ndarray, dec: np.ndarray, error: np.ndarray, mag: np.ndarray
) -> ReferenceStars:
    columns = {"id": ids, "ra": ra, "dec": dec, "ra_error": error, "dec_error": error, "mag_z": mag}
    epoch = np.full(len(ra), 60828.2)
    return ReferenceStars(
        reference_rows(columns | {"epoch": epoch}, ("z",)), ("z",), "night", False
    )


def _averaged(first: ReferenceStars, placed: list[tuple[Frame, WcsSolution]]) -> ReferenceStars:
    """Positions of the stars averaged over the frames in which they were found."""
    total, weight = np.zeros((len(first), 2)), np.zeros(len(first))
    for frame, solution in placed:
        x, y = solution.sip.sky_to_pixel(first.rows["ra"], first.rows["dec"])
        rows = frame.rows
        source, star = nearest_pairs(
            np.stack([rows["x"], rows["y"]], axis=1), np.stack([x, y], axis=1), 1.5
        )
        ra, dec = solution.sip.pixel_to_sky(rows["x"][source], rows["y"][source])
        w = 1.0 / (rows["xErr"][source] ** 2 + 0.03**2)
        total[star] += w[:, None] * np.stack([ra, dec], axis=1)
        weight[star] += w
    seen = weight > 0.0
    ra, dec = (total[seen] / weight[seen, None]).T
    rows = first.rows[seen]
    return _catalogue(rows["id"], ra, dec, 670.0 / np.sqrt(weight[seen]), rows["mag_z"])


def test_every_frame_of_a_night_is_placed_by_one_of_them(night: list[Frame]) -> None:
    """27 of 27, also the 8 whose headers have no WCS; then against the mean of all."""
    assert len(night) == 27 and sum(frame.calexp.wcs is None for frame in night) == 8
    best = max((f for f in night if f.calexp.wcs is not None), key=lambda f: len(f.rows))
    rows = best.rows[~best.rows["flag_centroid"] & ~best.rows["flag_edge"]]
    ra, dec = best.calexp.wcs.all_pix2world(rows["x"], rows["y"], 0)
    mag = -2.5 * np.log10(np.maximum(rows["apInstFlux"], 1.0))
    first = _catalogue(rows["id"], ra, dec, 670.0 * rows["xErr"], mag)
    placed = [(frame, solved(frame.calexp, frame.rows, first, 0.67)[0]) for frame in night]
    assert all(solution.is_relative for _, solution in placed)
    assert {solution.sip.parity for _, solution in placed} == {-1}
    mean = _averaged(first, placed)
    offsets = []
    for frame in night:
        _, matches = solved(frame.calexp, frame.rows, mean, 0.67)
        bright = np.isin(matches["id"], frame.rows["id"][frame.rows["snr"] > 50.0])
        offsets.append(np.stack([matches["dx"], matches["dy"]], axis=1)[bright])
    rms = np.sqrt(np.mean(np.concatenate(offsets) ** 2, axis=0))
    assert (rms <= 0.05).all(), rms
