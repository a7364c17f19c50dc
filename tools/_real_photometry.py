"""Measurement of real frames beside what others made of them; empty where they are not at hand.

sep-ntt: a field of the NTT with SExtractor's own catalogue. saao-series: a crowded field, epoch
after epoch, without WCS and zero point, so that epochs are compared with each other and counts of
detections with sep's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _truth import spread
from scipy.spatial import cKDTree

from mpipipe.data.background import Background
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import DTYPE, is_set
from mpipipe.data.photo_calib import MAG_PER_RELATIVE
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sdqa import Sdqa
from mpipipe.quality.report import Check, at_least, at_most, within
from mpipipe.stages import cs, ic, sfm
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.sfm.apertures import circles
from mpipipe.stages.sfm.scene import make_scene
from mpipipe.stages.stage import Clipboard, run_chain

FULL = 65000.0
"""ADU from which pixels of the SAAO frames are full."""
CUT = 4
"""SExtractor's flags from which a source is saturated or cut."""
_APERTURE = 5.0
"""Radius of SExtractor's aperture, pixels."""


def checks(realdata: Path, n_epochs: int = 29) -> list[Check]:
    """All rows, of as many SAAO frames as asked."""
    return [*beside_sextractor(realdata), *crowded_epochs(realdata, n_epochs)]


def measured(exposure: Exposure, pixel_scale: float, is_calexp: bool = False) -> Clipboard:
    """What cs, ic and sfm make of a frame that is reduced; without cs if its sky is off."""
    clipboard: dict[str, Any] = {
        "exposures": [exposure],
        "calexp": exposure,
        "background": Background.constant(0.0, exposure.shape),
        "pixel_scale": pixel_scale,
        "reference": None,
        "sdqa": Sdqa(),
        "warnings": [],
    }
    stages = (*(() if is_calexp else cs.PIPELINE), *ic.PIPELINE, *sfm.PIPELINE)
    return run_chain(stages, {}, clipboard, failed=lambda step, error: None)


def silent(src: np.ndarray) -> int:
    """Fluxes that are NaN, or an exact zero, without the flag that says so."""
    n = 0
    for flux, flag in (
        ("psfInstFlux", "flag_psfFlux"), ("apInstFlux_3", "flag_aperture"),
        ("kronInstFlux", "flag_kron"), ("petroInstFlux", "flag_petro"),
    ):  # fmt: skip
        n += int(((~np.isfinite(src[flux]) | (src[flux] == 0)) & ~src[flag]).sum())
    return n


# -- the NTT's field -------------------------------------------------------------------------------


def beside_sextractor(realdata: Path) -> list[Check]:
    """What SExtractor found on its own: found, too; positions and fluxes on its sky; the sky."""
    folder = realdata / "sep-ntt"
    if not folder.is_dir():
        return []
    theirs = read_catalogue(folder / "image.cat")
    exposure, back, gain = read_ntt(folder)
    with_sky = measured(exposure.copy(), 0.27)
    sky = (exposure.image - with_sky["calexp"].image) / gain - back
    noise = float(np.median(np.sqrt(exposure.variance))) / gain
    exposure.image -= np.float32(gain) * back
    result = measured(exposure, 0.27, is_calexp=True)
    src = result["src"]
    tree = cKDTree(np.stack([src["x"], src["y"]], axis=1))
    distance, nearest = tree.query(np.stack([theirs["x"], theirs["y"]], axis=1))
    sure = (theirs["flux"] > 10 * theirs["fluxErr"]) & (theirs["flags"] < CUT)
    found = distance < np.maximum(2.0, 3.0 * theirs["a"])
    own, flux = src[nearest], _in_circle(result)[nearest] / gain
    lone = sure & (distance < 1.5) & (theirs["flags"] == 0) & ~own["flag_blended"]
    bright = lone & (theirs["flux"] > 50 * theirs["fluxErr"])
    off = np.concatenate([(own[axis] - theirs[axis])[lone] for axis in ("x", "y")])
    error = np.concatenate([theirs[f"{axis}Err"][lone] for axis in ("x", "y")])
    apart = (flux - theirs["flux"])[lone] / theirs["fluxErr"][lone]
    return [
        Check("NTT: sources of SExtractor above SNR 10", int(sure.sum())),
        at_least("NTT: of these, sources of ours, too", float(found[sure].mean()), 1.0),
        Check("NTT: sources of ours for one of SExtractor", len(with_sky["src"]) / len(theirs)),
        Check("NTT: lone ones above SNR 10", int(lone.sum())),
        at_most("NTT: their positions, ours - SExtractor's, 1.48 MAD an axis",
                spread(off), 0.1, "pixel"),
        at_most("NTT: the same / SExtractor's errors", spread(off / error), 1.0),
        # SExtractor leaves neighbours' light in its circles.
        within("NTT: their flux in 5 pixels, difference / SExtractor's errors, median",
               float(np.median(apart)), 0.0, 0.3),
        at_most("NTT: the same, 1.48 MAD", spread(apart), 0.5),
        within("NTT: above SNR 50, ours / SExtractor's",
               float(np.median((flux / theirs["flux"])[bright])), 1.0, 0.005),
        within("NTT: sky, ours - SExtractor's, median / noise of a pixel",
               float(np.median(sky)) / noise, 0.0, 0.1),
        within("NTT: fluxes that failed without a flag", silent(with_sky["src"]), 0, 0),
    ]  # fmt: skip


