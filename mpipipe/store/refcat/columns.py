"""What the columns of a star catalogue mean: which one is what, in which unit, what is missing.

Columns are recognised by the names that they have in Gaia's archive, at VizieR, in Pan-STARRS and
in tables of ours; a column map (``ra=RAJ2000``) tells the rest. Magnitudes of Gaia are brought from
its Vega system to AB.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.refcat import DAYS_PER_YEAR, reference_rows, reference_schema
from mpipipe.data.sky_cells import finest_cells

_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "source_id", "objid", "source", "object_id"),
    "ra": ("ra", "ra_icrs", "ramean", "raj2000", "_raj2000", "ra_deg", "alpha_j2000"),
    "dec": ("dec", "de_icrs", "decmean", "dej2000", "_dej2000", "dec_deg", "delta_j2000"),
    "ra_error": ("ra_error", "e_ra_icrs", "rameanerr", "e_raj2000"),
    "dec_error": ("dec_error", "e_de_icrs", "decmeanerr", "e_dej2000"),
    "pm_ra": ("pm_ra", "pmra"),
    "pm_dec": ("pm_dec", "pmdec", "pmde"),
    "pm_ra_error": ("pm_ra_error", "pmra_error", "e_pmra"),
    "pm_dec_error": ("pm_dec_error", "pmdec_error", "e_pmde"),
    "parallax": ("parallax", "plx"),
    "epoch": ("epoch", "ref_epoch", "epochmean"),
}
"""Our columns and the names, in small letters, by which they are recognised; the first one wins."""

_UNITS = {"rameanerr": "arcsec", "decmeanerr": "arcsec"}
"""Units of columns that files do not tell, where they are not ours."""

_MAGNITUDES = (
    (re.compile(r"mag_(?!.*_error$)(\w+)"), "{}"),
    (re.compile(r"phot_(g|bp|rp)_mean_mag"), "gaia_{}"),
    (re.compile(r"(G|BP|RP)mag"), "gaia_{}"),
    (re.compile(r"([ugrizy])MeanPSFMag"), "{}"),
    (re.compile(r"([ugrizy])_?mag"), "{}"),
)
"""Names of magnitudes, and the band that they are in."""

_VEGA_TO_AB = {
    "phot_g_mean_mag": 25.8010446445 - 25.6873668671,
    "phot_bp_mean_mag": 25.3539555559 - 25.3385422158,
    "phot_rp_mean_mag": 25.1039837393 - 24.7478955012,
}
_VEGA_TO_AB |= {
    name: _VEGA_TO_AB[f"phot_{name[:-3].lower()}_mean_mag"] for name in ("Gmag", "BPmag", "RPmag")
}
"""What is added to Gaia's magnitudes: zero points in AB minus those in Vega, of Gaia (E)DR3's
passbands (Riello et al. 2021, A&A 649, A3, and the archive's page on them)."""

_MAGNITUDE_ERRORS = ("{}_error", "{}Err", "{}err", "{}_err", "e_{}", "err_{}")
_SNR = 2.5 / np.log(10.0)
"""Magnitudes that a relative error of the flux of 1 makes."""

_SPEC = re.compile(r"(?P<source>[^:]+?)(:(?P<unit>[^:+]+?))?(?P<offset>[+-]\d+(\.\d*)?)?")
_BAND = re.compile(r"[A-Za-z0-9_]+")
_FAINTEST, _BRIGHTEST = 50.0, -30.0
"""Magnitudes outside, such as 99 and -999, say that there is none."""


@dataclass(frozen=True)
class Wish:
    """What a user says about one column: ``TARGET=SOURCE[:UNIT][+OFFSET]``."""

    target: str
    source: str
    unit: str = ""
    offset: float | None = None

    @classmethod
    def parse(cls, text: str) -> Wish:
        """Read one assignment.

        Raises
        ------
        ConfigError
            If it is none, or tells of a column that we do not know.
        """
        target, _, spec = (part.strip() for part in text.partition("="))
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise ConfigError(
                f"is no column map: {text!r}",
                key="--column",
                way_out="write OURS=THEIRS[:UNIT][+OFFSET], e.g. ra=RAJ2000, mag_r=rmag+0.02",
            )
        known = [column.name for column in reference_schema(()).columns]
        if target not in known and not _is_magnitude(target):
            near = difflib.get_close_matches(target, known, n=3)
            raise ConfigError(
                f"{target!r} is no column of a reference catalogue"
                + (f"; near it: {', '.join(near)}" if near else ""),
                key="--column",
                way_out=f"there are {', '.join(known)}, mag_BAND and mag_BAND_error",
            )
        offset = None if match["offset"] is None else float(match["offset"])
        return cls(target, match["source"], match["unit"] or "", offset)


def _is_magnitude(target: str) -> bool:
    return target.startswith("mag_") and _BAND.fullmatch(target[4:]) is not None


@dataclass(frozen=True)
class Pick:
    """Where a column of ours comes from.

    Attributes
    ----------
    unit
        Unit of the source, in astropy's spelling; empty: as ours.
    offset
        Added to its values.
    is_snr
        Whether the source is a flux over its error, and we need the error of the magnitude.
    """

    source: str
    unit: str = ""
    offset: float = 0.0
    is_snr: bool = False


@dataclass
class ColumnMap:
    """How rows of a reference catalogue are made of a table's columns.

    Attributes
    ----------
    picks
        Our column to where it comes from.
    epoch
        MJD (TAI) of all positions, if there is no column that tells; NaN: unknown.
    notes
        What the user should hear, a line each.
    """

    path: Path
    picks: dict[str, Pick]
    epoch: float = np.nan
    notes: list[str] = field(default_factory=list)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands with magnitudes."""
        return tuple(
            target[4:] for target in self.picks
            if target.startswith("mag_") and not target.endswith("_error")
        )  # fmt: skip

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns of the table that are needed, each once."""
        return tuple(dict.fromkeys(pick.source for pick in self.picks.values()))

    def rows(self, table: Mapping[str, np.ndarray], bands: Sequence[str]) -> np.ndarray:
        """Rows of the stars of a table that have a position, with their bands in this order.

        Raises
        ------
        BadDataError
            If a column holds no numbers, or is in a unit that makes no sense.
        """
        columns = {
            target: self._numbers(target, pick, table[pick.source])
            for target, pick in self.picks.items()
            if target != "id"
        }
        placed = np.isfinite(columns["ra"]) & (np.abs(columns["dec"]) <= 90.0)
        columns = {target: values[placed] for target, values in columns.items()}
        columns["ra"] %= 360.0
        columns["ra"][columns["ra"] == 360.0] = 0.0  # of tiny negative ones
        columns.setdefault("epoch", np.full(np.count_nonzero(placed), self.epoch))
        columns["id"] = self._ids(table, placed, columns)
        return reference_rows(columns, bands)

    def _numbers(self, target: str, pick: Pick, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind not in "iufb":
            values = self._from_text(target, pick, values)
            pick = Pick(pick.source, "" if target in ("ra", "dec") else pick.unit, pick.offset)
        numbers = values.astype(float)
        if target == "epoch":
            return _mjd(numbers)
        if target.startswith("mag_"):
            return _magnitudes(numbers, pick, is_error=target.endswith("_error"))
        numbers = numbers * self._factor(target, pick) + pick.offset
        if target.endswith("_error"):
            numbers[~(numbers > 0.0)] = np.nan
        elif target in ("parallax", "pm_ra", "pm_dec"):
            numbers[numbers == -999.0] = np.nan
        return numbers

    def _factor(self, target: str, pick: Pick) -> float:
        """Our units in one of the source's."""
        from astropy import units as u

        ours = next(c.unit for c in reference_schema(()).columns if c.name == target)
        if not pick.unit or pick.unit == ours:
            return 1.0
        try:
            return float(u.Unit(pick.unit).to(ours))
        except (ValueError, TypeError, u.UnitConversionError) as error:
            raise BadDataError(
                f"column {pick.source!r} is in {pick.unit!r}, and {target} is wanted in {ours!r}",
                file=self.path,
                way_out=f"tell the unit: --column {target}={pick.source}:UNIT",
            ) from error

    def _from_text(self, target: str, pick: Pick, values: np.ndarray) -> np.ndarray:
        """Numbers that are written as text; right ascensions and declinations also as 12:34:56."""
        from astropy.coordinates import Angle

        texts = np.char.strip(values.astype(str))
        has_any = ~np.isin(np.char.lower(texts), ("", "nan", "null", "none", "--"))
        numbers = np.full(len(texts), np.nan)
        try:
            if target in ("ra", "dec"):
                is_sexagesimal = any(mark in text for text in texts[has_any][:1] for mark in ": h")
                unit = "hourangle" if target == "ra" and is_sexagesimal else pick.unit or "deg"
                unit = "deg" if target == "dec" and is_sexagesimal else unit
                numbers[has_any] = Angle(texts[has_any], unit).to_value("deg")
            else:
                numbers[has_any] = texts[has_any].astype(float)
        except ValueError as error:
            raise BadDataError(
                f"column {pick.source!r} holds text that is no number: {error}",
                file=self.path,
                way_out=f"name another one: --column {target}=NAME",
            ) from error
        return numbers

    def _ids(
        self, table: Mapping[str, np.ndarray], placed: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Whole numbers of the catalogue, or the cell of 0.4 mas that a star is in."""
        if (pick := self.picks.get("id")) is not None:
            ids = table[pick.source][placed]
            if ids.dtype.kind in "iu":
                return ids.astype(np.int64)
            try:
                if ids.dtype.kind != "f":
                    return ids.astype(str).astype(np.int64)
            except ValueError:
                pass
            note = f"{pick.source} holds no whole numbers: ids follow from positions"
            if note not in self.notes:
                self.notes.append(note)
        return finest_cells(columns["ra"], columns["dec"])


def _mjd(values: np.ndarray) -> np.ndarray:
    """MJD of epochs in Julian years, MJD or JD, which can not be mixed up."""
    is_year, is_jd = (values > 1700.0) & (values < 2300.0), values > 2.3e6
    mjd = np.where(is_jd, values - 2400000.5, values)
    mjd = np.where(is_year, 51544.5 + (values - 2000.0) * DAYS_PER_YEAR, mjd)
    return np.where(mjd > 2300.0, mjd, np.nan)


def epoch_mjd(value: float) -> float:
    """MJD of an epoch in Julian years, MJD or JD.

    Raises
    ------
    ConfigError
        If it is none of them.
    """
    mjd = float(_mjd(np.array([value]))[0])
    if np.isnan(mjd):
        raise ConfigError(
            f"is {value}", key="--epoch", way_out="give a Julian year such as 2016.0, or an MJD"
        )
    return mjd


def _magnitudes(values: np.ndarray, pick: Pick, *, is_error: bool) -> np.ndarray:
    """AB magnitudes or their errors, NaN where there is none."""
    if pick.is_snr:
        with np.errstate(divide="ignore"):
            values = _SNR / values
    if is_error:
        return np.where((values > 0.0) & (values < _FAINTEST), values, np.nan)
    sound = (values > _BRIGHTEST) & (values < _FAINTEST)
    return np.where(sound, values + pick.offset, np.nan)


# -- which column is what -------------------------------------------------------------------------


def map_columns(
    path: Path,
    names: Sequence[str],
    units: Mapping[str, str],
    wishes: Iterable[Wish] = (),
    epoch: float = np.nan,
) -> ColumnMap:
    """Find out what the columns of a table are.

    Parameters
    ----------
    path
        File of the table, for messages.
    names, units
        Its columns, and the units that it tells.
    wishes
        What the user says.
    epoch
        MJD (TAI) of the positions, if no column tells.

    Raises
    ------
    BadDataError
        If positions are missing, or a column that the user named.
    """
    picks: dict[str, Pick] = {}
    small = {name.lower(): name for name in reversed(names)}
    for target, known in _NAMES.items():
        if found := next((small[name] for name in known if name in small), None):
            picks[target] = Pick(found, units.get(found) or _UNITS.get(found.lower(), ""))
    for name in names:
        for pattern, band in _MAGNITUDES:
            if match := pattern.fullmatch(name):
                target = f"mag_{band.format(match[1] if band == '{}' else match[1].lower())}"
                picks.setdefault(target, Pick(name, offset=_VEGA_TO_AB.get(name, 0.0)))
    for wish in wishes:
        source = _named(path, names, wish)
        offset = _VEGA_TO_AB.get(source, 0.0) if wish.offset is None else wish.offset
        is_snr = source.endswith("_flux_over_error") and wish.target.startswith("mag_")
        picks[wish.target] = Pick(source, wish.unit or units.get(source, ""), offset, is_snr)
    _require_positions(path, names, picks)
    for target in [target for target in picks if _is_magnitude(target)]:
        if not target.endswith("_error") and f"{target}_error" not in picks:
            _pick_error(target, names, picks)
    return _finish(ColumnMap(path, picks, epoch))


def _named(path: Path, names: Sequence[str], wish: Wish) -> str:
    """The column that a user means."""
    if wish.source in names:
        return wish.source
    small = {name.lower(): name for name in names}
    if wish.source.lower() in small:
        return small[wish.source.lower()]
    near = difflib.get_close_matches(wish.source.lower(), small, n=3, cutoff=0.4)
    raise BadDataError(
        f"has no column {wish.source!r}"
        + (f"; near it: {', '.join(small[name] for name in near)}" if near else ""),
        file=path,
        way_out=f"--column {wish.target}=NAME with one of: {_listed(names)}",
    )


def _require_positions(path: Path, names: Sequence[str], picks: Mapping[str, Pick]) -> None:
    small = {name.lower(): name for name in names}
    for target, what in (("ra", "right ascension"), ("dec", "declination")):
        if target not in picks:
            near = difflib.get_close_matches(target, small, n=3, cutoff=0.3)
            raise BadDataError(
                f"has no column that is known as {what}"
                + (f"; near it: {', '.join(small[name] for name in near)}" if near else ""),
                file=path,
                way_out=f"name it by --column {target}=NAME; there are: {_listed(names)}",
            )


def _pick_error(target: str, names: Sequence[str], picks: dict[str, Pick]) -> None:
    """Find the error of a magnitude beside it."""
    source = picks[target].source
    wanted = [pattern.format(source) for pattern in _MAGNITUDE_ERRORS]
    if found := next((name for name in wanted if name in names), None):
        picks[f"{target}_error"] = Pick(found)
    elif (snr := source.removesuffix("_mag") + "_flux_over_error") in names:
        picks[f"{target}_error"] = Pick(snr, is_snr=True)


def _finish(found: ColumnMap) -> ColumnMap:
    """Order the bands, and note what will be missing."""
    picks = found.picks
    for target in [target for target in picks if target.endswith("_error")]:
        if _is_magnitude(target) and target.removesuffix("_error") not in picks:
            del picks[target]  # error of nothing
    small = [band.lower() for band in found.bands]
    if len(set(small)) < len(small):
        raise BadDataError(
            f"bands {', '.join(found.bands)} differ in small and capital letters alone",
            file=found.path,
            way_out="give them other names: --column mag_NAME=...",
        )
    if not found.bands:
        found.notes.append("no magnitudes are known: there will be positions, but no zero points")
    has_motion = "pm_ra" in picks and "pm_dec" in picks
    if "epoch" not in picks and np.isnan(found.epoch):
        lost = ": proper motions can not be used" if has_motion else ""
        found.notes.append(f"the epoch of the positions is unknown{lost}; tell it by --epoch")
    return found


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 40 else ""
    return ", ".join(names[:40]) + more
