"""The camera as it truly is: which CCDs are used, and the constants that nobody knows exactly.

A simulation can be written in any raw format. The channel geometry of the camera stays as it is
where the format can hold it; two amplifiers in an HDU and single amplifiers need CCDs of two and
one channels, which are made here from the camera's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mpipipe.data.camera import Camera, Channel, Detector, DetectorType, FileFormat, FileNames
from mpipipe.data.errors import ConfigError
from mpipipe.data.sections import Section
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey
from mpipipe.store.cameras import load_camera

_CROSSTALK_OF_TWO = ((0.0, 4.0e-4), (3.0e-4, 0.0))


@dataclass(frozen=True)
class Instrument:
    """The camera of a simulation.

    Attributes
    ----------
    camera
        As the pipeline will know it.
    detectors
        The CCDs in use, those nearest to the centre first.
    n_snaps
        Snaps a visit.
    """

    camera: Camera
    detectors: tuple[Detector, ...]
    n_snaps: int


@dataclass(frozen=True)
class Chip:
    """The true read-out constants of one CCD, one row a channel.

    Attributes
    ----------
    gain, read_noise
        Electrons per ADU, electrons.
    crosstalk
        [victim][source], or None.
    """

    detector: Detector
    kind: DetectorType
    gain: np.ndarray
    read_noise: np.ndarray
    crosstalk: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the assembled CCD."""
        return self.kind.size[1], self.kind.size[0]


@lru_cache(maxsize=4)
def make_instrument(survey: Survey) -> Instrument:
    """Load the camera of a survey and choose its CCDs.

    Raises
    ------
    ConfigError
        If the camera is unknown, has too few CCDs, or lacks what the simulator must know.
    """
    camera = load_camera(survey.camera)
    if camera.kind != "raw":
        raise ConfigError(
            "the camera writes no raw frames",
            file=survey.camera,
            key="kind",
            way_out="a camera of kind raw",
        )
    if survey.format and survey.format not in tuple(FileFormat):
        raise ConfigError(
            f"no raw format {survey.format!r}",
            key="format",
            way_out=f"formats: {', '.join(FileFormat)}",
        )
    if survey.format and survey.format != camera.format:
        camera = with_format(camera, FileFormat(survey.format))
    if survey.n_ccds > len(camera.detectors):
        raise ConfigError(
            f"camera {camera.name!r} has only {len(camera.detectors)} CCDs",
            key="n_ccds",
            way_out=f"at most {len(camera.detectors)}, or another camera",
        )
    nearest = sorted(camera.detectors, key=lambda d: (round(np.hypot(d.x_mm, d.y_mm), 6), d.number))
    used = tuple(nearest[: survey.n_ccds])
    for detector in used:
        _check_channels(survey, camera, detector)
    return Instrument(camera, used, survey.n_snaps or camera.n_snaps)


def _check_channels(survey: Survey, camera: Camera, detector: Detector) -> None:
    if camera.flip_y_after_assembly:
        raise ConfigError(
            f"camera {camera.name!r} is turned after assembly, which is not simulated",
            key="flip_y_after_assembly",
            way_out="another camera, or a camera file without it",
        )
    kind = camera.type_of(detector)
    shapes = {channel.datasec.shape for channel in kind.channels if channel.datasec is not None}
    if kind.crosstalk is not None and len(shapes) > 1:
        raise ConfigError(
            f"camera {camera.name!r} has crosstalk between channels of different sizes, which is "
            "not simulated",
            key="crosstalk",
            way_out="another camera, or a camera file without it",
        )
    for channel in kind.channels:
        full = channel.saturation or 65535.0
        if survey.bias_level >= 0.9 * full:
            raise ConfigError(
                f"leaves no room for light: channel {channel.name} is full at {full:g} adu",
                key="bias_level",
                way_out="a lower level",
            )
        missing = [
            name for name in ("datasec", "biassec", "detsec") if getattr(channel, name) is None
        ]
        if missing:
            raise ConfigError(
                f"channel {channel.name} of camera {camera.name!r} has no {', '.join(missing)}: "
                "the simulator must know the layout",
                key=missing[0],
                way_out="use a camera whose file gives all sections",
            )


@lru_cache(maxsize=16)
def make_chip(survey: Survey, ccd: str) -> Chip:
    """The true constants of a CCD: the camera file's, with the errors that such files have."""
    instrument = make_instrument(survey)
    detector = instrument.camera.detector(ccd)
    kind = instrument.camera.type_of(detector)
    rng = generator(survey.seed, "constants", ccd)
    n = len(kind.channels)
    gain = np.array([channel.gain or survey.gain for channel in kind.channels])
    noise = np.array([channel.read_noise or survey.read_noise for channel in kind.channels])
    crosstalk = None
    if kind.crosstalk is not None:
        wrong = 1.0 + survey.crosstalk_error * rng.normal(size=(n, n))
        crosstalk = np.array(kind.crosstalk) * wrong
    return Chip(
        detector,
        kind,
        gain * (1.0 + survey.gain_error * rng.normal(size=n)),
        noise * (1.0 + survey.read_noise_error * rng.normal(size=n)),
        crosstalk,
    )


def with_format(camera: Camera, file_format: FileFormat) -> Camera:
    """The camera writing another raw format, with the channels that this format can hold."""
    n_channels = {FileFormat.AMPS_IN_HDU: 2, FileFormat.SINGLE: 1}.get(file_format)
    types = dict(camera.types)
    if n_channels is not None:
        types = {name: _with_channels(kind, n_channels) for name, kind in types.items()}
    names = camera.file_names if file_format == FileFormat.CHANNEL_FILES else FileNames()
    name = f"{camera.name}-{file_format.value}"
    return camera.model_copy(
        update={
            "name": name,
            "format": file_format,
            "types": types,
            "instrument": (name,),
            "file_names": names,
        }
    )


def _with_channels(kind: DetectorType, n: int) -> DetectorType:
    """A CCD with 2 channels side by side in one image, or with a single one."""
    nx, ny = kind.size
    first = kind.channels[0]
    overscan = 32 if first.biassec is None else max(first.biassec.shape[1], 16)
    saturation = min((channel.saturation or 65535.0) for channel in kind.channels)
    common: dict[str, Any] = {
        "gain": first.gain,
        "read_noise": first.read_noise,
        "saturation": saturation,
        "linearity": first.linearity,
    }
    if n == 1:
        channels = [
            Channel(
                name="A",
                extension=0,
                datasec=Section(0, nx, 0, ny),
                biassec=Section(nx, nx + overscan, 0, ny),
                detsec=Section(0, nx, 0, ny),
                **common,
            )
        ]
        crosstalk = None
    else:
        half = nx // 2
        # Overscan A, data A, data B, overscan B: each overscan follows its own data.
        edges = (0, overscan, overscan + half, overscan + nx, 2 * overscan + nx)
        places = (("A", edges[1], edges[0], 0, half), ("B", edges[2], edges[3], half, nx))
        channels = [
            Channel(
                name=name,
                extension=1,
                datasec=Section(data, data + x1 - x0, 0, ny),
                biassec=Section(bias, bias + overscan, 0, ny),
                detsec=Section(x0, x1, 0, ny),
                **common,
            )
            for name, data, bias, x0, x1 in places
        ]
        crosstalk = _CROSSTALK_OF_TWO
    return DetectorType(
        size=kind.size,
        channels=tuple(channels),
        overscan_skip=kind.overscan_skip,
        crosstalk=crosstalk,
        pixel_size_um=kind.pixel_size_um,
    )
