"""The detector and its corrections: overscan, read noise, bias, sky noise, cosmic rays, snaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from mpipipe.quality.scorecard.measured import (
    CONTRIBUTION,
    Measured,
    NotGiven,
    NotMeasurable,
    Requirement,
    target,
)
from mpipipe.quality.scorecard.metric import metric
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.statistics import estimate, mean, median, rms

OWN = "own target"
OFF = 0.2
"""Share by which a read noise that is off is told."""


def _median_of_ccds(
    data: RunData, key: str, title: str, values: np.ndarray, unit: str = "",
    requirement: Requirement | None = None, note: str = "",
) -> Measured:  # fmt: skip
    n = int(np.isfinite(values).sum())
    if not n:
        return Measured(key, title, why="no CCD-visit has it")
    return Measured(
        key, title, *estimate(median, values, np.arange(len(values)), key), unit=unit, n=n,
        of="CCD-visits", requirement=requirement, note=note, ccds=data.contributions(values),
    )  # fmt: skip


def _worst_of_channels(data: RunData, exposure: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each CCD-visit the value of the channel that is farthest from 0."""
    rows = np.zeros(len(data.exposures), CONTRIBUTION)
    rows["visit"], rows["ccd"] = data.exposures["visit"], data.exposures["ccd"]
    known = (exposure >= 0) & np.isfinite(values)
    place, values = exposure[known], values[known]
    order = np.lexsort((np.abs(values), place))
    rows["value"] = np.nan
    rows["value"][place[order]] = values[order]
    rows["n"] = np.bincount(place, minlength=len(rows))
    return rows[np.isfinite(rows["value"])]


