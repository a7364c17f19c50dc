"""Images on their way: channels of a CCD, master calibrations, assembled exposures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.data.photo_calib import PhotoCalib
from mpipipe.data.raw import FrameInfo
from mpipipe.data.sections import Section
from mpipipe.data.wcs_solution import WcsSolution

if TYPE_CHECKING:
    from astropy.wcs import WCS


@dataclass
class ChannelStack:
    """The data sections of all channels of one CCD and snap, in read-out order of the pixels.

    All arrays have shape (n_channels, ny, nx). Stages of isr work on it in place.

    Attributes
    ----------
    names
        Channel names.
    image
        float32; ADU until the gain stage, electrons after it.
    mask
        int32, see `mpipipe.data.mask`.
    variance
        float32, electron^2, photon and read noise of this snap alone; None before its stage.
    master_sigma
        float32, electrons: the noise that the masters bring, fully correlated between snaps, so
        it is added linearly when snaps are summed; None when no master had a variance.
    gain, read_noise
        (n_channels,) electrons per ADU, electrons.
    detsecs
        Where each channel lands on the assembled CCD.
    applied
        Corrections that were made, in order, with a word on how.
    """

    info: FrameInfo
    names: tuple[str, ...]
    image: np.ndarray
    mask: np.ndarray
    gain: np.ndarray
    read_noise: np.ndarray
    detsecs: tuple[Section, ...]
    variance: np.ndarray | None = None
    master_sigma: np.ndarray | None = None
    applied: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Masters:
    """Master calibrations of one CCD (and band), channel by channel, in read-out order.

    Arrays have shape (n_channels, ny, nx), float32; a master that does not exist is None.
    Variances are those of the (denoised) master itself.

    Attributes
    ----------
    bias, bias_variance
        ADU, ADU^2, above overscan where there is one (`bias_has_overscan` tells).
    dark, dark_variance
        Electrons per second.
    flat, flat_variance
        Response relative to the camera's mean.
    defects
        int32 mask planes (BAD, VIGNETTED, ...).
    gain, read_noise
        (n_channels,) by photon transfer and from bias frames; NaN where not measured.
    checksums
        Master kind to the SHA-256 of its file.
    """

    names: tuple[str, ...] = ()
    bias: np.ndarray | None = None
    bias_variance: np.ndarray | None = None
    dark: np.ndarray | None = None
    dark_variance: np.ndarray | None = None
    flat: np.ndarray | None = None
    flat_variance: np.ndarray | None = None
    defects: np.ndarray | None = None
    gain: np.ndarray | None = None
    read_noise: np.ndarray | None = None
    band: str = ""
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass
class Exposure:
    """An assembled CCD: image, mask and variance, with what is known about it.

    Attributes
    ----------
    image
        (ny, nx) float32, electrons.
    mask
        (ny, nx) int32, see `mpipipe.data.mask`.
    variance
        (ny, nx) float32, electron^2.
    master_sigma
        (ny, nx) float32, electrons, or None: see `ChannelStack.master_sigma`. Folded into
        `variance` when snaps are combined.
    info
        Visit, CCD, times; of the first snap until snaps are combined.
    channel_sections
        Channel name to its rectangle on the image.
    gain, read_noise
        Channel name to electrons per ADU and electrons.
    wcs
        astropy WCS (zero-based pixels: use the `0` origin), or None. The raw header's, until image
        characterization has found a better one.
    astrometry
        Where a WCS was found on reference stars: how, and how good it is; `wcs` is its.
    initial_wcs
        The raw header's WCS, where `astrometry` has replaced it.
    photo_calib
        Zero point, where one was found.
    n_snaps
        How many snaps are summed in it.
    applied
        Corrections that were made, in order.
    """

    image: np.ndarray
    mask: np.ndarray
    variance: np.ndarray
    info: FrameInfo
    master_sigma: np.ndarray | None = None
    channel_sections: dict[str, Section] = field(default_factory=dict)
    gain: dict[str, float] = field(default_factory=dict)
    read_noise: dict[str, float] = field(default_factory=dict)
    wcs: WCS | None = None
    astrometry: WcsSolution | None = None
    initial_wcs: WCS | None = None
    photo_calib: PhotoCalib | None = None
    n_snaps: int = 1
    applied: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.image.shape == self.mask.shape == self.variance.shape:
            raise ValueError(
                f"planes differ in shape: image {self.image.shape}, mask {self.mask.shape}, "
                f"variance {self.variance.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.image.shape
        return ny, nx

    def copy(self) -> Exposure:
        """An independent copy of the planes; the rest is shared."""
        return replace(
            self,
            image=self.image.copy(),
            mask=self.mask.copy(),
            variance=self.variance.copy(),
            master_sigma=None if self.master_sigma is None else self.master_sigma.copy(),
        )
