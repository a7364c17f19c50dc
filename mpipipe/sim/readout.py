"""From charge in the pixels of a CCD to the integers that its channels write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.camera import Channel, FileFormat
from mpipipe.data.sections import Section
from mpipipe.sim.detector import bias_pattern, measured_signal
from mpipipe.sim.instrument import Chip, make_chip, make_instrument
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey

ADC_MAX = 65535


@dataclass(frozen=True)
class Canvas:
    """One raw image: that of a channel, or of all channels that share an HDU.

    Attributes
    ----------
    channels
        Numbers of the channels in it.
    shape
        (ny, nx) with prescan and overscan.
    """

    channels: tuple[int, ...]
    shape: tuple[int, int]


def canvases(chip: Chip, file_format: FileFormat) -> tuple[Canvas, ...]:
    """The raw images of a CCD in the order in which they are written."""
    groups: dict[object, list[int]] = {}
    for index, channel in enumerate(chip.kind.channels):
        key = channel.extension if file_format == FileFormat.AMPS_IN_HDU else index
        groups.setdefault(key, []).append(index)
    result = []
    for members in groups.values():
        sections = [s for i in members for s in _sections(chip.kind.channels[i])]
        shape = (max(s.y1 for s in sections), max(s.x1 for s in sections))
        result.append(Canvas(tuple(members), shape))
    return tuple(result)


def _sections(channel: Channel) -> list[Section]:
    every = (channel.datasec, channel.biassec, channel.parallel_biassec)
    return [section for section in every if section is not None]


def read_out(survey: Survey, ccd: str, charge: np.ndarray, *key: object) -> list[np.ndarray]:
    """Read a CCD.

    Parameters
    ----------
    charge
        (ny, nx) float32 electrons on the assembled CCD, whole numbers but for what bled.
    key
        What makes this read-out different from others.

    Returns
    -------
    uint16 images, one for each of `canvases`.
    """
    chip = make_chip(survey, ccd)
    signals = _signals(chip, charge)
    patterns = bias_pattern(survey, ccd)
    images = []
    for canvas in canvases(chip, make_instrument(survey).camera.format):
        image = np.empty(canvas.shape, dtype=np.float32)
        for left, right, index in _columns(chip, canvas):
            channel = chip.kind.channels[index]
            part = image[:, left:right]
            rng = generator(survey.seed, "read-out", ccd, channel.name, *key)
            _fill(survey, chip, index, part, rng)
            assert channel.datasec is not None
            data = channel.datasec.cut(image)
            data += signals[index]
            image[channel.datasec.slices] += patterns[index]
            _add_trail(survey, channel, image, signals[index])
        np.rint(image, out=image)
        images.append(np.clip(image, 0, ADC_MAX).astype(np.uint16))
    return images


def _signals(chip: Chip, charge: np.ndarray) -> list[np.ndarray]:
    """What each channel measures above its bias, ADU, in the order of read-out."""
    signals = []
    for channel, gain in zip(chip.kind.channels, chip.gain, strict=True):
        assert channel.detsec is not None
        linear = channel.detsec.cut(charge) * np.float32(1.0 / gain)
        signals.append(measured_signal(linear, channel.linearity))
    if chip.crosstalk is None:
        return signals
    shape = signals[0].shape
    stack = np.stack([signal.ravel() for signal in signals])
    # In blocks that stay in the cache.
    for start in range(0, stack.shape[1], 1 << 15):
        block = stack[:, start : start + (1 << 15)]
        block += chip.crosstalk.astype(np.float32) @ block
    return [row.reshape(shape) for row in stack]


def _columns(chip: Chip, canvas: Canvas) -> list[tuple[int, int, int]]:
    """(first column, end column, channel) of the strips of a raw image."""
    if len(canvas.channels) == 1:
        return [(0, canvas.shape[1], canvas.channels[0])]
    strips = []
    for index in canvas.channels:
        sections = _sections(chip.kind.channels[index])
        strips.append((min(s.x0 for s in sections), max(s.x1 for s in sections), index))
    return strips


def _fill(
    survey: Survey, chip: Chip, index: int, part: np.ndarray, rng: np.random.Generator
) -> None:
    """Overscan level, its drift from row to row, and read noise."""
    rows = part.shape[0]
    # Each channel has its level; over the read-out it wanders with a memory of some 200 rows.
    level = survey.bias_level + 20.0 * float(
        generator(survey.seed, "level", chip.detector.name, index).normal()
    )
    memory = np.exp(-1.0 / 200.0)
    kicks = rng.normal(size=rows) * survey.overscan_drift * np.sqrt(1.0 - memory**2)
    kicks[0] = survey.overscan_drift * rng.normal()
    drift = np.empty(rows)
    value = 0.0
    for row in range(rows):
        value = memory * value + kicks[row]
        drift[row] = value
    noise = rng.standard_normal(part.shape, dtype=np.float32)
    noise *= np.float32(chip.read_noise[index] / chip.gain[index])
    part[:] = noise
    part += (level + drift).astype(np.float32)[:, None]


def _add_trail(survey: Survey, channel: Channel, image: np.ndarray, signal: np.ndarray) -> None:
    """Deferred charge: the first overscan columns hold a little of the last data column."""
    data, bias = channel.datasec, channel.biassec
    if survey.trail == 0.0 or data is None or bias is None:
        return
    distance = np.arange(bias.shape[1])
    fraction = (survey.trail * np.exp(-distance / survey.trail_length)).astype(np.float32)
    # `signal` is in the order of read-out; the file may be turned.
    rows = signal[::-1] if data.flip_y else signal
    after = bias.x0 >= data.x1
    last = rows[:, -1] if after != data.flip_x else rows[:, 0]
    strip = image[data.y0 : data.y1, bias.x0 : bias.x1]
    strip += last[:, None] * (fraction if after else fraction[::-1])[None, :]
