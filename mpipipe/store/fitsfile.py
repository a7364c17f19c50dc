"""Reading the image HDUs of FITS files fast.

Plain and gzipped images are read here directly, so that a raw channel costs little more than its
bytes; tile-compressed ones are decompressed by astropy. Every fault of a file is a
`BadDataError` that names it.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.store.cards import BLOCK, Header, Value, end_of_header
from mpipipe.store.fits import RECOPY, open_fits

_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_MAX_HEADER = 400 * BLOCK
_MAX_PIXELS = 1 << 28


class _PlainSource:
    """Random access to the bytes of an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def has(self, end: int) -> bool:
        return end <= self._size

    def read(self, start: int, n: int) -> bytes:
        return os.pread(self._descriptor, n, start)

    def array(self, start: int, dtype: str, count: int) -> np.ndarray:
        array = np.empty(count, dtype=dtype)
        view = array.view(np.uint8).data
        done = 0
        while done < len(view):
            n = os.preadv(self._descriptor, [view[done:]], start + done)
            if n <= 0:
                raise BadDataError("ends before its data do", way_out=RECOPY)
            done += n
        return array

    def finish(self) -> None:
        """Nothing more to check."""


class _GzipSource:
    """The bytes of a gzip file, decompressed only as far as they are asked for."""

    def __init__(self, descriptor: int, chunk: int = 1 << 15) -> None:
        self._descriptor = descriptor
        self._chunk = chunk
        self._decompress = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._ended = False
        self._bytes = bytearray()

    def has(self, end: int) -> bool:
        while len(self._bytes) < end and not self._ended:
            self._more()
        return end <= len(self._bytes)

    def read(self, start: int, n: int) -> bytes:
        self.has(start + n)
        return bytes(self._bytes[start : start + n])

    def array(self, start: int, dtype: str, count: int) -> np.ndarray:
        self.has(start + count * np.dtype(dtype).itemsize)
        return np.frombuffer(self._bytes, dtype=dtype, count=count, offset=start).copy()

    def finish(self) -> None:
        """Decompress the rest, which checks the length and checksum at the end."""
        while not self._ended:
            self._more()

    def _more(self) -> None:
        data = self._pending or os.read(self._descriptor, self._chunk)
        self._pending = b""
        # Later reads are of pixels, where larger pieces are faster.
        self._chunk = 1 << 20
        if not data:
            self._ended = True
            if not self._decompress.eof:
                raise BadDataError("is a truncated gzip file", way_out=RECOPY)
            return
        try:
            if self._decompress.eof:
                # Several gzip members may follow each other; zeros behind them are padding.
                data = data.lstrip(b"\0")
                if not data:
                    return
                self._decompress = zlib.decompressobj(wbits=31)
            self._bytes += self._decompress.decompress(data)
        except zlib.error as error:
            raise BadDataError(f"is a corrupt gzip file: {error}", way_out=RECOPY) from error
        self._pending = self._decompress.unused_data


@dataclass(frozen=True)
class Hdu:
    """Where one HDU of a file is, and its header.

    Attributes
    ----------
    index, name
        Number in the file; EXTNAME (``PRIMARY`` for the first one without).
    header
        Its cards.
    shape
        Shape of its image, slowest axis first; empty when it has no pixels or is a table.
    is_compressed
        Whether the image is tile-compressed in a table.
    start, size
        Where its data begin, and how many bytes they are.
    """

    index: int
    name: str
    header: Header
    shape: tuple[int, ...]
    is_compressed: bool
    start: int
    size: int


