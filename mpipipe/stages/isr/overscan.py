"""isr.overscan: subtract the level of the electronics, row by row, and measure its noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from mpipipe.data.camera import Corrections, Need
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import ChannelStack, Masters
from mpipipe.data.raw import RawChannel, RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.isr.needs import is_wanted
from mpipipe.stages.isr.readout import Readout
from mpipipe.stages.stage import StageConfig, stage

COLUMN_WINDOW = 31
"""Columns over which the parallel overscan is smoothed."""

MIN_PIXELS = 200
"""Overscan pixels below which the measured read noise is not trusted."""


class OverscanConfig(StageConfig):
    """Options of isr.overscan."""

    n_sigma: float = Field(default=4.0, gt=1, description="clipping of overscan pixels, sigma")
    window: int = Field(
        default=0,
        ge=0,
        description="0: follow the level as it wanders, by its own statistics; else the rows "
        "(odd) of a running linear fit; 1: no smoothing",
    )
    parallel: bool = Field(default=True, description="use the parallel overscan where there is one")
    read_noise_tolerance: float = Field(
        default=0.2, gt=0, description="measured and nominal read noise may differ by this fraction"
    )

    @field_validator("window")
    @classmethod
    def _is_odd(cls, window: int) -> int:
        if window and window % 2 == 0:
            raise ValueError("window must be odd, or 0")
        return window


@dataclass(frozen=True)
class OverscanFit:
    """The overscan of one channel.

    Attributes
    ----------
    rows, columns
        (ny,), (nx,) float32 of the data section: ADU to subtract.
    level, rms
        Mean level and standard deviation of a pixel, ADU.
    error
        Standard error of a row's level, ADU.
    """

    rows: np.ndarray
    columns: np.ndarray
    level: float
    rms: float
    error: float


def smooth_linear(values: np.ndarray, window: int) -> np.ndarray:
    """Running straight-line fit of `window` points that keeps the ends.

    Inside, a linear Savitzky-Golay filter is the running mean (Savitzky & Golay 1964); within
    half a window of an end, the line through the outermost `window` points is taken.
    """
    n = len(values)
    window = min(window, n if n % 2 else n - 1)
    if window < 3:
        return np.array(values, float)
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=float)])
    result = np.empty(n)
    result[half : n - half] = (sums[window:] - sums[:-window]) / window
    x = np.arange(window) - half
    weights = x / np.sum(x * x)
    result[:half] = result[half] + (weights @ values[:window]) * x[:half]
    result[n - half :] = result[n - half - 1] + (weights @ values[n - window :]) * x[half + 1 :]
    return result


def smooth_levels(levels: np.ndarray, window: int, sigma: float) -> tuple[np.ndarray, float]:
    """Smooth row levels as far as their scatter is noise of `sigma` each.

    What rows have of their own beyond the wandering level and their noise is kept in the ratio
    of true to total variance (Wiener); rows that stand out (charge that trails out of a bright
    star) get the smooth level.

    Parameters
    ----------
    window
        Rows of a running linear fit; 0: a smoother that follows the level as it wanders.

    Returns
    -------
    levels
        Smoothed.
    error
        Expected standard error of one of them (of a running fit: that of noise alone).
    """
    from mpipipe.stages.isr import level_kernels

    if window == 1 or len(levels) < 3 or not sigma > 0:
        return np.array(levels, float), sigma
    if window == 0:
        smooth = np.empty(len(levels))
        left = min(
            level_kernels.smooth_wander(np.asarray(levels, float), sigma**2, smooth), sigma**2
        )
    else:
        smooth = smooth_linear(levels, window)
        left = sigma**2 / min(window, len(levels))
    rest = levels - smooth
    inside = np.abs(rest) < 8 * (1.4826 * float(np.median(np.abs(rest))) + sigma)
    if window > 1 and not inside.all():
        smooth = smooth_linear(np.where(inside, levels, smooth_median(levels, window)), window)
        rest = levels - smooth
    total = float(np.mean(rest[inside] ** 2)) if inside.any() else 0.0
    # The smooth level follows a row's noise by `left`.
    share = max(0.0, 1.0 - (sigma**2 - left) / total) if total > 0 else 0.0
    # Below a tenth the excess is within the uncertainty of a few hundred rows.
    if share < 0.1:
        return smooth, float(np.sqrt(left))
    kept = np.where(inside, rest * share, 0.0)
    return smooth + kept, float(np.sqrt(left + share * (sigma**2 - left)))


def smooth_median(values: np.ndarray, window: int) -> np.ndarray:
    """Running median with the end values repeated."""
    half = min(window, len(values)) // 2
    padded = np.pad(values, half, mode="edge")
    view = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.median(view, axis=1)


def fit_overscan(channel: RawChannel, skip: int, config: OverscanConfig) -> OverscanFit | None:
    """Measure the overscan of a channel; None if it has none.

    Parameters
    ----------
    skip
        Columns next to the data that trail charge.

    Raises
    ------
    BadDataError
        If skipping leaves no overscan column, or overscan pixels are not finite.
    """
    from mpipipe.stages.isr import level_kernels

    section = channel.biassec
    if section is None:
        return None
    over = channel.pixels[section.slices].astype(np.float32)
    if skip:
        over = over[:, skip:] if section.x0 >= channel.datasec.x0 else over[:, :-skip]
    if over.shape[1] == 0:
        raise BadDataError(
            f"channel {channel.name}: the overscan {section} has no column left after "
            f"skipping {skip}",
            key="overscan_skip",
        )
    if not np.isfinite(over).all():
        raise BadDataError(f"channel {channel.name}: overscan pixels are not finite")
    levels = np.empty(over.shape[0])
    rms = level_kernels.overscan_rows(np.ascontiguousarray(over), config.n_sigma, levels)
    sigma = rms / np.sqrt(over.shape[1])
    smooth, error = smooth_levels(levels, config.window, sigma)
    data = channel.datasec
    at = np.clip(np.arange(data.y0, data.y1) - section.y0, 0, len(smooth) - 1)
    rows = smooth[at].astype(np.float32)
    columns = np.zeros(data.shape[1], np.float32)
    if config.parallel and channel.parallel_biassec is not None:
        columns = _fit_parallel(channel, smooth, section.y0, rms, config)
    level = float(levels.mean())
    trusted = over.size >= MIN_PIXELS
    return OverscanFit(rows, columns, level, rms if trusted else float("nan"), error)


def _fit_parallel(
    channel: RawChannel, levels: np.ndarray, first_row: int, rms: float, config: OverscanConfig
) -> np.ndarray:
    """Level of the parallel overscan over the serial one, a number a data column, smoothed.

    Its mean counts only where the serial overscan goes on beside it: else the drift since the
    last data row would be taken for it. A profile within its own noise is none.
    """
    from mpipipe.stages.isr import level_kernels

    section, data = channel.parallel_biassec, channel.datasec
    assert section is not None
    over = channel.pixels[section.slices].astype(np.float32)
    beside = section.y0 >= first_row and section.y1 <= first_row + len(levels)
    if beside:
        over -= levels[section.y0 - first_row : section.y1 - first_row, None].astype(np.float32)
    # Rows next to the data hold charge left behind by bright columns: the clipping is by column.
    columns = np.empty(over.shape[1])
    level_kernels.overscan_rows(np.ascontiguousarray(over.T), config.n_sigma, columns)
    noise = max(rms, 0.3) / np.sqrt(over.shape[0])
    middle = float(np.median(columns))
    columns = np.where(np.abs(columns - middle) > 5 * noise, middle, columns)
    mean = float(columns.mean())
    shape = smooth_linear(columns - mean, COLUMN_WINDOW)
    if float(np.mean(shape**2)) < 4 * noise**2 / min(COLUMN_WINDOW, len(shape)):
        shape[:] = 0.0
    profile = shape + (mean if beside else 0.0)
    at = np.clip(np.arange(data.x0, data.x1) - section.x0, 0, len(profile) - 1)
    return profile[at].astype(np.float32)


def _take_pedestals(
    channels: ChannelStack, readout: Readout, masters: Masters, missing: list[int]
) -> None:
    """Subtract the master bias's mean level where there is no overscan."""
    if masters.bias is None:
        return
    for i in missing:
        pedestal = np.float32(np.median(masters.bias[i, ::4, ::4]))
        channels.image[i] -= pedestal
        readout.pedestal[i] = float(pedestal)


