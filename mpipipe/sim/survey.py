"""What is to be simulated, as one value: every number of a simulation is a field of `Survey`.

A preset is nothing but a set of changed fields (`PRESETS`): a new kind of survey is data.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mpipipe.data.errors import ConfigError
from mpipipe.sim.star_counts import LOWEST_LATITUDE, galactic_place

BANDS = ("u", "g", "r", "i", "z", "y")
"""Order of all tuples that have one number a band."""

STAR_COUNTS = ("power-law", "galactic")
"""How many stars there are: as density and slope say, or as the Galaxy has them."""

PerBand = tuple[float, float, float, float, float, float]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Survey:
    """All choices behind a simulation. `help_of` gives each field's meaning and unit."""

    preset: str = _option("small", "preset that the options started from")
    camera: str = _option("sim-small", "built-in camera or camera file")
    format: str = _option("", "raw format; empty: the camera's own")
    gzip: bool = _option(False, "compress raw files by gzip, level 1")
    truth_images: bool = _option(True, "write the noise-free image of every visit and CCD")
    seed: int = _option(1, "seed of everything that is random")

    # Plan of the observations
    bands: tuple[str, ...] = _option(("g", "r"), "bands, taken in turn")
    n_visits: int = _option(6, "visits")
    n_ccds: int = _option(2, "CCDs, those nearest to the centre of the camera")
    n_snaps: int = _option(0, "snaps a visit; 0: as the camera has")
    snap_time: float = _option(15.0, "exposure time of a snap [s]")
    ra: float = _option(150.1, "centre of the field, right ascension [deg]")
    dec: float = _option(2.2, "centre of the field, declination [deg]")
    dither: float = _option(15.0, "pointings scatter in a square of this half side [arcsec]")
    angle: float = _option(0.0, "position angle of the camera [deg]")
    angle_scatter: float = _option(0.2, "its scatter from visit to visit [deg]")
    pointing_error: float = _option(8.0, "error of the header's pointing, rms an axis [arcsec]")
    header_angle_error: float = _option(0.02, "error of the header's position angle, rms [deg]")
    mjd: float = _option(60676.1, "start of the first visit, MJD TAI")
    visit_interval: float = _option(0.004, "from one visit to the next [day]")

    # Atmosphere and sky
    seeing_min: float = _option(0.7, "best seeing, FWHM of the PSF's core [arcsec]")
    seeing_max: float = _option(1.0, "worst seeing [arcsec]")
    seeing_time: float = _option(
        0.0, "time over which the seeing stays alike; 0: it does not [day]"
    )
    snap_seeing_scatter: float = _option(0.0, "relative scatter of the seeing between snaps, rms")
    sky: float = _option(1.0, "factor on the sky brightness")
    sky_scatter: float = _option(0.1, "relative scatter of the sky between visits, rms")
    sky_gradient: float = _option(0.01, "relative change of the sky over the field's radius")
    sky_rates: PerBand = _option(
        (1.7, 12.0, 30.0, 42.0, 60.0, 75.0), "sky, ugrizy [electron/s/pixel of 0.2 arcsec]"
    )
    zero_points: PerBand = _option(
        (27.1, 28.5, 28.45, 28.0, 27.6, 26.8), "AB magnitude that gives 1 electron/s, ugrizy"
    )
    extinction: PerBand = _option(
        (0.45, 0.18, 0.10, 0.07, 0.05, 0.05), "loss beyond airmass 1, ugrizy [mag/airmass]"
    )
    airmass_min: float = _option(1.0, "least airmass")
    airmass_max: float = _option(1.3, "largest airmass")
    refraction: PerBand = _option(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "differential refraction at 45 deg of zenith, ugrizy [arcsec/mag of g-i]",
    )
    moon: float = _option(0.0, "light of the full moon over that of the dark sky")
    night_scatter: float = _option(0.0, "scatter of the zero point from night to night, rms [mag]")
    clouds: float = _option(0.0, "largest extinction by clouds [mag]")
    cloud_gradient: float = _option(0.3, "relative change of cloud extinction over the field")
    cloud_structure: float = _option(
        0.0, "structure of the clouds: rms of their extinction at an instant, over its mean"
    )
    cloud_scale: float = _option(0.5, "correlation length of the structure [field radius]")
    cloud_drift: float = _option(0.01, "its drift with the wind [field radius/s]")

    # Stars
    star_counts: str = _option(
        "power-law", "power-law (density and slope below), or galactic: by the place of the field"
    )
    star_density: float = _option(1.0, "stars at r = 20 [1/mag/arcmin2]")
    star_slope: float = _option(0.15, "slope of log10 of star counts [1/mag]")
    star_mag_min: float = _option(13.5, "brightest star, r [mag]")
    star_mag_max: float = _option(27.0, "faintest star, r [mag]")
    variable_fraction: float = _option(0.02, "fraction of stars that vary")
    variable_amplitude: float = _option(0.3, "median amplitude of variables [mag]")
    variable_mix: tuple[float, ...] = _option(
        (0.0, 0.0, 0.0), "of them: RR Lyrae, Cepheids, eclipsing binaries; the rest are sines"
    )
    proper_motion: float = _option(8.0, "proper motion of stars, rms an axis [mas/yr]")
    transverse_velocity: float = _option(
        0.0, "instead: velocity of stars, rms an axis, over their distance; 0: not [km/s]"
    )
    parallax: float = _option(0.0, "factor on the parallaxes of stars; 0: none")

    # Galaxies
    galaxy_density: float = _option(15.0, "galaxies at r = 24 [1/mag/arcmin2]")
    galaxy_slope: float = _option(0.35, "slope of log10 of galaxy counts [1/mag]")
    galaxy_break: float = _option(25.0, "magnitude r beyond which the counts flatten [mag]")
    galaxy_slope_faint: float = _option(0.2, "slope beyond the break [1/mag]")
    galaxy_mag_min: float = _option(17.0, "brightest galaxy, r [mag]")
    galaxy_mag_max: float = _option(27.5, "faintest galaxy, r [mag]")
    galaxy_radius: float = _option(0.35, "median half-light radius at r = 24 [arcsec]")
    galaxy_radius_slope: float = _option(-0.1, "slope of log10 of the radius [1/mag]")
    galaxy_radius_scatter: float = _option(0.2, "scatter of the radius [dex]")
    bulge_fraction: float = _option(0.25, "fraction of galaxies that are bulges (de Vaucouleurs)")
    galaxy_colour_gradient: float = _option(0.0, "g - r of bulges less that of their disks [mag]")
    group_fraction: float = _option(0.3, "fraction of galaxies that come in groups")
    group_members: float = _option(6.0, "mean members of a group")
    group_radius: float = _option(6.0, "scale of groups [arcsec]")

    # Guests of galaxies
    agn_fraction: float = _option(0.0, "fraction of bright galaxies with an active nucleus")
    agn_mag_max: float = _option(22.0, "faintest galaxy with an active nucleus, r [mag]")
    supernovae: float = _option(0.0, "supernovae that peak above r = 24 [1/deg2/yr]")

    # Solar System
    asteroids: float = _option(0.0, "bodies of the Solar System at any time [1/deg2]")
    asteroid_mag_min: float = _option(17.0, "brightest of them, r [mag]")
    asteroid_mag_max: float = _option(25.0, "faintest of them, r [mag]")

    # Rarities
    eggs: bool = _option(False, "plant one of each rare thing; the truth tells where")
    eggs_within: float = _option(120.0, "they lie so far from the centre at most [arcsec]")

    # Optics
    core_beta: float = _option(3.5, "Moffat exponent of the PSF's core, a multiple of 0.5")
    wing_beta: float = _option(2.0, "Moffat exponent of the wings, a multiple of 0.5")
    wing_fraction: float = _option(0.05, "fraction of the light in the wings")
    wing_scale: float = _option(1.5, "scale of the wings [FWHM]")
    coma_fraction: float = _option(0.12, "fraction of the light that coma displaces")
    coma_shift: float = _option(0.25, "its displacement at the field's corner [FWHM]")
    ellipticity: float = _option(0.03, "ellipticity at the field's corner")
    ellipticity_visit: float = _option(0.015, "ellipticity of a whole visit, rms")
    ellipticity_step: float = _option(0.008, "step of the ellipticity between CCDs, rms")
    size_variation: float = _option(0.03, "relative change of PSF size to the corner")
    size_step: float = _option(0.005, "relative step of PSF size between CCDs, rms")
    distortion: float = _option(3.0, "cubic distortion at the field's corner [arcsec]")
    ccd_shift: float = _option(0.5, "error of a CCD's place in the camera file, rms [arcsec]")
    ccd_rotation: float = _option(0.01, "error of a CCD's rotation, rms [deg]")
    render_floor: float = _option(0.01, "wings are drawn down to this level [electron/pixel]")
    spikes: float = _option(0.0, "light of a bright star's diffraction spikes over its own")
    spike_arms: int = _option(4, "spikes of a star, an even number")
    spike_length: float = _option(3.0, "distance at which spikes fall to a half [arcsec]")
    ghosts: float = _option(0.0, "light of each ghost of a bright star over its own")
    ghost_radius: float = _option(15.0, "radius of the largest ghost [arcsec]")
    stray_light_mag: float = _option(17.0, "faintest star with spikes and ghosts, r [mag]")

    # Response
    vignetting: float = _option(0.12, "loss of light at the field's corner")
    pixel_response: float = _option(0.003, "relative scatter of pixel response, rms")
    doughnuts: float = _option(1.5, "dust shadows [1/Mpixel]")
    doughnut_depth: float = _option(0.02, "depth of a dust shadow")
    low_response: float = _option(2e-5, "fraction of pixels with low response")
    dead_columns: int = _option(2, "dead columns a CCD")
    dark_current: float = _option(0.03, "dark current [electron/s/pixel]")
    hot_pixels: float = _option(1e-4, "fraction of hot pixels")
    hot_rate: float = _option(20.0, "median dark current of hot pixels [electron/s]")
    full_well: float = _option(1.02, "full well in units of the camera's saturation level")
    brighter_fatter: float = _option(
        0.0, "shift of charge between neighbours by their difference [1/electron]"
    )
    tree_rings: float = _option(0.0, "displacement by tree rings, rms [pixel]")
    tree_ring_period: float = _option(60.0, "mean distance between rings [pixel]")

    # Read-out
    gain: float = _option(1.7, "gain where the camera file gives none [electron/adu]")
    read_noise: float = _option(8.0, "read noise where the camera file gives none [electron]")
    gain_error: float = _option(0.002, "relative error of the camera file's gains, rms")
    read_noise_error: float = _option(0.02, "relative error of its read noises, rms")
    crosstalk_error: float = _option(0.01, "relative error of its crosstalk, rms")
    bias_level: float = _option(1000.0, "level of the overscan [adu]")
    bias_pattern: float = _option(3.0, "amplitude of the smooth bias pattern [adu]")
    bias_columns: float = _option(0.8, "scatter of the bias from column to column, rms [adu]")
    overscan_drift: float = _option(1.0, "drift of the overscan along rows, rms [adu]")
    trail: float = _option(1e-3, "deferred charge in the first overscan column, of the last pixel")
    trail_length: float = _option(1.2, "decay of the deferred charge [pixel]")

    # Passers-by
    cosmic_rays: float = _option(0.3, "cosmic-ray hits [1/cm2/s]")
    muon_fraction: float = _option(0.6, "fraction of hits that are straight muons")
    thickness: float = _option(100.0, "thickness of the silicon [um]")
    diffusion: float = _option(0.3, "diffusion of their charge, sigma [pixel]")
    streaks: tuple[int, ...] = _option((), "visits (from 0) that a satellite crosses")
    streak_flux: float = _option(4000.0, "light of a satellite's trail [electron/pixel of length]")

    # Calibration frames
    n_bias: int = _option(8, "bias frames")
    n_dark: int = _option(5, "dark frames")
    dark_time: float = _option(300.0, "exposure time of darks [s]")
    flat_levels: tuple[float, ...] = _option(
        (3e3, 1e4, 2e4, 3.5e4, 5e4), "levels of the flats [electron]"
    )
    flats_per_level: int = _option(2, "flats a level and band")
    lamp_jitter: float = _option(0.002, "relative scatter of the lamp, rms")

    # Reference catalogue
    reference_mag_min: float = _option(14.0, "brightest reference star, r [mag]")
    reference_mag_max: float = _option(22.5, "faintest reference star, r [mag]")
    reference_completeness: float = _option(0.97, "fraction of stars that are in it")
    reference_position_error: float = _option(5.0, "its error of position, rms an axis [mas]")
    reference_mag_error: float = _option(0.01, "its error of magnitude, rms [mag]")

    def __post_init__(self) -> None:
        _check(self)

    def of_band(self, name: str, band: str) -> float:
        """The number of one band in a per-band field."""
        value: float = getattr(self, name)[BANDS.index(band)]
        return value


