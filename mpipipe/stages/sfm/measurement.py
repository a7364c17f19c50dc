"""What a measurement of sources is, and what it works on.

A measurement is a function of a `Scene` and rows of `src`, in a module of the package
`mpipipe.stages.sfm.measurements`: it declares its columns, its flags and the measurements it has
to come after, and fills its columns in place. A new one needs a new file there, and nothing else:
its columns enter the schema, and the option ``sfm.sourceMeasurement.measurements`` knows its name.

Most measure each source on its own. They are run on the catalogue piece by piece, one after the
other on each, and share the stamps and PSF models of a `Piece`. One that needs all sources at once
says that it is `joint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pkgutil import iter_modules

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import VALUE
from mpipipe.data.psf import Psf
from mpipipe.data.schema import Column
from mpipipe.stages.measurement_planes import MeasurementPlanes
from mpipipe.stages.psf_models import PsfModels
from mpipipe.stages.sfm.apertures import NoiseFactors
from mpipipe.stages.sfm.deep_detections import DeepDetections
from mpipipe.stages.sfm.halos import take_off_halos
from mpipipe.stages.sfm.psf_shape import PsfShapes, psf_shapes
from mpipipe.stages.sfm.source_stamps import Ground, extended_discs, pieces, sky_noise


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
    models
        Images of the PSF at the sources.
    factors
        By what sums of pixels scatter more than white noise would.
    detections
        Peaks and footprints, in the order of the rows; None at given positions.
    """

    calexp: Exposure
    image: np.ndarray
    residual: np.ndarray
    planes: MeasurementPlanes
    models: PsfModels
    factors: NoiseFactors
    detections: DeepDetections | None

    @property
    def psf(self) -> Psf:
        """The model of the PSF."""
        return self.models.psf

    @cached_property
    def psf_shapes(self) -> PsfShapes:
        """Moments and curve of growth of the PSF."""
        return psf_shapes(self.psf)

    def ground(self, src: np.ndarray) -> Ground:
        """What stamps of these sources are cut from."""
        planes = self.planes
        unknown = planes.unusable | ((self.calexp.mask & VALUE["SAT"]) != 0)
        unknown |= ~(planes.variance > 0)
        discs = extended_discs(planes, self.psf.fwhm, src)
        residual, halos = take_off_halos(self.residual, unknown, sky_noise(planes), self.psf, src)
        return Ground(residual, planes, unknown, self.models, discs, halos)


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


MeasureFunction = Callable[..., None]
"""``run(scene, src, piece)``, where `src` are the rows of a `Piece`; joint: ``run(scene, src)``,
where they are all."""


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
        Fills its columns of `src`. Where it fails, values are NaN and a flag is set.
    joint
        It needs all sources at once.
    """

    name: str
    fluxes: tuple[Flux, ...]
    columns: tuple[Column, ...]
    after: tuple[str, ...]
    run: MeasureFunction
    joint: bool = False

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
    joint: bool = False,
) -> Callable[[MeasureFunction], Measurement]:
    """Make a `Measurement` of the function below it."""

    def wrap(function: MeasureFunction) -> Measurement:
        return Measurement(name, tuple(fluxes), tuple(columns), tuple(after), function, joint)

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


def rounds(wanted: Iterable[Measurement]) -> list[list[Measurement]]:
    """The measurements in groups that are made together: those on pieces, then joint ones, ...

    As few groups as their needs allow, so that stamps are cut seldom.
    """
    left, done, groups = list(wanted), set[str](), list[list[Measurement]]()
    joint = False
    while left:
        group: list[Measurement] = []
        for one in left:
            if one.joint == joint and done.union(other.name for other in group) >= set(one.after):
                group.append(one)
        if group:
            groups.append(group)
        done.update(one.name for one in group)
        left = [one for one in left if one.name not in done]
        joint = not joint
    return groups


def measure_all(scene: Scene, src: np.ndarray, wanted: Iterable[Measurement]) -> None:
    """Make measurements of all rows; in place."""
    ground = scene.ground(src)
    for group in rounds(wanted):
        if group[0].joint:
            for one in group:
                one.run(scene, src)
            continue
        for rows, piece in pieces(ground, src):
            for one in group:
                one.run(scene, rows, piece)
