"""Tables in the formats that star catalogues come in, some rows at a time.

FITS tables (plain ones), Parquet, and text (CSV and ECSV, also gzipped) are read piece by piece,
whatever their size; VOTables and compressed FITS files are read whole.
"""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.store.fits import open_fits

CHUNK_ROWS = 250_000
_CHUNK_BYTES = 32 << 20
_UNIT_SEPARATOR = "\x1f"
_WAY_OUT = "copy it again from its source, or leave it out"

Columns = Mapping[str, np.ndarray]


class Source(ABC):
    """A table in a file.

    Attributes
    ----------
    path
        The file.
    names
        Its columns.
    units
        Those that it tells, by column.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: tuple[str, ...] = ()
        self.units: dict[str, str] = {}

    @abstractmethod
    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Columns, float]]:
        """Some columns, piece by piece, and how much of the file has been read then, 0 to 1.

        Missing numbers are NaN.

        Raises
        ------
        BadDataError
            If the file is damaged.
        """

    def damaged(self, reason: object) -> BadDataError:
        """What to raise if it is."""
        return BadDataError(f"can not be read: {reason}", file=self.path, way_out=_WAY_OUT)


class FitsSource(Source):
    """The first table of a FITS file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._open() as hdus:
            columns = _fits_table(hdus, path).columns
            self.names = tuple(columns.names)
            self.units = {column.name: column.unit for column in columns if column.unit}

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Columns, float]]:
        """See `Source.chunks`."""
        with self._open() as hdus:
            table = _fits_table(hdus, self.path)
            nulls = {column.name: column.null for column in table.columns}
            n_rows = len(table.data)
            for begin in range(0, n_rows, CHUNK_ROWS):
                part = table.data[begin : begin + CHUNK_ROWS]
                yield (
                    {name: _with_nan(part[name], nulls[name]) for name in names},
                    min(begin + CHUNK_ROWS, n_rows) / n_rows,
                )

    def _open(self) -> AbstractContextManager[Any]:
        return open_fits(self.path, memmap=self.path.suffix.lower() in (".fits", ".fit"))


def _fits_table(hdus: Any, path: Path) -> Any:
    from astropy.io import fits

    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
            return hdu
    raise BadDataError("holds no table", file=path, way_out=_WAY_OUT)


def _with_nan(values: np.ndarray, null: object) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind in "iu" and isinstance(null, int):
        is_null = values == null
        return np.where(is_null, np.nan, values) if is_null.any() else values
    return values


class ParquetSource(Source):
    """A Parquet file, through pyarrow (extra `parquet`)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._open() as file:
            schema = file.schema_arrow
            self.names = tuple(schema.names)
            for field in schema:
                unit = (field.metadata or {}).get(b"unit")
                if unit:
                    self.units[field.name] = unit.decode(errors="replace")

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Columns, float]]:
        """See `Source.chunks`."""
        import pyarrow as pa

        n_read = 0
        with self._open() as file:
            n_rows = file.metadata.num_rows
            try:
                for batch in file.iter_batches(CHUNK_ROWS, columns=list(names)):
                    n_read += batch.num_rows
                    columns = {
                        name: batch.column(name).to_numpy(zero_copy_only=False) for name in names
                    }
                    yield columns, n_read / n_rows
            except (pa.ArrowException, OSError) as error:
                raise self.damaged(error) from error

    def _open(self) -> Any:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ConfigError(
                "is a Parquet file, which needs pyarrow",
                file=self.path,
                way_out="pip install 'mpipipe[parquet]', or give another format",
            ) from error
        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise self.damaged(error) from error


class VotableSource(Source):
    """The first table of a VOTable, which is read whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._table = self._read()
        fields = self._table.fields
        self.names = tuple(str(field.name) for field in fields)
        self.units = {str(f.name): f.unit.to_string() for f in fields if f.unit is not None}

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Columns, float]]:
        """See `Source.chunks`."""
        identifiers = {str(field.name): field.ID for field in self._table.fields}
        array = self._table.array
        yield {name: _filled(array[identifiers[name]]) for name in names}, 1.0

    def _read(self) -> Any:
        import warnings

        from astropy.io import votable

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return votable.parse_single_table(self.path, verify="ignore")
        except Exception as error:  # corrupt files surface as almost any exception
            raise self.damaged(error) from error


def _filled(column: Any) -> np.ndarray:
    """A column with NaN, or empty text, where it is masked."""
    if not isinstance(column, np.ma.MaskedArray):
        return np.asarray(column)
    if not np.any(column.mask):
        return np.asarray(column.data)
    if column.dtype.kind in "iufb":
        return np.ma.filled(column.astype(float), np.nan)
    return np.ma.filled(column.astype(str), "")


