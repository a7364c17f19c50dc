"""ca.assembleCCD: flip every channel into place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.data import mask as planes
from mpipipe.data.exposure import ChannelStack, Exposure
from mpipipe.data.raw import RawFrame
from mpipipe.data.sections import Section
from mpipipe.stages.stage import StageConfig, stage

if TYPE_CHECKING:
    from astropy.wcs import WCS


def place(
    stack: np.ndarray, sections: tuple[Section, ...], out: np.ndarray, flip_y: bool = False
) -> np.ndarray:
    """Write channels in read-out order (n_channels, ny, nx) into the CCD image `out`.

    Parameters
    ----------
    flip_y
        Whether the assembled image is turned upside down.
    """
    from mpipipe.stages.ca import kernels

    for plane, section in zip(stack, sections, strict=True):
        kernels.put_channel(plane, out, *corner(section, out.shape[0], flip_y))
    return out


def corner(section: Section, height: int, flip_y: bool) -> tuple[int, int, bool, bool]:
    """First row and column of a channel on the CCD, and whether its y and x axes turn."""
    y0 = height - section.y1 if flip_y else section.y0
    return y0, section.x0, section.flip_y != flip_y, section.flip_x


def _assemble(stack: np.ndarray, raw: RawFrame, sections: tuple[Section, ...]) -> np.ndarray:
    """A float plane of the CCD; 0 in gaps."""
    out = np.empty(raw.shape, stack.dtype)
    if _covered(sections) != out.size:
        out[...] = 0
    return place(stack, sections, out, raw.flip_y_after_assembly)


def _covered(sections: tuple[Section, ...]) -> int:
    return sum(section.shape[0] * section.shape[1] for section in sections)


def _assemble_mask(stack: np.ndarray, raw: RawFrame, sections: tuple[Section, ...]) -> np.ndarray:
    """The mask of the CCD; most of it is 0 and need not be copied."""
    from mpipipe.stages.ca import kernels

    flip_y = raw.flip_y_after_assembly
    out = np.zeros(raw.shape, planes.DTYPE)
    if _covered(sections) != out.size:
        out[...] = planes.bits("NO_DATA")
        for section in sections:
            y0 = raw.shape[0] - section.y1 if flip_y else section.y0
            out[y0 : y0 + section.shape[0], section.x0 : section.x1] = 0
    for plane, section in zip(stack, sections, strict=True):
        kernels.or_channel(plane, out, *corner(section, raw.shape[0], flip_y))
    return out


def read_wcs(cards: Mapping[str, object], warnings: list[str]) -> WCS | None:
    """The celestial WCS of header cards; None, with a warning, where they make none."""
    if not cards:
        return None
    import warnings as python_warnings

    from astropy.io import fits
    from astropy.wcs import WCS, FITSFixedWarning, NoConvergence

    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(fits.Header(dict(cards)), naxis=2)
            if not wcs.has_celestial:
                raise ValueError("it has no celestial axes")
            corner = wcs.all_pix2world([[0.0, 0.0], [100.0, 100.0]], 0)
        if not np.isfinite(corner).all():
            raise ValueError("it gives no finite coordinates")
    except (ValueError, KeyError, TypeError, ArithmeticError, NoConvergence) as error:
        warnings.append(f"the header's WCS is not usable: {error}")
        return None
    except Exception as error:
        # wcslib's errors share no base class of their own.
        if type(error).__module__.startswith("astropy.wcs"):
            warnings.append(f"the header's WCS is not usable: {error}")
            return None
        raise
    return wcs


def _turned(section: Section, height: int, flip_y: bool) -> Section:
    y0, y1 = (height - section.y1, height - section.y0) if flip_y else (section.y0, section.y1)
    return Section(section.x0, section.x1, y0, y1)


@stage("ca.assembleCCD", needs=("raw", "channels", "warnings"), adds=("exposure",), always=True)
def assemble_ccd(
    config: StageConfig, *, raw: RawFrame, channels: ChannelStack, warnings: list[str]
) -> Mapping[str, Any]:
    """Flip and place all channels by DETSEC; what no channel covers is NO_DATA."""
    sections = channels.detsecs
    mask = _assemble_mask(channels.mask, raw, sections)
    image = _assemble(channels.image, raw, sections)
    variance = (
        np.zeros(raw.shape, np.float32)
        if channels.variance is None
        else _assemble(channels.variance, raw, sections)
    )
    sigma = channels.master_sigma
    height, flip_y = raw.shape[0], raw.flip_y_after_assembly
    exposure = Exposure(
        image=image,
        mask=mask,
        variance=variance,
        master_sigma=None if sigma is None else _assemble(sigma, raw, sections),
        info=channels.info,
        channel_sections={
            name: _turned(section, height, flip_y)
            for name, section in zip(channels.names, sections, strict=True)
        },
        gain=dict(zip(channels.names, channels.gain.tolist(), strict=True)),
        read_noise=dict(zip(channels.names, channels.read_noise.tolist(), strict=True)),
        wcs=read_wcs(raw.wcs_header, warnings),
        applied=dict(channels.applied),
    )
    return {"exposure": exposure}