def _settle_read_noise(
    channels: ChannelStack, readout: Readout, tolerance: float, warnings: list[str]
) -> None:
    measured = readout.overscan_rms * channels.gain
    channels.read_noise = np.where(measured > 0, measured, channels.read_noise)
    off = np.abs(measured / readout.nominal_read_noise - 1.0) > tolerance
    for i in np.flatnonzero(off):
        warnings.append(
            f"channel {channels.names[i]}: read noise {measured[i]:.2f} e measured in the "
            f"overscan, {readout.nominal_read_noise[i]:.2f} e expected"
        )


@stage(
    "isr.overscan",
    needs=("raw", "masters", "corrections", "channels", "readout", "sdqa", "warnings"),
    adds=("channels", "readout"),
    config=OverscanConfig,
)
def overscan(
    config: OverscanConfig,
    *,
    raw: RawFrame,
    masters: Masters,
    corrections: Corrections,
    channels: ChannelStack,
    readout: Readout,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Subtract the overscan level, smoothed along rows; measure the read noise."""
    from mpipipe.stages.isr import level_kernels

    missing = [i for i, channel in enumerate(raw.channels) if channel.biassec is None]
    there = len(missing) < len(raw.channels)
    result = {"channels": channels, "readout": readout}
    wanted = is_wanted(
        "overscan", corrections.overscan, there, "overscan", channels.applied, warnings
    )
    if wanted:
        for i, channel in enumerate(raw.channels):
            fit = fit_overscan(channel, raw.overscan_skip, config)
            if fit is None:
                continue
            level_kernels.subtract_rows_and_columns(channels.image[i], fit.rows, fit.columns)
            readout.overscan_level[i], readout.overscan_rms[i] = fit.level, fit.rms
            readout.level_subtracted[i] = True
            place: dict[str, Any] = {"channel": channel.name, "snap": raw.info.snap}
            sdqa.add("isr.overscan.level", fit.level, "adu", **place)
            sdqa.add("isr.overscan.rms", fit.rms, "adu", **place)
            sdqa.add("isr.overscan.error", fit.error, "adu", **place)
        how = f"smoothed over {config.window} rows" if config.window else "smoothed"
        channels.applied["overscan"] = f"level of each row, {how}"
        _settle_read_noise(channels, readout, config.read_noise_tolerance, warnings)
    if corrections.bias is not Need.OFF:
        _take_pedestals(channels, readout, masters, _not_subtracted(readout))
    return result


def _not_subtracted(readout: Readout) -> list[int]:
    return [int(i) for i in np.flatnonzero(~readout.level_subtracted)]