class FitsFile:
    """A FITS file (plain, gzipped, tile-compressed) open for reading its images.

    Opening walks the headers of all HDUs and proves that their data are there. Use it as a
    context manager: nothing stays open or mapped afterwards.

    Parameters
    ----------
    path
        The file.
    headers_only
        Read no further than the first HDU that has data: for scanning.
    incomplete
        Do not raise when data or headers behind the first are missing: `truncated` tells.

    Raises
    ------
    BadDataError
        If it can not be opened, is no FITS file, or is truncated or corrupt.
    """

    def __init__(
        self, path: str | Path, *, headers_only: bool = False, incomplete: bool = False
    ) -> None:
        self.path = Path(path)
        self.truncated: str | None = None
        try:
            # Without O_NONBLOCK a named pipe would wait for its writer.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise BadDataError(f"can not be read: {error.strerror}", file=path) from error
        try:
            with _naming(self.path):
                self._source = self._open_source()
                self.hdus = self._walk(headers_only, incomplete)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def find(self, extension: str | int) -> Hdu | None:
        """The HDU of a number or an EXTNAME (any case; ``NAME,2`` for EXTVER 2), or None."""
        if isinstance(extension, int):
            return self.hdus[extension] if 0 <= extension < len(self.hdus) else None
        name, _, version = extension.partition(",")
        for hdu in self.hdus:
            if hdu.name.upper() == name.strip().upper() and (
                not version or str(hdu.header.get("EXTVER", 1)) == version.strip()
            ):
                return hdu
        return None

    def data(self, hdu: Hdu) -> np.ndarray:
        """The pixels of an HDU in native byte order, scaled as BSCALE and BZERO say.

        Unsigned integers written with BZERO come back unsigned; other scaling, or blank pixels
        (which become NaN), as floating point.

        Raises
        ------
        BadDataError
            If there are none or they are corrupt.
        """
        with _naming(self.path):
            if not hdu.shape:
                raise BadDataError(f"HDU {hdu.index} ({hdu.name}) has no image")
            if hdu.is_compressed:
                return self._compressed(hdu)
            dtype = _DTYPES[_integer(hdu.header, "BITPIX")]
            pixels = self._source.array(hdu.start, dtype, math.prod(hdu.shape))
            return _scaled(pixels, hdu.header).reshape(hdu.shape)

    def finish(self) -> None:
        """Check what can only be checked at the end: the checksum of a gzip file."""
        with _naming(self.path):
            self._source.finish()

    def _open_source(self) -> _PlainSource | _GzipSource:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise BadDataError("is no file")
        magic = os.pread(self._descriptor, 9, 0)
        if not magic:
            raise BadDataError("is empty", way_out=RECOPY)
        if magic[:2] == b"\x1f\x8b":
            return _GzipSource(self._descriptor)
        return _PlainSource(self._descriptor)

    def _walk(self, headers_only: bool, incomplete: bool) -> list[Hdu]:
        hdus: list[Hdu] = []
        position = 0
        while True:
            if headers_only and hdus and (hdus[-1].size or len(hdus) > 1):
                return hdus
            if hdus and not self._source.read(position, 8).startswith(b"XTENSION"):
                if not headers_only and self._source.read(position, BLOCK).strip(b"\0 "):
                    self._refuse_remainder(position)
                return hdus
            try:
                hdu = self._read_hdu(position, len(hdus))
            except BadDataError as error:
                if not (hdus and incomplete):
                    raise
                self.truncated = error.reason
                return hdus
            # A gzip file would have to be decompressed to know: left to whoever reads it.
            is_cheap = not headers_only or isinstance(self._source, _PlainSource)
            if is_cheap and not self._source.has(hdu.start + hdu.size):
                reason = f"is truncated: the data of HDU {hdu.index} should be {hdu.size} bytes"
                if not incomplete:
                    raise BadDataError(reason, way_out=RECOPY)
                self.truncated = reason
                return [*hdus, hdu]
            hdus.append(hdu)
            position = hdu.start + -(-hdu.size // BLOCK) * BLOCK

    def _refuse_remainder(self, position: int) -> None:
        """A block or more behind the last HDU: a header claims fewer or smaller pixels."""
        if self._source.has(position + BLOCK):
            raise BadDataError(
                "has bytes behind its last HDU: the header does not describe all of its data",
                key="BITPIX, NAXIS",
                way_out=RECOPY,
            )

    def _read_hdu(self, position: int, index: int) -> Hdu:
        block = self._source.read(position, BLOCK)
        if index == 0 and not block.startswith(b"SIMPLE  ="):
            raise BadDataError("is no FITS file", way_out="it should begin with SIMPLE = T")
        end = end_of_header(block)
        while end < 0:
            more = self._source.read(position + len(block), max(BLOCK, len(block)))
            if not more or len(block) > _MAX_HEADER:
                reason = f"the header of HDU {index} has no END"
                raise BadDataError(reason if more else f"is truncated: {reason}", way_out=RECOPY)
            searched = len(block) // 80 * 80
            block += more
            end = end_of_header(block, searched)
        header = Header(block[:end])
        compressed = header.get("ZIMAGE") is True
        is_image = index == 0 or header.get("XTENSION") in ("IMAGE", "IUEIMAGE")
        shape = _shape(header, "Z" if compressed else "") if is_image or compressed else ()
        if is_image and _integer(header, "BITPIX") not in _DTYPES:
            raise BadDataError(
                f"{header.get('BITPIX')!r} is no pixel type of FITS", key="BITPIX", way_out=RECOPY
            )
        name = str(header.get("EXTNAME") or ("PRIMARY" if index == 0 else "")).strip()
        return Hdu(index, name, header, shape, compressed, position + end, _data_size(header))

    def _compressed(self, hdu: Hdu) -> np.ndarray:
        with open_fits(self.path) as hdus:
            data = hdus[hdu.index].data
        if data is None or data.shape != hdu.shape:
            raise BadDataError(f"HDU {hdu.index} ({hdu.name}) does not decompress", way_out=RECOPY)
        return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors from below, and turn what remains into ours."""
    try:
        yield
    except BadDataError as error:
        if error.file is None:
            raise BadDataError(
                error.reason, file=path, key=error.key, way_out=error.way_out
            ) from error
        raise
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror or error}", file=path) from error


def _integer(header: Header, key: str) -> int:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadDataError(f"is {value!r}, not a whole number", key=key, way_out=RECOPY)
    return value


def _shape(header: Header, prefix: str) -> tuple[int, ...]:
    axes = _integer(header, f"{prefix}NAXIS")
    if not 0 <= axes <= 999:
        raise BadDataError(f"{axes} axes", key=f"{prefix}NAXIS")
    shape = tuple(_integer(header, f"{prefix}NAXIS{axis}") for axis in range(axes, 0, -1))
    if any(n < 0 for n in shape) or math.prod(shape) > _MAX_PIXELS:
        raise BadDataError(f"an image of {shape[::-1]} pixels makes no sense", key=f"{prefix}NAXIS")
    return () if 0 in shape else shape


def _data_size(header: Header) -> int:
    """Bytes of data by the standard's formula (section 4.4.1.2)."""
    axes = _integer(header, "NAXIS")
    n = [_integer(header, f"NAXIS{axis}") for axis in range(1, min(max(axes, 0), 999) + 1)]
    if not n or 0 in n:
        return 0
    parameters = _integer(header, "PCOUNT") if "PCOUNT" in header else 0
    groups = _integer(header, "GCOUNT") if "GCOUNT" in header else 1
    size = abs(_integer(header, "BITPIX")) // 8 * groups * (parameters + math.prod(n))
    if size < 0 or min(n) < 0:
        raise BadDataError("a negative size makes no sense", key="NAXIS", way_out=RECOPY)
    return size


def _number(header: Header, key: str, default: float) -> float:
    value = header.get(key, default)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    raise BadDataError(f"is {value!r}, not a number", key=key)


def _scaled(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Big-endian pixels to native ones, with BLANK, BSCALE and BZERO applied."""
    scale, zero = _number(header, "BSCALE", 1.0), _number(header, "BZERO", 0.0)
    if pixels.dtype.byteorder == ">":
        pixels = pixels.byteswap(inplace=True).view(pixels.dtype.newbyteorder("="))
    is_integer = pixels.dtype.kind in "iu"
    blank = header.get("BLANK") if is_integer else None
    blanks = pixels == blank if isinstance(blank, int) and pixels.dtype.itemsize < 8 else None
    if blanks is None or not blanks.any():
        if (scale, zero) == (1.0, 0.0):
            return pixels
        bits = 8 * pixels.dtype.itemsize
        if pixels.dtype.kind == "i" and scale == 1.0 and zero == float(1 << (bits - 1)):
            # Flipping the sign bit adds the offset.
            unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
            unsigned ^= unsigned.dtype.type(1 << (bits - 1))
            return unsigned
    is_wide = pixels.dtype.itemsize > 2 and pixels.dtype != np.float32
    values: np.ndarray = pixels.astype(np.float64 if is_wide else np.float32)
    np.multiply(values, scale, out=values)
    np.add(values, zero, out=values)
    if blanks is not None:
        values[blanks] = np.nan
    return values


def select_cards(hdus: list[Hdu], keys: Iterable[str]) -> dict[str, Value]:
    """Values of some keys, of those that exist.

    A key ``KEY`` is taken from the primary header, else from the first extension; ``HDU:KEY``
    from the HDU of that number or EXTNAME.
    """
    selected: dict[str, Value] = {}
    for key in keys:
        where, colon, name = key.rpartition(":")
        if colon:
            wanted = [hdu for hdu in hdus if where in (str(hdu.index), hdu.name)]
        else:
            wanted = hdus[:2]
        for hdu in wanted:
            value = hdu.header.get(name)
            if value is not None:
                selected[key] = value
                break
    return selected
