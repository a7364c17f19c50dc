"""Photon transfer: gain and read noise out of pairs of flats and of bias frames.

The variance of photon counts is their mean, so in ADU variance = mean / gain + read noise^2
(Janesick 2001). Pixel response cancels in the difference of two flats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mpipipe.data.camera import Corrections
from mpipipe.data.errors import MissingInputError
from mpipipe.data.exposure import Masters
from mpipipe.data.masters import MasterFrame
from mpipipe.data.raw import RawFrame
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.calibs.reduce import ReducedFrame
from mpipipe.stages.isr.overscan import OverscanConfig


class PhotonTransferConfig(BaseModel):
    """Options of photon transfer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: int = Field(default=64, ge=8, description="side of the blocks that are compared, pixels")
    max_ratio: float = Field(
        default=1.5, gt=1, description="flats of a pair may differ in level by this factor"
    )
    max_saturated: float = Field(
        default=0.02, gt=0, le=1, description="flats with more saturated pixels are left out"
    )
    n_sigma: float = Field(default=5.0, gt=2, description="clipping of differences, sigma")


def _blocks(shape: tuple[int, int], wanted: int) -> int:
    """Side of a block that leaves at least four of them in each direction where it can."""
    return max(2, min(wanted, min(shape) // 4))


def pair_noise(
    reduced: Sequence[ReducedFrame], n_sigma: float = 5.0, block: int = 64
) -> np.ndarray:
    """Noise of a pixel without light from the differences of disjoint pairs of bias frames.

    Returns
    -------
    ndarray
        (n_channels,) ADU; NaN with fewer than two frames.
    """
    from mpipipe.stages.calibs import kernels

    n_channels, shape = len(reduced[0].names), reduced[0].shape
    size = _blocks(shape, block)
    table = np.empty((shape[0] // size, shape[1] // size, 4))
    found: list[list[float]] = [[] for _ in range(n_channels)]
    for first, second in zip(reduced[::2], reduced[1::2], strict=False):
        one, two = first.levelled(slice(None)), second.levelled(slice(None))
        # The kernel would scale the second to the first, which has no meaning without light.
        two -= one
        for i in range(n_channels):
            kernels.pair_blocks(np.zeros_like(two[i]), two[i], size, n_sigma, table)
            found[i].append(float(np.median(table[..., 3])) / 2.0)
    return np.sqrt(np.array([np.mean(values) if values else np.nan for values in found]))


def _pairs(levels: np.ndarray, max_ratio: float) -> list[tuple[int, int]]:
    """Pairs of frames of similar level, disjoint but for an odd last one."""
    order = np.argsort(levels, kind="stable")
    pairs = [(int(order[k]), int(order[k + 1])) for k in range(0, len(order) - 1, 2)]
    if len(order) % 2 and len(order) > 1:
        pairs.append((int(order[-2]), int(order[-1])))
    return [(a, b) for a, b in pairs if 0 < levels[b] <= max_ratio * levels[a]]


def _pair_gain(
    one: np.ndarray, two: np.ndarray, read_noise: float, config: PhotonTransferConfig
) -> tuple[float, float, float]:
    """ADU^2 of noise per ADU of signal of one channel and pair, its error, and the mean level."""
    from mpipipe.stages.calibs import kernels

    size = _blocks((one.shape[0], one.shape[1]), config.block)
    table = np.empty((one.shape[0] // size, one.shape[1] // size, 4))
    kernels.pair_blocks(one, two, size, config.n_sigma, table)
    first, second, scale, noise = table.reshape(-1, 4).T
    signal = second + scale**2 * first
    shot = noise - read_noise**2 * (1.0 + scale**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = shot / signal
        scatter = noise / signal * np.sqrt(2.0 / size**2)
    sound = np.isfinite(ratio) & (signal > 0)
    if not sound.any():
        return float("nan"), float("inf"), float("nan")
    middle = np.median(ratio[sound])
    sound &= np.abs(ratio - middle) <= 5 * scatter
    if not sound.any():
        return float("nan"), float("inf"), float("nan")
    # A ratio of sums has no bias from the scatter of single blocks.
    inverse = shot[sound].sum() / signal[sound].sum()
    error = np.sqrt(np.sum((scatter[sound] * signal[sound]) ** 2)) / signal[sound].sum()
    return float(inverse), float(error), float(first[sound].mean())


def _fit_gain(inverse: np.ndarray, error: np.ndarray, level: np.ndarray) -> tuple[float, float]:
    """Gain and its error from noise per signal at several levels.

    Where levels span a factor of three and the noise per signal falls with the level (charge
    that repels charge: the brighter-fatter effect), its value at no light is taken.
    """
    good = np.isfinite(inverse) & (inverse > 0)
    if not good.any():
        return float("nan"), float("nan")
    inverse, error, level = inverse[good], error[good], level[good]
    weight = 1.0 / error**2
    mean = float(np.sum(weight * inverse) / weight.sum())
    sigma = float(1.0 / np.sqrt(weight.sum()))
    if len(level) >= 3 and level.max() > 3 * level.min():
        design = np.stack([np.ones_like(level), level / level.max()], axis=1)
        covariance = np.linalg.inv(design.T @ (design * weight[:, None]))
        start, slope = covariance @ (design.T @ (weight * inverse))
        if start > 0 and abs(slope) > 4 * np.sqrt(covariance[1, 1]):
            mean, sigma = float(start), float(np.sqrt(covariance[0, 0]))
    return 1.0 / mean, sigma / mean**2


def photon_transfer(
    flats: Sequence[RawFrame],
    biases: Sequence[RawFrame],
    masters: Masters,
    corrections: Corrections,
    sdqa: Sdqa,
    warnings: list[str],
    *,
    config: PhotonTransferConfig | None = None,
    overscan: OverscanConfig | None = None,
) -> MasterFrame:
    """Measure gain and read noise of every channel.

    Parameters
    ----------
    flats
        Two or more of one band; none leaves the gain to the camera description.
    biases
        Two or more; with fewer, the read noise comes from the overscan.
    masters
        With the master bias.

    Returns
    -------
    MasterFrame
        Of kind ``gain``; what could not be measured is NaN.

    Raises
    ------
    MissingInputError
        If there are no frames at all.
    """
    config = config or PhotonTransferConfig()
    if not flats and not biases:
        raise MissingInputError(
            "there are neither flats nor bias frames", way_out="supply some of both"
        )
    dark = [ReducedFrame(raw, corrections, overscan) for raw in biases]
    light = [
        frame
        for frame in (ReducedFrame(raw, corrections, overscan) for raw in flats)
        if frame.saturated_fraction() <= config.max_saturated
    ]
    everything = dark + light
    if not everything:
        raise MissingInputError(
            "all flats are saturated and there are no bias frames",
            way_out="supply flats below saturation",
        )
    frame = everything[0]
    noise = pair_noise(dark) if len(dark) > 1 else np.full(len(frame.names), np.nan)
    rms = np.mean([f.overscan_rms for f in everything], axis=0)
    noise = np.where(np.isfinite(noise), noise, rms)
    gain, error, n_pairs = _measure_gains(light, masters, noise, config)
    nominal = np.array([np.nan if c.gain is None else c.gain for c in frame.raw.channels], float)
    read_noise = noise * np.where(np.isfinite(gain), gain, nominal)
    notes = _notes(n_pairs, len(dark))
    warnings.extend(notes)
    _report(frame.names, gain, error, nominal, read_noise, sdqa, warnings)
    return MasterFrame(
        kind="gain",
        camera=frame.raw.info.camera,
        detector=frame.raw.info.detector,
        names=frame.names,
        image=None,
        variance=None,
        gain=gain,
        read_noise=read_noise,
        n_frames=len(everything),
        notes=notes,
    )


def _measure_gains(
    light: Sequence[ReducedFrame],
    masters: Masters,
    noise: np.ndarray,
    config: PhotonTransferConfig,
) -> tuple[np.ndarray, np.ndarray, int]:
    n_channels = len(noise)
    nothing = np.full(n_channels, np.nan)
    if len(light) < 2:
        return nothing, nothing, 0
    sample = slice(0, None, max(1, light[0].shape[0] // 64))
    levels = np.array([float(np.median(f.signal(sample, masters))) for f in light])
    pairs = _pairs(levels, config.max_ratio)
    if not pairs:
        return nothing, nothing, 0
    known = np.where(np.isfinite(noise), noise, 0.0)
    found = np.empty((len(pairs), n_channels, 3))
    for p, (a, b) in enumerate(pairs):
        one, two = (light[k].signal(slice(None), masters) for k in (a, b))
        for i in range(n_channels):
            found[p, i] = _pair_gain(one[i], two[i], float(known[i]), config)
    fits = np.array([_fit_gain(*found[:, i].T) for i in range(n_channels)])
    return fits[:, 0], fits[:, 1], len(pairs)


def _notes(n_pairs: int, n_bias: int) -> tuple[str, ...]:
    notes = []
    if n_pairs == 0:
        notes.append("no pair of flats of like level: gain not measured")
    if n_bias < 2:
        notes.append("fewer than two bias frames: read noise from the overscan, if there is one")
    return tuple(notes)


def _report(
    names: tuple[str, ...],
    gain: np.ndarray,
    error: np.ndarray,
    nominal: np.ndarray,
    read_noise: np.ndarray,
    sdqa: Sdqa,
    warnings: list[str],
) -> None:
    for i, name in enumerate(names):
        sdqa.add("calibs.gain", gain[i], "electron/adu", channel=name)
        sdqa.add("calibs.gain_error", error[i], "electron/adu", channel=name)
        sdqa.add("calibs.read_noise", read_noise[i], "electron", channel=name)
        if abs(gain[i] - nominal[i]) > max(0.05 * nominal[i], 5 * error[i]):
            warnings.append(
                f"channel {name}: gain {gain[i]:.3f} e/ADU measured, {nominal[i]:.3f} expected"
            )