_LIVELY: Mapping[str, Any] = {
    "variable_fraction": 0.03,
    "variable_mix": (0.25, 0.15, 0.3),
    "parallax": 1.0,
    "transverse_velocity": 35.0,
    "agn_fraction": 0.05,
    "supernovae": 2000.0,
    "asteroids": 300.0,
    "eggs": True,
}
"""A sky in which something happens."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "camera": "sim-tiny",
        "n_visits": 2,
        "n_ccds": 2,
        "bands": ("g", "r"),
        "star_density": 3.0,
        "star_mag_min": 14.5,
        "dither": 5.0,
        "dead_columns": 1,
        "distortion": 0.5,
        "cosmic_rays": 1.0,
        "n_bias": 5,
        "n_dark": 4,
        "flat_levels": (3e3, 1.5e4, 4.5e4),
    },
    "small": {
        "camera": "sim-small",
        "n_visits": 6,
        "n_ccds": 2,
        "bands": ("g", "r"),
        "streaks": (3,),
    },
    "full": {
        "camera": "sim-full",
        "n_visits": 2,
        "n_ccds": 1,
        "bands": ("r",),
    },
    "wide": {
        "camera": "sim-small",
        "n_visits": 18,
        "n_ccds": 9,
        "bands": BANDS,
        "dither": 60.0,
        "visit_interval": 0.7,
        "seeing_time": 0.5,
        "night_scatter": 0.01,
        "refraction": (0.12, 0.06, 0.02, 0.01, 0.005, 0.005),
        "spikes": 0.02,
        "ghosts": 0.004,
        "galaxy_colour_gradient": 0.2,
        "streaks": (7,),
        "truth_images": False,
        **_LIVELY,
    },
    "deep-drilling": {
        "camera": "sim-small",
        "n_visits": 60,
        "n_ccds": 1,
        "bands": ("g", "r", "i"),
        "dither": 10.0,
        "visit_interval": 61.3,
        "seeing_time": 0.5,
        "moon": 1.0,
        "night_scatter": 0.01,
        "galaxy_colour_gradient": 0.2,
        "truth_images": False,
        **_LIVELY,
    },
    "cloudy": {
        "camera": "sim-small",
        "n_visits": 20,
        "n_ccds": 4,
        "bands": ("r", "i"),
        "dither": 90.0,
        "visit_interval": 0.3,
        "clouds": 1.0,
        "cloud_structure": 0.1,
        "night_scatter": 0.03,
        "truth_images": False,
    },
    "crowded": {
        "camera": "sim-small",
        "n_visits": 4,
        "n_ccds": 1,
        "bands": ("g", "r"),
        "star_density": 20.0,
        "spikes": 0.02,
        "truth_images": False,
        **_LIVELY,
    },
}
"""Preset name to the fields it changes."""


def preset(name: str, **changes: Any) -> Survey:
    """A preset with some fields changed.

    Raises
    ------
    ConfigError
        For an unknown preset or field, or values that make no sense.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}", way_out=f"presets: {', '.join(PRESETS)}")
    names = {entry.name for entry in dataclasses.fields(Survey)}
    for key in changes:
        if key not in names:
            near = get_close_matches(key, names, 1)
            hint = f"did you mean {near[0]}?" if near else "see mpipipe simulate --options"
            raise ConfigError("unknown option of the simulator", key=key, way_out=hint)
    return Survey(**{"preset": name, **PRESETS[name], **changes})