def read_catalogue(path: Path) -> np.ndarray:
    """SExtractor's catalogue, zero-based pixels: x, y with errors, size, aperture flux, flags."""
    table = np.loadtxt(path)
    columns = {
        "x": table[:, 3] - 1.0, "y": table[:, 4] - 1.0,
        "xErr": np.sqrt(table[:, 8]), "yErr": np.sqrt(table[:, 9]),
        "a": table[:, 11], "flux": table[:, 12], "fluxErr": table[:, 13], "flags": table[:, -1],
    }  # fmt: skip
    rows = np.zeros(len(table), [(name, "f8") for name in columns])
    for name, values in columns.items():
        rows[name] = values
    return rows


def read_ntt(folder: Path) -> tuple[Exposure, np.ndarray, float]:
    """The field in electrons, SExtractor's sky (ADU), the gain that sky's level and noise tell."""
    from astropy.io import fits

    image, back, noise = (
        np.asarray(fits.getdata(folder / f"{name}.fits"), np.float32)
        for name in ("image", "back", "rms")
    )
    gain = float(np.median(image) / np.median(noise) ** 2)
    info = FrameInfo(
        camera="ntt", visit=1, snap=0, detector="0", detector_number=0, kind="science", band="r",
        exposure_time=1.0, dark_time=1.0, mjd_start=48921.1,
    )  # fmt: skip
    pixels = np.asarray(image * gain, np.float32)
    mask = np.zeros(image.shape, DTYPE)
    return Exposure(pixels, mask, np.maximum(pixels, 1.0), info), back, gain


def _in_circle(result: Clipboard) -> np.ndarray:
    """Flux of every source in SExtractor's aperture, electrons."""
    src, planes, psf = result["src"], result["planes"], result["psf"]
    width = float(result["sdqa"].get("sfm.sourceDetection.map_width"))
    scene = make_scene(
        src, result["calexp"], planes, PsfModels(psf, len(src)), width, result["detections"]
    )
    x, y, flux = src["x"], src["y"], src["psfInstFlux"]
    radii = np.array([_APERTURE])
    return circles(scene.residual, planes, psf.images(x, y), x, y, flux, radii)[0][:, 0]


