"""Simulated read-outs as the values that a reader would give, without files in between.

For checks and benchmarks of the pipelines; the layout is the camera description's.
"""

from __future__ import annotations

import numpy as np

from mpipipe.data.raw import FrameInfo, RawChannel, RawFrame
from mpipipe.data.sections import Section
from mpipipe.sim.exposures import FLAT_TIME, bias_frame, dark_frame, flat_frame
from mpipipe.sim.instrument import make_chip, make_instrument
from mpipipe.sim.readout import canvases
from mpipipe.sim.survey import Survey


def raw_frame(
    survey: Survey,
    ccd: str,
    images: list[np.ndarray],
    *,
    kind: str,
    seconds: float,
    visit: int = 0,
    snap: int = 0,
    band: str = "",
) -> RawFrame:
    """One read-out, from its raw images in the order of `canvases`."""
    camera = make_instrument(survey).camera
    chip = make_chip(survey, ccd)
    info = FrameInfo(
        camera=camera.name,
        visit=visit,
        snap=snap,
        detector=ccd,
        detector_number=chip.detector.number,
        kind=kind,
        band=band,
        exposure_time=seconds,
        dark_time=seconds,
        mjd_start=survey.mjd,
        files=(f"{kind}-{visit}-{snap}",),
    )
    channels: list[RawChannel | None] = [None] * len(chip.kind.channels)
    for canvas, image in zip(canvases(chip, camera.format), images, strict=True):
        for index in canvas.channels:
            channel = chip.kind.channels[index]
            channels[index] = RawChannel(
                name=channel.name,
                pixels=image,
                datasec=_known(channel.datasec),
                biassec=channel.biassec,
                parallel_biassec=channel.parallel_biassec,
                detsec=_known(channel.detsec),
                gain=channel.gain,
                read_noise=channel.read_noise,
                saturation=channel.saturation or 65535.0,
                linearity=channel.linearity,
            )
    matrix = None if chip.kind.crosstalk is None else np.array(chip.kind.crosstalk)
    return RawFrame(
        info=info,
        channels=tuple(channel for channel in channels if channel is not None),
        shape=chip.shape,
        crosstalk=matrix,
        overscan_skip=chip.kind.overscan_skip,
    )


def _known(section: Section | None) -> Section:
    assert section is not None  # `make_instrument` has checked it
    return section


def bias_frames(survey: Survey, ccd: str) -> list[RawFrame]:
    """All bias frames of a CCD."""
    return [
        raw_frame(survey, ccd, bias_frame(survey, ccd, k), kind="bias", seconds=0.0, visit=k)
        for k in range(survey.n_bias)
    ]


def dark_frames(survey: Survey, ccd: str) -> list[RawFrame]:
    """All darks of a CCD."""
    return [
        raw_frame(
            survey, ccd, dark_frame(survey, ccd, k), kind="dark", seconds=survey.dark_time, visit=k
        )
        for k in range(survey.n_dark)
    ]


def flat_frames(survey: Survey, ccd: str, band: str) -> list[RawFrame]:
    """All flats of a CCD in one band."""
    frames: list[RawFrame] = []
    for level in survey.flat_levels:
        for _ in range(survey.flats_per_level):
            k = len(frames)
            images = flat_frame(survey, ccd, band, level, k)
            frames.append(
                raw_frame(survey, ccd, images, kind="flat", seconds=FLAT_TIME, visit=k, band=band)
            )
    return frames
