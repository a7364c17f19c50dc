"""Arrays and tables as bytes: what tasks hand over and records hold.

Layout: magic, length of the JSON header (8 bytes), header, zeros up to a multiple of 64, then each
array's bytes, each beginning at a multiple of 64. The header names every array with its dtype,
shape and place, and carries attributes. Same values give same bytes. Only plain kinds of dtype
are written and accepted, so reading can not run anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from mmap import mmap
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError

_MAGIC = b"MPCOL1\r\n"
_LENGTH = struct.Struct("<8sQ")
_ALIGN = 64
_KINDS = frozenset("biufcSU")
_MAX_HEADER = 1 << 26
_MAX_DIMENSIONS = 8


def encode_columns(
    arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None
) -> bytes:
    """Make bytes of named arrays.

    Parameters
    ----------
    arrays
        Arrays of any shape; structured ones (tables) may have fields with a shape, but no fields
        within fields.
    attributes
        What JSON can say.

    Raises
    ------
    TypeError
        If a dtype is not plain: objects, times, unions.
    """
    return b"".join(column_parts(arrays, attributes))


def column_parts(
    arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None
) -> list[Any]:
    """The buffers that `encode_columns` joins."""
    entries: list[dict[str, Any]] = []
    buffers: list[Any] = []
    offset = 0
    for name, array in arrays.items():
        packed = _packed(name, np.asarray(array))
        padding = -offset % _ALIGN
        buffers += [bytes(padding), packed.reshape(-1).view(np.uint8).data]
        entries.append(
            {
                "name": name,
                "dtype": _describe(packed.dtype),
                "shape": packed.shape,
                "offset": offset + padding,
            }
        )
        offset += padding + packed.nbytes
    header = {"arrays": entries, "attributes": dict(attributes or {})}
    text = json.dumps(header, separators=(",", ":"), allow_nan=True).encode("ascii")
    head = _LENGTH.pack(_MAGIC, len(text)) + text
    return [head, bytes(-len(head) % _ALIGN), *buffers]


def decode_columns(data: bytes | mmap) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays (read-only views of `data`) and attributes that `encode_columns` was given.

    Raises
    ------
    BadDataError
        If the bytes are not such a thing.
    """
    try:
        magic, length = _LENGTH.unpack_from(data)
        if magic != _MAGIC or length > min(len(data), _MAX_HEADER):
            raise ValueError("it does not begin like one")
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        start = -(-(_LENGTH.size + length) // _ALIGN) * _ALIGN
        arrays = {
            str(entry["name"]): _array(data, start + int(entry["offset"]), entry)
            for entry in header["arrays"]
        }
        return arrays, dict(header["attributes"])
    except (
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        SyntaxError,
    ) as error:
        raise BadDataError(f"this is no block of columns: {error}") from error


def _array(data: bytes | mmap, offset: int, entry: Mapping[str, Any]) -> np.ndarray:
    """One array out of the bytes."""
    dtype = _dtype(entry["dtype"])
    shape = _shape(entry["shape"])
    count = 1
    for size in shape:
        count *= size
    if count == 0 or dtype.itemsize == 0:
        return np.zeros(shape, dtype=dtype)
    if offset < 0 or offset + count * dtype.itemsize > len(data):
        raise ValueError("an array reaches beyond the end")
    return np.frombuffer(data, dtype=dtype, count=count, offset=offset).reshape(shape)


def _packed(name: str, array: np.ndarray) -> np.ndarray:
    """The array in C order, little-endian, without gaps between fields."""
    dtype = array.dtype
    if dtype.names is not None:
        fields = [(field, *_plain(name, dtype[field])) for field in dtype.names]
        packed = np.empty(array.shape, dtype=np.dtype(fields))
        for field in dtype.names:
            packed[field] = array[field]
        return packed
    return np.ascontiguousarray(array, dtype=_plain(name, dtype)[0]).reshape(array.shape)


def _plain(name: str, dtype: np.dtype) -> tuple[np.dtype, tuple[int, ...]]:
    """Little-endian element dtype and shape of a field."""
    base, shape = dtype.subdtype or (dtype, ())
    if base.kind not in _KINDS:
        raise TypeError(f"array {name!r} has dtype {base}, which can not be written")
    return base.newbyteorder("<"), tuple(shape)


def _describe(dtype: np.dtype) -> str | list[list[Any]]:
    """A dtype for JSON."""
    if dtype.names is None:
        return dtype.str
    found = []
    for field in dtype.names:
        base, shape = dtype[field].subdtype or (dtype[field], ())
        found.append([field, base.str, list(shape)])
    return found


def _dtype(description: Any) -> np.dtype:
    """The dtype that `_describe` wrote; anything else is refused."""
    if isinstance(description, str):
        return _element(description)
    return np.dtype(
        [(str(field), _element(text), _shape(shape)) for field, text, shape in description]
    )


def _element(text: Any) -> np.dtype:
    if not (isinstance(text, str) and len(text) <= 12 and text[:1] in "<|" and text[1:2] in _KINDS):
        raise ValueError(f"dtype {text!r} is not accepted")
    if not text[2:].isdecimal():
        raise ValueError(f"dtype {text!r} is not accepted")
    return np.dtype(text)


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or len(sizes) > _MAX_DIMENSIONS:
        raise ValueError("a shape is not accepted")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in sizes):
        raise ValueError("a shape is not accepted")
    return tuple(sizes)