class TextSource(Source):
    """CSV, other separated text with a line of names, or ECSV, which tells units.

    Lines are read piece by piece, so no value may hold a line break.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        comments, header = self._head()
        self._delimiter = _delimiter(header)
        if comments and comments[0].lstrip("# ").startswith("%ECSV"):
            self._read_ecsv_head(comments)
        self.names = _split(header, self._delimiter)
        if len(set(self.names)) < len(self.names):
            raise self.damaged("two columns have the same name")

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Columns, float]]:
        """See `Source.chunks`."""
        size = max(self.path.stat().st_size, 1)
        with open(self.path, "rb") as raw, self._decompressed(raw) as stream:
            for line in self._lines(stream):
                if line.strip() and not line.startswith(b"#"):
                    break  # the line of names
            rest = b""
            while piece := self._read(stream, _CHUNK_BYTES):
                text, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    yield from self._parsed(text, names, raw.tell() / size)
            yield from self._parsed(rest, names, 1.0)

    def _parsed(
        self, text: bytes, names: Sequence[str], share: float
    ) -> Iterator[tuple[Columns, float]]:
        from astropy.io import ascii as text_tables

        if not text.strip():
            return
        # Tabs at the ends of a line would be stripped, together with the empty values before them.
        delimiter = _UNIT_SEPARATOR if self._delimiter == "\t" else self._delimiter
        try:
            table = text_tables.read(
                # What holds no end of a line would be taken for the name of a file.
                text.decode("utf-8").replace(self._delimiter, delimiter) + "\n",
                format="fast_no_header",
                guess=False,
                names=list(self.names),
                include_names=list(names),
                delimiter=delimiter,
                comment="#",
                fill_values=[("", "0"), ("null", "0"), ("NULL", "0")],
            )
        except (ValueError, text_tables.InconsistentTableError) as error:
            raise self.damaged(error) from error
        yield {name: _filled(table[name]) for name in names}, share

    def _head(self) -> tuple[list[str], str]:
        """The comments at the top, and the line with the names."""
        comments: list[str] = []
        with open(self.path, "rb") as raw, self._decompressed(raw) as stream:
            for line in self._lines(stream):
                text = line.decode("utf-8", errors="replace").strip("\r\n\ufeff")
                if text.startswith("#"):
                    comments.append(text)
                elif text.strip():
                    return comments, text
        raise self.damaged("it holds no line of column names")

    def _read_ecsv_head(self, comments: list[str]) -> None:
        from astropy.table import meta

        try:
            head = meta.get_header_from_yaml([line[2:] for line in comments[1:]])
        except (ValueError, TypeError, KeyError) as error:
            raise self.damaged(error) from error
        self._delimiter = str(head.get("delimiter", " "))
        for column in head["datatype"]:
            if column.get("unit"):
                self.units[str(column["name"])] = str(column["unit"])

    def _decompressed(self, raw: IO[bytes]) -> IO[bytes]:
        if self.path.suffix.lower() == ".gz":
            return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
        return open(raw.fileno(), "rb", closefd=False)

    def _read(self, stream: IO[bytes], n_bytes: int) -> bytes:
        try:
            return stream.read(n_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self.damaged(error) from error

    def _lines(self, stream: IO[bytes]) -> Iterator[bytes]:
        try:
            # Not `yield from`, which would close the stream together with this generator.
            while line := stream.readline():
                yield line
        except (OSError, EOFError, zlib.error) as error:
            raise self.damaged(error) from error


def _delimiter(header: str) -> str:
    """What separates names."""
    return max(",\t|; ", key=lambda mark: (header.count(mark), mark == ","))


def _split(header: str, delimiter: str) -> tuple[str, ...]:
    import csv

    return tuple(name.strip() for name in next(csv.reader([header.strip()], delimiter=delimiter)))


_KINDS: Mapping[str, type[Source]] = {
    ".fits": FitsSource,
    ".fit": FitsSource,
    ".parquet": ParquetSource,
    ".pq": ParquetSource,
    ".csv": TextSource,
    ".tsv": TextSource,
    ".txt": TextSource,
    ".ecsv": TextSource,
    ".vot": VotableSource,
    ".votable": VotableSource,
    ".xml": VotableSource,
}


def _kind(path: Path) -> type[Source] | None:
    name = path.name.lower()
    return _KINDS.get(Path(name.removesuffix(".gz")).suffix)


def find_sources(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, and those of folders that have a known ending, by name.

    Raises
    ------
    ConfigError
        If there are none, or one is of no known format.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and _kind(p) is not None)
            if not inside:
                raise ConfigError(
                    f"holds no files that end in {', '.join(_KINDS)} (or .gz)", file=path
                )
            found += inside
        elif not path.exists():
            raise ConfigError("does not exist", file=path, way_out="give files or folders")
        else:
            found.append(path)
    return found


def open_source(path: Path) -> Source:
    """The table in a file, of which the names of columns have been read.

    Raises
    ------
    BadDataError
        If it is damaged.
    ConfigError
        If its format is not known, or a library is missing.
    """
    kind = _kind(path)
    if kind is None:
        raise ConfigError(
            "is of no known format",
            file=path,
            way_out=f"names end in {', '.join(_KINDS)}, text, FITS and VOTables also in .gz",
        )
    return kind(path)
