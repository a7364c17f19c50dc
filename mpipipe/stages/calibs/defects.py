"""Find defects: hot and unstable pixels, dead ones, bad columns, vignetted corners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mpipipe.data import mask as planes
from mpipipe.data.errors import MissingInputError
from mpipipe.data.masters import MasterFrame
from mpipipe.data.sdqa import Sdqa


class DefectsConfig(BaseModel):
    """Options of finding defects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hot_noise: float = Field(
        default=0.25,
        gt=0,
        description="hot: dark current that adds this part of the read noise's variance",
    )
    hot_seconds: float = Field(
        default=0.0, ge=0, description="in so many seconds; 0: in one dark frame"
    )
    low_response: float = Field(
        default=0.6, gt=0, lt=1, description="dead: response below this part of the surroundings"
    )
    high_response: float = Field(
        default=1.6, gt=1, description="bright: response above this multiple of the surroundings"
    )
    column_fraction: float = Field(
        default=0.25, gt=0, le=1, description="a column with more bad pixels is bad as a whole"
    )
    column_step: float = Field(
        default=0.1, gt=0, description="a column whose response differs by this part is bad"
    )
    vignetted: float = Field(
        default=0.3, ge=0, lt=1, description="smooth response, of the CCD's best, that is too low"
    )


def _block_medians(image: np.ndarray, size: int) -> np.ndarray:
    """Median of each size x size block (smaller at the far edges), at every pixel."""
    ny, nx = image.shape
    n_y, n_x = -(-ny // size), -(-nx // size)
    padded = np.full((n_y * size, n_x * size), np.nan, np.float32)
    padded[:ny, :nx] = image
    blocks = padded.reshape(n_y, size, n_x, size).transpose(0, 2, 1, 3).reshape(n_y, n_x, -1)
    medians = np.nanmedian(blocks, axis=2)
    return np.repeat(np.repeat(medians, size, axis=0), size, axis=1)[:ny, :nx]


def hot_pixels(
    dark: np.ndarray,
    variance: np.ndarray,
    noise: float,
    read_noise: float,
    seconds: float,
    share: float,
) -> np.ndarray:
    """Pixels of one channel whose dark current matters, or that are not stable.

    Parameters
    ----------
    dark, variance
        (ny, nx) electrons per second and their variance.
    noise
        Variance that the mean of the frames has in a usual pixel.
    seconds
        Time in which dark current is compared with the read noise.
    share
        Part of read_noise^2 (electrons) that it may add.
    """
    level = float(np.median(dark))
    limit = max(share * read_noise**2 / seconds, 6.0 * np.sqrt(noise))
    # `build_dark` raises the variance of unstable pixels to their value squared.
    unstable = (
        (variance >= dark**2) & (variance > 25.0 * noise) & (np.abs(dark - level) > limit / 4)
    )
    return (dark - level > limit) | (level - dark > limit) | unstable


def bad_response(flat: np.ndarray, config: DefectsConfig) -> np.ndarray:
    """Pixels and columns of one channel whose response is unlike their surroundings."""
    smooth = _block_medians(flat, 16)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(smooth > 0, flat / smooth, 0.0)
    bad = (ratio < config.low_response) | (ratio > config.high_response)
    column = np.median(ratio, axis=0)
    bad[:, np.abs(column - 1.0) > config.column_step] = True
    result: np.ndarray = bad
    return result


def find_defects(
    bias: MasterFrame | None,
    dark: MasterFrame | None,
    flats: Sequence[MasterFrame],
    sdqa: Sdqa,
    warnings: list[str],
    *,
    config: DefectsConfig | None = None,
) -> MasterFrame:
    """Mask planes BAD and VIGNETTED of one CCD.

    Parameters
    ----------
    bias, dark, flats
        The CCD's masters as far as they exist; a pixel that is bad in any band's flat is bad.

    Raises
    ------
    MissingInputError
        If there is neither dark nor flat.
    """
    config = config or DefectsConfig()
    sources = [m for m in (dark, *flats) if m is not None]
    if not sources:
        raise MissingInputError(
            "defects are found in a master dark or flat, and there is none",
            way_out="supply dark frames or flats",
        )
    first = sources[0]
    assert first.image is not None
    bad = np.zeros(first.image.shape, bool)
    notes = []
    n_hot = np.zeros(len(bad), int)
    if dark is not None and dark.image is not None and dark.variance is not None:
        each = dark.seconds / max(dark.n_frames, 1)
        for i, read_noise in enumerate(dark.read_noise):
            light = max(float(np.median(dark.image[i])), 0.0) * each
            noise = (read_noise**2 + light) / (dark.n_frames * each**2)
            hot = hot_pixels(
                dark.image[i],
                dark.variance[i],
                noise,
                read_noise,
                config.hot_seconds or each,
                config.hot_noise,
            )
            n_hot[i] = hot.sum()
            bad[i] |= hot
    else:
        notes.append("no master dark: hot pixels not found")
    if not flats:
        notes.append("no master flat: dead pixels not found")
    for flat in flats:
        assert flat.image is not None
        for i in range(len(bad)):
            bad[i] |= bad_response(flat.image[i], config)
    for plane in bad:
        plane[:, plane.mean(axis=0) > config.column_fraction] = True
    mask = bad.astype(planes.DTYPE) * planes.bits("BAD")
    for flat in flats:
        assert flat.image is not None
        smooth = [_block_medians(plane, 32) for plane in flat.image]
        best = max(float(plane.max()) for plane in smooth)
        for target, plane in zip(mask, smooth, strict=True):
            target[plane < config.vignetted * best] |= planes.bits("VIGNETTED")
    for i, name in enumerate(first.names):
        sdqa.add("calibs.defects.hot", int(n_hot[i]), "pixel", channel=name)
        sdqa.add("calibs.defects.bad", int(bad[i].sum()), "pixel", channel=name)
    warnings.extend(notes)
    return MasterFrame(
        kind="defects",
        camera=first.camera,
        detector=first.detector,
        names=first.names,
        image=mask,
        variance=None,
        gain=first.gain,
        read_noise=first.read_noise,
        n_frames=sum(m.n_frames for m in sources),
        notes=tuple(notes),
    )
