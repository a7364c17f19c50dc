"""Arrays come back as they were; damaged bytes are refused, and nothing is ever run."""

import contextlib
import time

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mpipipe.data.errors import BadDataError
from mpipipe.store.columns import decode_columns, encode_columns

plain = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.complex_number_dtypes(),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(min_len=1),
).filter(lambda dtype: dtype.itemsize <= 64)
tables = st.lists(plain, min_size=1, max_size=4).map(
    lambda dtypes: np.dtype([(f"c{i}", dtype) for i, dtype in enumerate(dtypes)], align=True)
)
arrays = (plain | tables).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3))
)


def same(found, given_array):
    assert found.shape == given_array.shape
    names = given_array.dtype.names
    for name in names or [None]:
        left = found if name is None else found[name]
        right = given_array if name is None else given_array[name]
        assert left.dtype == right.dtype.newbyteorder("<")
        np.testing.assert_array_equal(left, right)


@given(st.dictionaries(st.text(max_size=10), arrays, max_size=4))
def test_round_trip(given_arrays):
    data = encode_columns(given_arrays, {"task": 7, "names": ["ä", None]})
    found, attributes = decode_columns(data)
    assert list(found) == list(given_arrays)
    for name, array in given_arrays.items():
        same(found[name], array)
    assert attributes == {"task": 7, "names": ["ä", None]}
    assert encode_columns(found, attributes) == data, "same values, same bytes"


def test_fields_with_a_shape():
    rows = np.zeros(5, dtype=[("id", "i8"), ("cov", "f4", (2, 2))])
    rows["cov"] = np.arange(20).reshape(5, 2, 2)
    found, _ = decode_columns(encode_columns({"rows": rows}))
    assert found["rows"].dtype == rows.dtype
    np.testing.assert_array_equal(found["rows"], rows)


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["2010-01-01"], dtype="M8[D]"),
        np.zeros(2, dtype=[("a", [("b", "f4")])]),
        np.zeros(2, dtype=[("a", "O")]),
        np.zeros(2, dtype="V4"),
    ],
)
def test_other_dtypes_are_refused(array):
    with pytest.raises(TypeError, match="can not be written"):
        encode_columns({"x": array})


@given(st.dictionaries(st.text(max_size=5), arrays, max_size=3), st.data())
def test_damage_never_crashes(given_arrays, data):
    """Cut or flipped: values of some kind or BadDataError, nothing else."""
    raw = bytearray(encode_columns(given_arrays))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    with contextlib.suppress(BadDataError):
        decode_columns(bytes(raw))


@given(st.binary(max_size=300))
def test_any_bytes(garbage):
    with pytest.raises(BadDataError):
        decode_columns(garbage)


@pytest.mark.parametrize(
    "dtype", ["|O8", "O", "<M8[s]", "|V8", "<f8,<f8", "f8", "<f3", "", "<f99999999999999", 3]
)
def test_dtypes_off_the_list(dtype):
    """A header that asks for anything else than plain numbers and text is refused."""
    data = encode_columns({"x": np.zeros(4)})
    wanted = f'"dtype":"{dtype}"' if isinstance(dtype, str) else f'"dtype":{dtype}'
    bad = data.replace(b'"dtype":"<f8"', wanted.encode())
    # The length of the header stands before it.
    grown = len(bad) - len(data)
    size = int.from_bytes(data[8:16], "little") + grown
    with pytest.raises(BadDataError):
        decode_columns(bad[:8] + size.to_bytes(8, "little") + bad[16:])


def test_huge_shape_is_refused():
    data = encode_columns({"x": np.zeros(4)})
    with pytest.raises(BadDataError, match="beyond the end"):
        decode_columns(data.replace(b'"shape":[4]', b'"shape":[9]'))


def test_cost():
    """A megabyte of columns takes milliseconds at most."""
    rows = {f"c{i}": np.arange(2500.0) for i in range(50)}
    begin = time.process_time()
    for _ in range(10):
        decode_columns(encode_columns(rows))
    assert (time.process_time() - begin) / 10 < 0.02
