"""What a measurement of sources is, and what it works on.

A measurement is a function of a `Scene` and the rows of `src`, in a module of the package
`mpipipe.stages.sfm.measurements`: it declares its columns, its flags and the measurements it has
to come after, and fills its columns in place. A new one needs a new file there, and nothing else:
its columns enter the schema, and the option ``sfm.sourceMeasurement.measurements`` knows its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.data.exposure import Exposure
from mpipipe.data.psf import Psf
from mpipipe.data.schema import Column
from mpipipe.stages.detections import Detections
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.sfm.apertures import NoiseFactors


@dataclass(frozen=True, eq=False)
class Scene:
    """An exposure as its sources are measured on it.

    A source on its own is `residual` and its own model together: its row's `x`, `y`,
    `psfInstFlux`, and the images of `psf`.

    Attributes
    ----------
    calexp
        The exposure.
    image
        (ny, nx) float32, electrons above the sky; unusable pixels are 0.
    residual
        (ny, nx) float32: `image` with the PSF models of all sources taken off.
    planes
        Unusable pixels, variance of sky and read noise, seeing.
    psf
        The model.
    factors
        By what sums of pixels scatter more than white noise would.
    detections
        Peaks and footprints, in the order of the rows; None at given positions.
    """

    calexp: Exposure
    image: np.ndarray
    residual: np.ndarray
    planes: MeasurementPlanes
    psf: Psf
    factors: NoiseFactors
    detections: Detections | None


@dataclass(frozen=True)
class Flux:
    """A flux that a measurement gives, in four columns.

    ``<name>InstFlux<suffix>`` and ``<name>InstFluxErr<suffix>`` are electrons of the whole visit,
    which the measurement fills; ``<name>Flux<suffix>`` and ``<name>FluxErr<suffix>`` are
    calibrated (nJy, AB), which `sfm.apCorrectApply` fills.

    Attributes
    ----------
    description
        What it is the flux in; one line.
    is_of_psf
        It is measured with the PSF, so that the aperture correction applies to it, and it varies
        with the PSF's own errors.
    """

    name: str
    description: str
    suffix: str = ""
    is_of_psf: bool = False

    @property
    def inst(self) -> str:
        """Name of the column in electrons."""
        return f"{self.name}InstFlux{self.suffix}"

    @property
    def inst_error(self) -> str:
        """Name of the column with its error."""
        return f"{self.name}InstFluxErr{self.suffix}"

    @property
    def calibrated(self) -> str:
        """Name of the column in nJy."""
        return f"{self.name}Flux{self.suffix}"

    @property
    def calibrated_error(self) -> str:
        """Name of the column with its error."""
        return f"{self.name}FluxErr{self.suffix}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The four columns."""
        text, error = self.description, f"standard error of the {self.description}"
        lost = "NaN without a zero point"
        return (
            Column(self.inst, "f8", "electron", text, "phot.count"),
            Column(self.inst_error, "f8", "electron", error, "stat.error;phot.count"),
            Column(self.calibrated, "f8", "nJy", f"calibrated {text}; {lost}", "phot.flux"),
            Column(self.calibrated_error, "f8", "nJy", error, "stat.error;phot.flux"),
        )


MeasureFunction = Callable[[Scene, np.ndarray], None]


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes
    ----------
    name
        As options call it.
    fluxes
        Fluxes it gives.
    columns
        All other columns; those of flags are bool and called ``flag_...``.
    after
        Measurements whose columns it uses.
    run
        ``run(scene, src)`` fills its columns of `src`. Where it fails, values are NaN and a flag
        is set.
    """

    name: str
    fluxes: tuple[Flux, ...]
    columns: tuple[Column, ...]
    after: tuple[str, ...]
    run: MeasureFunction

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.run.__doc__ or "").strip().split("\n")[0]

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """Those of the fluxes, and the others."""
        return tuple(column for flux in self.fluxes for column in flux.columns) + self.columns

    def clear(self, src: np.ndarray) -> None:
        """Make its columns say that nothing was measured: NaN, and its flags set."""
        for column in self.all_columns:
            dtype = np.dtype(column.dtype)
            src[column.name] = True if dtype.kind == "b" else np.nan if dtype.kind == "f" else -1


def measurement(
    name: str,
    *,
    fluxes: Iterable[Flux] = (),
    columns: Iterable[Column] = (),
    after: Iterable[str] = (),
) -> Callable[[MeasureFunction], Measurement]:
    """Make a `Measurement` of the function below it."""

    def wrap(function: MeasureFunction) -> Measurement:
        return Measurement(name, tuple(fluxes), tuple(columns), tuple(after), function)

    return wrap


def flag(name: str, description: str) -> Column:
    """A column ``flag_<name>``."""
    return Column(f"flag_{name}", "?", "", description, "meta.code")


@cache
def registry() -> Mapping[str, Measurement]:
    """All measurements by name, each after those it needs, else in the order of their modules."""
    from mpipipe.stages.sfm import measurements

    found: dict[str, Measurement] = {}
    for module in sorted(info.name for info in iter_modules(measurements.__path__)):
        for value in vars(import_module(f"{measurements.__name__}.{module}")).values():
            if isinstance(value, Measurement):
                found[value.name] = value
    return _in_order(found)


def _in_order(found: Mapping[str, Measurement]) -> dict[str, Measurement]:
    ordered: dict[str, Measurement] = {}

    def add(one: Measurement, waiting: tuple[str, ...]) -> None:
        if one.name in waiting:
            raise ConfigError(f"measurements need each other: {', '.join(waiting)}", key=one.name)
        for name in one.after:
            add(found[name], (*waiting, one.name))
        ordered.setdefault(one.name, one)

    for one in found.values():
        add(one, ())
    return ordered


def chosen(names: Iterable[str]) -> tuple[Measurement, ...]:
    """The measurements of these names and those they need, in an order that works.

    Raises
    ------
    ValueError
        If there is no measurement of a name.
    """
    known = registry()
    wanted: set[str] = set()

    def want(name: str) -> None:
        if name not in known:
            raise ValueError(f"no measurement is called {name!r}; there are {', '.join(known)}")
        wanted.add(name)
        for other in known[name].after:
            want(other)

    for name in names:
        want(name)
    return tuple(one for one in known.values() if one.name in wanted)
