"""Whatever happens to a file of records, reading gives whole records only, and all of those."""

import errno
import os

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.store.recordfile import RecordReader, RecordWriter, read_records

entries = st.lists(
    st.tuples(
        st.sampled_from(["calibs", "calibrate", "", "größe"]),
        st.integers(0, 2**62),
        st.integers(1, 99),
        st.integers(0, 6),
        st.binary(max_size=300),
        st.binary(max_size=50),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def write(folder, given_entries, name="a.rec"):
    path = folder / name
    path.unlink(missing_ok=True)
    with RecordWriter(path, {"rank": 3}, group=1000) as writer:
        for entry in given_entries:
            writer.append(*entry)
    return path


def contents(records):
    return [(r.phase, r.task_id, r.attempt, r.kind, r.payload, r.meta) for r in records]


def is_subsequence(some, whole):
    rest = iter(whole)
    return all(entry in rest for entry in some)


@given(entries)
def test_round_trip(folder, given_entries):
    path = write(folder, given_entries)
    records, damage = read_records(path)
    assert contents(records) == given_entries
    assert damage == []
    with RecordReader(path) as reader:
        assert reader.attributes == {"rank": 3}


@given(entries, st.data())
def test_cut_anywhere(folder, given_entries, data):
    """All records before the cut are there, none after it."""
    path = write(folder, given_entries)
    whole, _ = read_records(path)
    size = path.stat().st_size
    cut = data.draw(st.integers(0, size))
    os.truncate(path, cut)
    records, damage = read_records(path)
    ends = [record.offset for record in whole[1:]] + [size]
    n_whole = sum(end <= cut for end in ends) if whole else 0
    assert contents(records) == contents(whole)[:n_whole]
    at_an_end = cut in ([whole[0].offset, *ends] if whole else [size])
    assert bool(damage) != at_an_end


@given(entries, st.data())
def test_flipped_bits(folder, given_entries, data):
    """A flipped bit costs at most the record it is in."""
    path = write(folder, given_entries)
    raw = bytearray(path.read_bytes())
    whole, _ = read_records(path)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    records, damage = read_records(path)
    in_header = not whole or place < whole[0].offset
    if in_header:
        assert records == [] and damage
    else:
        hit = max(i for i, record in enumerate(whole) if record.offset <= place)
        expected = contents(whole)
        del expected[hit]
        assert contents(records) == expected
        assert len(damage) == 1 and damage[0].offset <= place < sum(
            (damage[0].offset, damage[0].length)
        )


@given(entries, st.data())
def test_zeroed_pages_and_garbage(folder, given_entries, data):
    """A stretch that was overwritten costs the records in it; what is read is right."""
    path = write(folder, given_entries)
    raw = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(raw)))
    filler = data.draw(st.sampled_from([bytes(200), b"\xff" * 100]) | st.binary(max_size=300))
    raw[start : start + len(filler)] = filler
    path.write_bytes(raw)
    records, _ = read_records(path)
    assert is_subsequence(contents(records), given_entries)


@given(st.binary(max_size=2000))
def test_any_bytes(folder, garbage):
    path = folder / "garbage.rec"
    path.write_bytes(garbage)
    records, damage = read_records(path)
    assert records == []
    assert damage


@given(st.binary(max_size=100))
def test_appended_after_a_torn_record(folder, torn):
    """A record that was cut off does not hide those written after it."""
    path = write(folder, [("p", 1, 1, 0, bytes(1000), b"")])
    whole = path.read_bytes()
    middle = whole[: len(whole) - 500] + torn
    path.write_bytes(middle)
    # The same file goes on: same file number, so take later records from a twin of it.
    record = whole[read_records(path)[1][0].offset :]
    path.write_bytes(middle + record)
    records, damage = read_records(path)
    assert contents(records) == [("p", 1, 1, 0, bytes(1000), b"")]
    assert len(damage) == 1 and damage[0].reason in ("torn", "damaged body")


def test_record_of_another_file_is_refused(folder):
    """A payload that holds a whole record does not become one when its own record is damaged."""
    inner = write(folder, [("inner", 1, 1, 0, b"x", b"")], "inner.rec").read_bytes()
    path = write(folder, [("outer", 2, 1, 0, inner, b""), ("outer", 3, 1, 0, b"y", b"")])
    raw = bytearray(path.read_bytes())
    place = raw.index(b"outer")
    raw[place] ^= 1
    path.write_bytes(raw)
    records, damage = read_records(path)
    assert [record.task_id for record in records] == [3]
    assert len(damage) == 1