def parse_option(key: str, text: str) -> Any:
    """The value of field `key` written as `text`; tuples are separated by commas.

    Raises
    ------
    ConfigError
        If there is no such field or `text` is no value for it.
    """
    types = typing.get_type_hints(Survey)
    if key not in types:
        near = get_close_matches(key, types, 1)
        hint = f"did you mean {near[0]}?" if near else "see mpipipe simulate --options"
        raise ConfigError("unknown option of the simulator", key=key, way_out=hint)
    wanted = types[key]
    try:
        if typing.get_origin(wanted) is tuple:
            element = typing.get_args(wanted)[0]
            return tuple(element(part.strip()) for part in text.split(",") if part.strip())
        if wanted is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.strip().lower()]
        return wanted(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{text!r} is no value for it", key=key) from error


def help_of(name: str) -> str:
    """What a field of `Survey` means, with its unit."""
    for entry in dataclasses.fields(Survey):
        if entry.name == name:
            return str(entry.metadata["help"])
    raise KeyError(name)


_TINY = 1e-12
_MANY = 99_999
"""Exposures of a kind: their numbers have so much room."""

RANGES: Mapping[str, tuple[float, float]] = {
    "n_visits": (1, _MANY),
    "n_bias": (0, _MANY),
    "n_dark": (0, _MANY),
    "flats_per_level": (1, _MANY),
    "n_ccds": (1, math.inf),
    "n_snaps": (0, 100),
    "snap_time": (1, 1e5),
    "dark_time": (0, 1e5),
    # What lies on the sky.
    "ra": (-360, 360),
    "dec": (-89, 89),
    "dither": (0, 36_000),
    "angle": (-360, 360),
    "pointing_error": (0, 3600),
    "mjd": (1, 200_000),
    "visit_interval": (0, 10_000),
    # Densities: memory and identifiers end somewhere.
    "star_density": (0, 10_000),
    "galaxy_density": (0, 10_000),
    "asteroids": (0, 1e6),
    "supernovae": (0, 1e9),
    "cosmic_rays": (0, 1000),
    "doughnuts": (0, 1000),
    **dict.fromkeys(("star_slope", "galaxy_slope", "galaxy_slope_faint"), (1e-3, 2)),
    **dict.fromkeys(("star_mag_min", "star_mag_max", "galaxy_mag_min", "galaxy_break"), (0, 40)),
    "galaxy_mag_max": (0, 40),
    "galaxy_radius": (1e-3, 100),
    "galaxy_radius_slope": (-1, 1),
    "galaxy_radius_scatter": (0, 2),
    "galaxy_colour_gradient": (-3, 3),
    "group_members": (1, math.inf),
    # The atmosphere.
    "seeing_min": (0.05, 20),
    "seeing_max": (0.05, 20),
    "snap_seeing_scatter": (0, 0.2),
    "airmass_min": (1, 10),
    "airmass_max": (1, 10),
    "sky": (0, 1e4),
    "moon": (0, 1e4),
    "sky_gradient": (0, 0.6),
    "clouds": (0, 20),
    "cloud_structure": (0, 1),
    "cloud_scale": (0.02, 100),
    "cloud_drift": (0, 10),
    # Optics.
    **dict.fromkeys(("core_beta", "wing_beta"), (1.5, 50)),
    "wing_scale": (0.1, 100),
    "coma_shift": (0, 5),
    "ellipticity": (0, 0.5),
    "size_variation": (-0.5, 5),
    "size_step": (0, 0.1),
    "distortion": (-60, 60),
    "ccd_rotation": (0, 5),
    "render_floor": (1e-5, 100),
    "spikes": (0, 1),
    "spike_arms": (2, 24),
    "spike_length": (0.01, 1000),
    "ghosts": (0, 1),
    "ghost_radius": (0.5, 3600),
    "stray_light_mag": (0, 22),
    # The detector: errors so large would turn a sign.
    "vignetting": (0, 0.95),
    "pixel_response": (0, 0.2),
    "gain": (1e-3, 1000),
    "gain_error": (0, 0.2),
    "read_noise_error": (0, 0.2),
    "lamp_jitter": (0, 0.2),
    "sky_scatter": (0, 1),
    "full_well": (0.01, 100),
    "brighter_fatter": (0, 5e-6),
    "tree_rings": (0, 1),
    "tree_ring_period": (8, 1e4),
    "thickness": (1, 1e4),
    "diffusion": (0.01, 10),
    "trail": (0, 1),
    "trail_length": (_TINY, 1e4),
    **dict.fromkeys(
        (
            "variable_fraction",
            "agn_fraction",
            "bulge_fraction",
            "group_fraction",
            "wing_fraction",
            "coma_fraction",
            "muon_fraction",
            "reference_completeness",
            "hot_pixels",
            "low_response",
            "doughnut_depth",
            "cloud_gradient",
        ),
        (0, 1),
    ),
}
"""The least and the largest value of options; of all others nothing but the sign is asked."""

_ORDERED = (
    ("seeing_min", "seeing_max"),
    ("airmass_min", "airmass_max"),
    ("star_mag_min", "star_mag_max"),
    ("galaxy_mag_min", "galaxy_break"),
    ("galaxy_break", "galaxy_mag_max"),
    ("reference_mag_min", "reference_mag_max"),
    ("asteroid_mag_min", "asteroid_mag_max"),
)


def _check(survey: Survey) -> None:
    """Refuse values that can not be simulated."""
    values = {entry.name: getattr(survey, entry.name) for entry in dataclasses.fields(survey)}
    for key, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                _check_number(key, number)
    for low, high in _ORDERED:
        if values[low] > values[high]:
            raise ConfigError(
                f"must not exceed {high}, {values[low]} > {values[high]}",
                key=low,
                way_out=f"lower it, or raise {high}",
            )
    _check_names(survey)
    _check_together(survey)


def _check_number(key: str, number: float) -> None:
    low, high = RANGES.get(key, (0, math.inf))
    if not low <= number <= high or not math.isfinite(number):
        upper = "" if high == math.inf else f", at most {high:g}"
        raise ConfigError(
            f"can not be {number}",
            key=key,
            way_out=f"{help_of(key)}: at least {low:g}{upper}",
        )


def _check_names(survey: Survey) -> None:
    """Refuse words that mean nothing."""
    if survey.star_counts not in STAR_COUNTS:
        raise ConfigError(
            f"no star counts {survey.star_counts!r}",
            key="star_counts",
            way_out=f"one of {', '.join(STAR_COUNTS)}",
        )
    unknown = sorted(set(survey.bands) - set(BANDS))
    if unknown or not survey.bands:
        raise ConfigError(
            f"unknown bands {', '.join(unknown)}" if unknown else "no band at all",
            key="bands",
            way_out=f"bands: {' '.join(BANDS)}",
        )


def _check_together(survey: Survey) -> None:
    """Refuse values that make no sense together, or as what they are for."""
    for key in ("core_beta", "wing_beta"):
        value = getattr(survey, key)
        if value * 2 != int(value * 2):
            raise ConfigError(
                f"is a multiple of 0.5, not {value}", key=key, way_out=f"{round(2 * value) / 2:g}"
            )
    for key in ("sky_rates", "zero_points", "extinction", "refraction"):
        if len(getattr(survey, key)) != len(BANDS):
            raise ConfigError(
                f"has {len(getattr(survey, key))} numbers",
                key=key,
                way_out=f"{len(BANDS)} numbers, for {' '.join(BANDS)}",
            )
    if len(survey.variable_mix) != 3 or sum(survey.variable_mix) > 1:
        raise ConfigError(
            f"{survey.variable_mix} is no mix",
            key="variable_mix",
            way_out="three fractions of at most 1 in all",
        )
    if survey.wing_fraction + survey.coma_fraction >= 1:
        raise ConfigError(
            "wings and coma hold all the light",
            key="wing_fraction",
            way_out="wing_fraction and coma_fraction below 1 in all",
        )
    if survey.star_counts == "galactic":
        latitude = galactic_place(survey.ra, survey.dec)[1]
        if abs(latitude) < LOWEST_LATITUDE:
            raise ConfigError(
                f"the field is at Galactic latitude {latitude:+.1f}",
                key="star_counts",
                way_out=f"a field beyond {LOWEST_LATITUDE:g} degrees, or power-law counts",
            )
    if survey.spike_arms % 2:
        raise ConfigError(
            f"a vane makes two spikes, so {survey.spike_arms} can not be",
            key="spike_arms",
            way_out="an even number",
        )
    if any(visit >= survey.n_visits for visit in survey.streaks):
        raise ConfigError(
            f"there are {survey.n_visits} visits only",
            key="streaks",
            way_out=f"visits from 0 to {survey.n_visits - 1}",
        )
    if not survey.flat_levels or min(survey.flat_levels) <= 0:
        raise ConfigError(
            "flats need light", key="flat_levels", way_out="one or more positive levels"
        )
    n_flats = len(survey.flat_levels) * survey.flats_per_level * len(set(survey.bands))
    if n_flats > _MANY:
        raise ConfigError(
            f"makes {n_flats} flats of a CCD",
            key="flats_per_level",
            way_out=f"at most {_MANY} in all levels and bands",
        )