# -- the crowded field -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """One frame of the crowded field.

    Attributes
    ----------
    full
        Sources with a full pixel within 1 FWHM, told by the frame itself.
    n_sep
        What sep finds by a matched filter at the same threshold.
    residual
        Of pixels at stars above SNR 100: 1.48 MAD of what the models leave, over the noise.
    """

    src: np.ndarray
    full: np.ndarray
    fwhm: float
    n_sep: int
    residual: float


def crowded_epochs(realdata: Path, n_epochs: int) -> list[Check]:
    """Nothing fails, full stars say so, and epochs agree on the others within their errors."""
    folder = realdata / "saao-series"
    if not folder.is_dir():
        return []
    epochs = [measure_epoch(path) for path in sorted(folder.glob("*.fits"))[:n_epochs]]
    pairs = [found for a, b in zip(epochs, epochs[1:], strict=False) if (found := _pair(a, b))]
    numbers = np.array([len(epoch.src) for epoch in epochs])
    full = np.concatenate([epoch.full for epoch in epochs])
    told = np.concatenate([epoch.src["flag_saturated"] for epoch in epochs])
    return [
        Check("SAAO: frames", len(epochs)),
        Check("SAAO: sources a frame, median", float(np.median(numbers))),
        at_least("SAAO: sources, ours / sep's, median",
                 float(np.median(numbers / [epoch.n_sep for epoch in epochs])), 1.0),
        within("SAAO: sources on full pixels without the flag", int((full & ~told).sum()), 0, 0),
        within("SAAO: fluxes that failed without a flag",
               sum(silent(epoch.src) for epoch in epochs), 0, 0),
        Check("SAAO: residuals of stars above SNR 100 / noise, median",
              float(np.median([epoch.residual for epoch in epochs]))),
        Check("SAAO: pairs of epochs", len(pairs)),
        Check("SAAO: stars of a pair, median", float(np.median([n for n, _, _ in pairs]))),
        Check("SAAO: magnitudes above SNR 100 from epoch to epoch, 1.48 MAD / sqrt 2, mmag",
              float(np.median([bright for _, bright, _ in pairs]))),
        at_most("SAAO: magnitudes at SNR 10-50 from epoch to epoch / errors",
                float(np.median([pull for _, _, pull in pairs])), 1.5),
    ]  # fmt: skip


def measure_epoch(path: Path) -> Epoch:
    """Read, measure, count."""
    from mpipipe.store.calibrated import read_calibrated
    from mpipipe.store.cameras import load_camera

    exposure = read_calibrated(path, load_camera("saao-ste3-reduced"))
    adu = exposure.image / next(iter(exposure.gain.values()))
    result = measured(exposure, 0.31)
    src, calexp, planes = result["src"], result["calexp"], result["planes"]
    fwhm = float(result["psf"].fwhm)
    at = np.argwhere(adu >= FULL)
    distance = np.full(len(src), np.inf)
    if len(at):
        distance, _ = cKDTree(at).query(np.stack([src["y"], src["x"]], axis=1))
    width = float(result["sdqa"].get("sfm.sourceDetection.map_width"))
    scene = make_scene(
        src, calexp, planes, PsfModels(result["psf"], len(src)), width, result["detections"]
    )
    usable = ~planes.unusable & ~is_set(calexp.mask, "SAT")
    near = np.zeros(calexp.shape, bool)
    bright = (src["snr"] > 100) & ~src["flag_saturated"] & ~src["flag_edge"]
    near[src["peakY"][bright], src["peakX"][bright]] = True
    pulls = scene.residual[near & usable] / np.sqrt(calexp.variance[near & usable])
    return Epoch(src, distance < 1.0, fwhm, _found_by_sep(calexp, planes.variance, fwhm),
                 float(spread(pulls)))  # fmt: skip


def _found_by_sep(calexp: Exposure, variance: np.ndarray, fwhm: float) -> int:
    """Sources above 5 sigma by a matched filter, the noise scaled to what the pixels show."""
    import sep
    from _photometry_worker import gaussian

    image = np.ascontiguousarray(calexp.image, np.float32)
    scale = spread(image / np.sqrt(variance)) ** 2
    found = sep.extract(
        image, 5.0, var=np.ascontiguousarray(variance * scale, np.float32),
        filter_kernel=gaussian(fwhm), filter_type="matched", minarea=1, clean=False,
    )  # fmt: skip
    return len(found)


def _pair(one: Epoch, two: Epoch) -> tuple[int, float, float] | None:
    """Stars in common, their scatter above SNR 100 (mmag), differences over errors below SNR 50.

    None where the frames can not be laid on each other.
    """
    a, b = (_good(epoch.src) for epoch in (one, two))
    shift = _shift(a, b)
    if shift is None:
        return None
    tree = cKDTree(np.stack([b["x"], b["y"]], axis=1))
    distance, nearest = tree.query(np.stack([a["x"], a["y"]], axis=1) + shift)
    close = distance < 0.5 * min(one.fwhm, two.fwhm)
    a, b = a[close], b[nearest[close]]
    off = -2.5 * np.log10(a["psfInstFlux"] / b["psfInstFlux"])
    error = MAG_PER_RELATIVE * np.hypot(*(r["psfInstFluxErr"] / r["psfInstFlux"] for r in (a, b)))
    snr = np.minimum(*(r["psfInstFlux"] / r["psfInstFluxErr"] for r in (a, b)))
    off -= np.median(off[snr > 50])
    faint = (snr > 10) & (snr < 50)
    bright = 1e3 * spread(off[snr > 100]) / np.sqrt(2.0)
    return len(a), bright, spread((off / error)[faint])


def _good(src: np.ndarray) -> np.ndarray:
    flags = ("flag_psfFlux", "flag_saturated", "flag_near_saturated", "flag_edge")
    bad = np.any([src[flag] for flag in flags], axis=0)
    return np.asarray(src[~bad & (src["psfInstFlux"] > 0)])


def _shift(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """How far b's stars stand from a's, pixels: the most frequent offset of the bright ones."""
    first, second = (rows[np.argsort(-rows["psfInstFlux"])[:60]] for rows in (a, b))
    offsets = np.stack(
        [np.subtract.outer(second[axis], first[axis]).ravel() for axis in ("x", "y")], axis=1
    )
    near = cKDTree(offsets).query_ball_point(offsets, 1.0)
    most = max(near, key=len)
    return np.median(offsets[most], axis=0) if len(most) >= 10 else None