def _about_channel(
    rows: dict[str, np.ndarray], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values about the median of their channel, and the number of the channel."""
    names = np.char.add(np.char.add(rows["ccd"], b" "), rows["channel"])
    channel = np.unique(names, return_inverse=True)[1]
    order = np.argsort(channel, kind="stable")
    starts = np.flatnonzero(np.diff(channel[order], prepend=-1))
    about = np.empty(len(values))
    for part in np.split(order, starts[1:]):
        about[part] = values[part] - np.nanmedian(values[part])
    return about, channel


@metric("isr.overscan.stability", "overscan levels in time", "detector")
def overscan(data: RunData) -> Iterator[Measured]:
    """rms, over channels and snaps, of the overscan level about the median of the channel. It is
    subtracted; a jump tells of electronics that are not steady."""
    rows = data.stage_numbers("isr.overscan.level")
    about, channel = _about_channel(rows, rows["value"])
    key = "isr.overscan.stability"
    yield Measured(
        key, "overscan level, drift", *estimate(rms, about, channel, key), unit="adu",
        n=len(np.unique(channel)), of="channels",
        note=f"largest {float(np.nanmax(np.abs(about))):.2f} adu",
        ccds=_worst_of_channels(data, rows["exposure"], about),
    )  # fmt: skip


@metric("isr.read_noise", "read noise against the known", "detector")
def read_noise(data: RunData) -> Iterator[Measured]:
    """Read noise of a channel by its overscan, over that of the camera's description, or where it
    has none over that of the run's own bias frames; median over channels and snaps. Beside it how
    steady it is: rms over channels and snaps about the median of the channel, in percent. A channel
    20 % off is worth a look."""
    rows = data.stage_numbers("isr.read_noise")
    names = np.char.add(np.char.add(rows["ccd"], b" "), rows["channel"])
    known = _known_read_noise(data)
    wanted = np.array([known.get(name, np.nan) for name in names.tolist()])
    channel = np.unique(names, return_inverse=True)[1]
    key, title = "isr.read_noise", "read noise over known"
    values = rows["value"] / wanted
    if np.isfinite(values).any():
        n_off = len(np.unique(channel[np.abs(values - 1.0) > OFF]))
        yield Measured(
            key, title, *estimate(median, values, channel, key), n=len(np.unique(channel)),
            of="channels", requirement=target(0.1, OWN, centre=1.0),
            note=f"{n_off} channels more than 20 % off at some time",
            ccds=_worst_of_channels(data, rows["exposure"], values - 1.0),
        )  # fmt: skip
    else:
        why = "neither the camera's description nor masters of the run tell the read noise"
        yield Measured(key, title, why=why)
    about, channel = _about_channel(rows, rows["value"])
    share = 100.0 * about / np.maximum(rows["value"] - about, 1e-9)
    key = "isr.read_noise.stability"
    yield Measured(
        key, "read noise, drift", *estimate(rms, share, channel, key), unit="%",
        n=len(np.unique(channel)), of="channels",
        note=f"largest {float(np.nanmax(np.abs(share))):.1f} %",
        ccds=_worst_of_channels(data, rows["exposure"], share),
    )  # fmt: skip


def _known_read_noise(data: RunData) -> dict[bytes, float]:
    """Electrons, by "CCD channel"."""
    known: dict[bytes, float] = {}
    with contextlib.suppress(NotMeasurable):
        rows = data.stage_numbers("calibs.read_noise")
        names = np.char.add(np.char.add(rows["ccd"], b" "), rows["channel"])
        known = dict(zip(names.tolist(), rows["value"].tolist(), strict=True))
    for detector in () if data.camera is None else data.camera.detectors:
        for channel in data.camera.type_of(detector).channels if data.camera else ():
            if channel.read_noise is not None:
                known[f"{detector.name} {channel.name}".encode()] = channel.read_noise
    return known


@metric("isr.bias.structure", "structure left in bias frames", "detector")
def bias(data: RunData) -> Iterator[Measured]:
    """Share of the master bias's scatter that is structure from pixel to pixel beyond its noise;
    median over channels. Only where the run made its masters."""
    rows = data.stage_numbers("calibs.bias.structure")
    key = "isr.bias.structure"
    values = rows["value"]
    yield Measured(
        key, "bias structure", *estimate(median, values, np.arange(len(values)), key),
        n=len(values), of="channels",
    )  # fmt: skip


@metric("ca.amp_offset", "steps of the sky between channels", "detector")
def amp_offset(data: RunData) -> Iterator[Measured]:
    """Median step of the sky from a channel to its neighbour, in percent of the sky: what gains,
    bias and flat leave. Median over CCD-visits."""
    values = data.by_exposure("ca.amp_offset.median")
    yield _median_of_ccds(data, "ca.amp_offset", "steps between channels", values, "%")


@metric("ca.sky_noise", "noise of the sky", "detector")
def sky_noise(data: RunData) -> Iterator[Measured]:
    """Robust noise of the assembled image's sky over what the variance plane says; median over
    CCD-visits."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = data.by_exposure("ca.sky.noise") / data.by_exposure("ca.sky.noise_expected")
    asked = target(0.03, OWN, centre=1.0)
    yield _median_of_ccds(data, "ca.sky_noise", "sky noise over expected", values, "", asked)


@metric("cr.rate", "cosmic rays", "detector")
def cosmic_rays(data: RunData) -> Iterator[Measured]:
    """Pixels hit by cosmic rays, a Mpixel and 100 s; median over CCD-visits. The rate belongs to
    the
    detector and its place: a CCD that differs from the others has hot pixels or a bad mask."""
    e = data.exposures
    hits = data.by_exposure("cs.crSplitCombine.n_cr")
    with np.errstate(invalid="ignore", divide="ignore"):
        amount = e["nx"].astype(float) * e["ny"] / 1e6 * e["seconds"] / 100.0
        values = hits / np.where(amount > 0, amount, np.nan)
    yield _median_of_ccds(data, "cr.rate", "cosmic-ray pixels a Mpixel and 100 s", values)


@metric("snaps", "difference of the snaps", "detector")
def snaps(data: RunData) -> Iterator[Measured]:
    """Validation of the difference of the two snaps of a visit. noise: its scatter over what the
    variance planes say; stars: width of the residuals of stars over their errors; flux ratio: of
    the same stars in both. Medians over CCD-visits; the project asks 1.00 within 0.02 of the
    noise."""
    numbers = {
        "noise": ("cs.diffim.noise_ratio", target(0.02, OWN, centre=1.0)),
        "stars": ("cs.diffim.star_pull", None),
        "flux_ratio": ("cs.diffim.flux_ratio", None),
    }
    titles = {
        "noise": "noise over expected", "stars": "residuals of stars over errors",
        "flux_ratio": "flux ratio",
    }  # fmt: skip
    for name, (stage_name, asked) in numbers.items():
        try:
            values = data.by_exposure(stage_name)
        except NotGiven:
            raise NotMeasurable("visits have one snap each") from None
        title = f"snaps: {titles[name]}"
        yield _median_of_ccds(data, f"snaps.{name}", title, values, "", asked)


@metric("outcomes", "CCD-visits that went through", "detector")
def outcomes(data: RunData) -> Iterator[Measured]:
    """Share of the CCD-visits of the plan that ended done, without partial, failed or bad ones."""
    e = data.exposures[data.exposures["outcome"] != "unknown"]
    if not len(e):
        raise NotMeasurable("the run has no task of a visit, or does not tell how they ended")
    value = 100.0 * (e["outcome"] == "done")
    kinds, counts = np.unique(e["outcome"], return_counts=True)
    told = ", ".join(f"{n} {kind}" for kind, n in zip(kinds.tolist(), counts.tolist(), strict=True))
    ccds = np.zeros(int((value == 0).sum()), CONTRIBUTION)
    ccds["visit"], ccds["ccd"] = e["visit"][value == 0], e["ccd"][value == 0]
    yield Measured(
        "outcomes", "CCD-visits done", *estimate(mean, value, np.arange(len(e)), "outcomes"),
        unit="%", n=len(e), of="CCD-visits", note=told, ccds=ccds,
    )  # fmt: skip
