"""One thread a rank; being asked to stop."""

import os
import signal

import pytest

from mpipipe.parallel.signals import listen_for_stop
from mpipipe.parallel.threads import THREAD_KEYS, limit_threads


def test_threads_are_limited_where_nobody_has():
    environ = {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "1"}
    warnings = limit_threads(environ)
    assert environ["OMP_NUM_THREADS"] == "8", "somebody's own setting stays"
    assert all(environ[key] == "1" for key in THREAD_KEYS if key != "OMP_NUM_THREADS")
    assert len(warnings) == 1 and "OMP_NUM_THREADS=8" in warnings[0]
    assert limit_threads({}) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_requests(number):
    before = signal.getsignal(number)
    with listen_for_stop() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked and not stop.at_once and stop.signal == number
        with listen_for_stop() as inner:
            assert inner is stop
        os.kill(os.getpid(), number)
        assert stop.at_once
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
