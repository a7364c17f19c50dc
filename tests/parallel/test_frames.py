"""Messages between MPI process and task process arrive whole, in pieces of any size."""

import socket
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mpipipe.parallel.frames import (
    Closed,
    Frame,
    FrameError,
    FrameKind,
    FrameReader,
    send_frame,
)

frames = st.builds(
    Frame,
    st.sampled_from(FrameKind),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=100),
    st.binary(max_size=1000),
    st.booleans(),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
    st.integers(0, 2**63 - 1),
)


@given(st.lists(frames, min_size=1, max_size=4), st.data())
def test_round_trip_in_any_pieces(sent, data):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = FrameReader(ours)
        stream = b"".join(frame.head() + frame.data for frame in sent)
        found = []
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            theirs.sendall(stream[:size])
            stream = stream[size:]
            while (frame := reader.read()) is not None:
                found.append(frame)
        assert found == sent


@given(st.binary(min_size=64, max_size=300))
def test_garbage_is_refused(garbage):
    """Whatever comes: a message, nothing yet, or a clear error; no huge allocation."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(garbage)
        with pytest.raises(FrameError):
            FrameReader(ours).read()


def test_large_payload():
    ours, theirs = socket.socketpair()
    payload = bytes(30_000_000)
    frame = Frame(FrameKind.REPORT, data=payload)
    with ours, theirs:
        sender = threading.Thread(target=send_frame, args=(theirs, frame))
        sender.start()
        found = FrameReader(ours).read()
        sender.join()
    assert found == frame


def test_end_is_noticed():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(Frame(FrameKind.RUN, 1).head()[:10])
        theirs.close()
        with pytest.raises(Closed):
            FrameReader(ours).read()
        with pytest.raises(Closed):
            send_frame(ours, Frame(FrameKind.RUN, 1, data=bytes(10_000_000)))