def test_growing_file(folder):
    """What is there can be read while the rank still writes."""
    path = folder / "growing.rec"
    with RecordWriter(path) as writer:
        for i in range(5):
            writer.append("p", i, 1, 0, b"x" * i)
            assert [record.task_id for record in read_records(path)[0]] == list(range(i + 1))


def test_existing_file_is_not_touched(folder):
    path = write(folder, [])
    with pytest.raises(OutputError, match="can not be created"):
        RecordWriter(path)


def test_full_disk_takes_the_record_back(folder, monkeypatch):
    """A record that does not fit leaves the file as it was; the next one may fit."""
    path = folder / "full.rec"
    path.unlink(missing_ok=True)
    writer = RecordWriter(path)
    writer.append("p", 1, 1, 0, b"first")
    real = os.writev
    calls = []

    def full(fd, parts):
        calls.append(1)
        if len(calls) == 1:
            return real(fd, [parts[0][:20]])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OutputError, match="No space left"):
        writer.append("p", 2, 1, 0, b"second")
    monkeypatch.undo()
    writer.append("p", 3, 1, 0, b"third")
    writer.close()
    records, damage = read_records(path)
    assert [record.task_id for record in records] == [1, 3] and not damage


def test_short_writes_are_completed(folder, monkeypatch):
    path = folder / "short.rec"
    path.unlink(missing_ok=True)
    real = os.writev

    def short(fd, parts):
        return os.write(fd, bytes(parts[0])[:7]) if len(parts[0]) > 7 else real(fd, parts[:1])

    monkeypatch.setattr(os, "writev", short)
    with RecordWriter(path, {"a": 1}) as writer:
        writer.append("p", 1, 1, 0, bytes(range(256)), b"meta")
    monkeypatch.undo()
    records, damage = read_records(path)
    assert contents(records) == [("p", 1, 1, 0, bytes(range(256)), b"meta")] and not damage


def heads(path):
    with RecordReader(path) as reader:
        return list(reader.heads()), reader.damage


@given(entries)
def test_heads_tell_what_records_do(folder, given_entries):
    path = write(folder, given_entries, "heads.rec")
    whole, _ = read_records(path)
    found, damage = heads(path)
    assert [(h.phase, h.task_id, h.attempt, h.kind, h.meta, h.offset) for h in found] == [
        (r.phase, r.task_id, r.attempt, r.kind, r.meta, r.offset) for r in whole
    ]
    assert [head.n_payload for head in found] == [len(record.payload) for record in whole]
    assert not damage


@given(entries, st.data())
def test_heads_of_a_damaged_file(folder, given_entries, data):
    """A flipped bit costs the head it is in; one in a payload is seen when that is read."""
    path = write(folder, given_entries, "heads.rec")
    raw = bytearray(path.read_bytes())
    whole, _ = read_records(path)
    first = whole[0].offset if whole else len(raw) - 1
    place = data.draw(st.integers(first, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    found, _ = heads(path)
    known = {(r.task_id, r.attempt, r.kind, r.meta, r.offset) for r in whole}
    assert {(h.task_id, h.attempt, h.kind, h.meta, h.offset) for h in found} <= known
    assert len(found) >= len(whole) - 1
    with RecordReader(path) as reader:
        readable = []
        for head in found:
            try:
                readable.append(reader.at(head.offset))
            except BadDataError:
                continue
    assert contents(readable) == contents(read_records(path)[0])


def test_heads_skip_large_payloads(folder):
    path = folder / "large.rec"
    path.unlink(missing_ok=True)
    sizes = [0, 10, 5_000_000, 3, 200_000, 0, 4096, 1 << 17]
    with RecordWriter(path) as writer:
        for number, size in enumerate(sizes):
            writer.append("p", number, 1, 0, bytes(size), b"m" * (number * 1000))
    found, damage = heads(path)
    assert [(head.task_id, head.n_payload, len(head.meta)) for head in found] == [
        (number, size, number * 1000) for number, size in enumerate(sizes)
    ]
    assert not damage
    with RecordReader(path) as reader:
        assert reader.head_at(found[3].offset) == found[3]
        with pytest.raises(BadDataError):
            reader.head_at(found[3].offset + 1)
