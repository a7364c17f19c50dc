"""Combine: master bias, dark and flat out of their frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mpipipe.data.camera import Corrections, Need
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Masters
from mpipipe.data.masters import MasterFrame
from mpipipe.data.raw import RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.calibs.denoise import denoise
from mpipipe.stages.calibs.photon_transfer import pair_noise
from mpipipe.stages.calibs.reduce import ReducedFrame, known_gains, reduce_frames, row_blocks
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.isr.overscan import OverscanConfig
from mpipipe.stages.isr.sdqa import clipped_mean

GAIN_WAY_OUT = (
    "give it in the camera description, or supply bias frames and at least two flats, "
    "from which it is measured by photon transfer"
)


class CombineConfig(BaseModel):
    """Options of combining calibration frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_sigma: float = Field(
        default=5.0, gt=1, description="values further from the median, in expected noise, go"
    )
    denoise: bool = Field(
        default=True, description="clear bias and dark of noise where they have no structure"
    )
    max_saturated: float = Field(
        default=0.02, gt=0, le=1, description="flats with more saturated pixels are left out"
    )
    min_flat_level: float = Field(
        default=1000.0, ge=0, description="flats with fewer electrons a pixel are left out"
    )


def _combine(
    frames: Sequence[ReducedFrame],
    rows_of: Callable[[ReducedFrame, slice], np.ndarray],
    levels: np.ndarray,
    floor: np.ndarray,
    photon: float,
    n_sigma: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipped mean over frames, in blocks of rows.

    Parameters
    ----------
    rows_of
        Reduced rows of a frame, (n_channels, n_rows, nx).
    levels
        (n_frames,) scale of each frame.
    floor
        (n_channels,) variance without light.

    Returns
    -------
    mean, variance, n_used
        (n_channels, ny, nx) float32, float32, uint8.
    """
    from mpipipe.stages.calibs import kernels

    n_channels, shape = len(frames[0].names), frames[0].shape
    mean = np.empty((n_channels, *shape), np.float32)
    variance, n_used = np.empty_like(mean), np.empty(mean.shape, np.uint8)
    for rows in row_blocks(len(frames), n_channels, shape):
        stack = np.stack([rows_of(frame, rows) for frame in frames])
        for i in range(n_channels):
            pixels = np.ascontiguousarray(stack[:, i]).reshape(len(frames), -1)
            own = np.full(len(frames), float(floor[i]))
            # Whole rows of a contiguous cube: these views are what the kernel fills.
            out = (plane[i, rows].reshape(-1) for plane in (mean, variance, n_used))
            kernels.combine_clipped(pixels, levels, own, photon, n_sigma, *out)
    return mean, variance, n_used


def _clear(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Denoise every channel in place; the share of real structure in each."""
    shares = np.zeros(len(mean))
    for i in range(len(mean)):
        mean[i], variance[i], shares[i] = denoise(mean[i], variance[i])
    return shares


def _with_floor(noise: np.ndarray) -> np.ndarray:
    """Noise of a pixel is at least that of rounding to integers."""
    return np.maximum(np.nan_to_num(noise, nan=0.0), np.sqrt(1.0 / 12.0))


def _notes(kind: str, n_frames: int) -> tuple[str, ...]:
    if n_frames >= 5:
        return ()
    return (f"{n_frames} {kind} frames: 5 or more clip cosmic rays and noise better",)


def build_bias(
    frames: Sequence[RawFrame],
    corrections: Corrections,
    sdqa: Sdqa,
    warnings: list[str],
    *,
    min_frames: int = 3,
    config: CombineConfig | None = None,
    overscan: OverscanConfig | None = None,
) -> MasterFrame:
    """Master bias in ADU: above the overscan where there is one, else with the level.

    Raises
    ------
    MissingInputError, BadDataError
        If there are too few frames, or they do not fit together.
    """
    config = config or CombineConfig()
    reduced = reduce_frames(frames, corrections, overscan, kind="bias", min_frames=min_frames)
    noise = pair_noise(reduced)
    noise = np.where(np.isfinite(noise), noise, reduced[0].overscan_rms)
    ones = np.ones(len(reduced))
    mean, variance, _ = _combine(
        reduced, ReducedFrame.levelled, ones, _with_floor(noise) ** 2, 0.0, config.n_sigma
    )
    shares = _clear(mean, variance) if config.denoise else np.ones(len(mean))
    raw = reduced[0].raw
    gain = np.array([np.nan if c.gain is None else c.gain for c in raw.channels], float)
    for i, name in enumerate(reduced[0].names):
        sdqa.add("calibs.bias.noise", noise[i], "adu", channel=name)
        sdqa.add("calibs.bias.level", float(np.median(mean[i])), "adu", channel=name)
        sdqa.add("calibs.bias.structure", shares[i], channel=name)
    notes = _notes("bias", len(reduced))
    warnings.extend(notes)
    return MasterFrame(
        kind="bias",
        camera=raw.info.camera,
        detector=raw.info.detector,
        names=reduced[0].names,
        image=mean,
        variance=variance,
        gain=gain,
        read_noise=gain * noise,
        n_frames=len(reduced),
        notes=notes,
    )


def _check_bias(
    reduced: Sequence[ReducedFrame],
    masters: Masters,
    corrections: Corrections,
    kind: str,
    warnings: list[str],
) -> None:
    applied: dict[str, str] = {}
    found: list[str] = []
    is_wanted("bias", corrections.bias, masters.bias is not None, "master bias", applied, found)
    warnings.extend(f"{kind}: {text}" for text in found)
    if masters.bias is not None and masters.bias.shape[1:] != reduced[0].shape:
        raise BadDataError(
            f"the master bias has shape {masters.bias.shape[1:]}, the {kind} frames "
            f"{reduced[0].shape}",
            way_out="use frames of one window and binning",
        )


def _read_noise(reduced: Sequence[ReducedFrame], masters: Masters, gain: np.ndarray) -> np.ndarray:
    """(n_channels,) ADU: overscan, masters or camera, whichever knows first."""
    nominal = np.array(
        [np.nan if c.read_noise is None else c.read_noise for c in reduced[0].raw.channels]
    )
    noise = (
        np.nanmean([f.overscan_rms for f in reduced], axis=0) if _any_overscan(reduced) else None
    )
    result = np.full(len(gain), np.nan) if noise is None else np.asarray(noise)
    for other in (masters.read_noise, nominal):
        if other is not None:
            result = np.where(np.isfinite(result), result, other / gain)
    return _with_floor(result)


def _any_overscan(reduced: Sequence[ReducedFrame]) -> bool:
    return bool(np.isfinite(reduced[0].overscan_rms).all())


def build_dark(
    frames: Sequence[RawFrame],
    masters: Masters,
    corrections: Corrections,
    sdqa: Sdqa,
    warnings: list[str],
    *,
    min_frames: int = 3,
    config: CombineConfig | None = None,
    overscan: OverscanConfig | None = None,
) -> MasterFrame:
    """Master dark in electrons per second; hot pixels keep their own value.

    Cosmic rays go by clipping. A pixel that is clipped in two or more frames is unstable: its
    variance is that of its scatter, by which `find_defects` knows it.

    Raises
    ------
    MissingInputError, BadDataError
        If frames, bias or gain are missing, or do not fit.
    """
    config = config or CombineConfig()
    reduced = reduce_frames(frames, corrections, overscan, kind="dark", min_frames=min_frames)
    _check_bias(reduced, masters, corrections, "dark", warnings)
    raw = reduced[0].raw
    seconds = np.array([frame.seconds for frame in reduced])
    if not (seconds > 0).all():
        files = reduced[int(np.argmin(seconds))].raw.info.files
        raise BadDataError(
            "a dark frame has no exposure time",
            file=files[0] if files else None,
            key="EXPTIME",
            way_out="leave the frame out",
        )
    gain = known_gains(raw, masters, GAIN_WAY_OUT)
    read_noise = _read_noise(reduced, masters, gain) * gain
    scale = gain.astype(np.float32)[:, None, None]

    def electrons(frame: ReducedFrame, rows: slice) -> np.ndarray:
        return frame.signal(rows, masters) * scale

    mean, variance, n_used = _combine(
        reduced, electrons, seconds, read_noise**2, 1.0, config.n_sigma
    )
    unstable = n_used + 1 < len(reduced)
    scatter = variance[unstable]
    shares = _clear(mean, variance) if config.denoise else np.ones(len(mean))
    variance[unstable] = scatter
    for i, name in enumerate(reduced[0].names):
        level, spread = clipped_mean(mean[i, ::4, ::4].astype(np.float64))
        sdqa.add("calibs.dark.level", level, "electron/s", channel=name)
        sdqa.add("calibs.dark.scatter", spread, "electron/s", channel=name)
        sdqa.add("calibs.dark.structure", shares[i], channel=name)
        sdqa.add("calibs.dark.unstable", int(unstable[i].sum()), "pixel", channel=name)
    notes = _notes("dark", len(reduced))
    warnings.extend(notes)
    return MasterFrame(
        kind="dark",
        camera=raw.info.camera,
        detector=raw.info.detector,
        names=reduced[0].names,
        image=mean,
        variance=variance,
        gain=gain,
        read_noise=read_noise,
        n_frames=len(reduced),
        seconds=float(seconds.sum()),
        notes=notes,
    )


def _mean_response(image: np.ndarray) -> float:
    """Mean of the pixels that respond at all like the others; vignetting counts, defects not."""
    values = image.ravel().astype(np.float64)
    middle = float(np.median(values))
    alike = np.abs(values - middle) <= 0.5 * abs(middle)
    return float(values[alike].mean()) if alike.any() else middle


def _usable_flats(
    reduced: list[ReducedFrame],
    levels: np.ndarray,
    config: CombineConfig,
    warnings: list[str],
) -> np.ndarray:
    keep = np.ones(len(reduced), bool)
    for i, frame in enumerate(reduced):
        name = frame.raw.info.files[0] if frame.raw.info.files else f"flat {i}"
        saturated = frame.saturated_fraction()
        if saturated > config.max_saturated:
            warnings.append(f"{name}: {100 * saturated:.1f} % saturated, left out")
            keep[i] = False
        elif not levels[i] >= config.min_flat_level:
            warnings.append(f"{name}: only {levels[i]:.0f} electrons, left out")
            keep[i] = False
    return keep


def build_flat(
    frames: Sequence[RawFrame],
    masters: Masters,
    corrections: Corrections,
    sdqa: Sdqa,
    warnings: list[str],
    *,
    min_frames: int = 3,
    config: CombineConfig | None = None,
    overscan: OverscanConfig | None = None,
) -> MasterFrame:
    """Master flat of one band: response with a mean of 1 over the CCD, and the CCD's level.

    Frames are weighted by their light, each scaled by its own mean over the CCD. The noise of
    pixels is photon and read noise; nothing is smoothed, since pixel response is real.

    Raises
    ------
    MissingInputError, BadDataError
        If frames, bias or gain are missing, or do not fit, or too few are usable.
    """
    config = config or CombineConfig()
    reduced = reduce_frames(frames, corrections, overscan, kind="flat", min_frames=min_frames)
    _check_bias(reduced, masters, corrections, "flat", warnings)
    raw = reduced[0].raw
    gain = known_gains(raw, masters, GAIN_WAY_OUT)
    read_noise = _read_noise(reduced, masters, gain) * gain
    scale = gain.astype(np.float32)[:, None, None]
    dark = masters.dark if corrections.dark is not Need.OFF else None

    def electrons(frame: ReducedFrame, rows: slice) -> np.ndarray:
        image = frame.signal(rows, masters) * scale
        if dark is not None:
            image -= np.float32(frame.seconds) * dark[:, rows]
        return image

    sample = slice(0, None, max(1, reduced[0].shape[0] // 128))
    levels = np.array([_mean_response(electrons(f, sample)[..., ::4]) for f in reduced])
    keep = _usable_flats(reduced, levels, config, warnings)
    if keep.sum() < min_frames:
        raise BadDataError(
            f"{keep.sum()} of {len(reduced)} flats in {raw.info.band!r} are usable, "
            f"{min_frames} are needed",
            way_out="supply better flats, or set corrections.flat to if-available",
        )
    reduced = [frame for frame, usable in zip(reduced, keep, strict=True) if usable]
    levels = levels[keep]
    mean, variance, _ = _combine(reduced, electrons, levels, read_noise**2, 1.0, config.n_sigma)
    seconds = sum(frame.seconds for frame in reduced)
    level = float(levels.sum() / seconds) if seconds > 0 else float("nan")
    for i, name in enumerate(reduced[0].names):
        sdqa.add("calibs.flat.response", float(np.median(mean[i])), channel=name)
        noise = float(np.sqrt(np.median(variance[i])))
        sdqa.add("calibs.flat.noise", noise, channel=name)
    sdqa.add("calibs.flat.level", level, "electron/s")
    notes = _notes("flat", len(reduced))
    warnings.extend(notes)
    return MasterFrame(
        kind="flat",
        camera=raw.info.camera,
        detector=raw.info.detector,
        band=raw.info.band,
        names=reduced[0].names,
        image=mean,
        variance=variance,
        gain=gain,
        read_noise=read_noise,
        n_frames=len(reduced),
        seconds=float(seconds),
        level=level,
        notes=notes,
    )
