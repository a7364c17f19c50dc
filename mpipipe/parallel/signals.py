"""Being asked to stop: Ctrl-C, SIGTERM, SIGUSR1 (what Slurm sends before the time limit), or by
something that a run looks at once in a while (`StopRequest.poll`)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """How often, and by which signal, this process was asked to stop.

    Attributes
    ----------
    poll
        Tells whether somebody asks in another way: 0 no, 1 stop, 2 at once. It is called in every
        round of a phase's loop, so it has to see to it that this costs nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self.signal: int | None = None
        self.poll: Callable[[], int] | None = None

    @property
    def level(self) -> int:
        """How urgent it is: 0, 1 (what runs may finish), 2 (at once)."""
        polled = 0 if self.poll is None else self.poll()
        return min(max(self.count, polled), 2)

    @property
    def asked(self) -> bool:
        """Hand out nothing more; what runs may finish."""
        return self.level >= 1

    @property
    def at_once(self) -> bool:
        """Asked again: drop what runs, too."""
        return self.level >= 2

    def ask(self, signal_number: int | None = None) -> None:
        """Ask to stop; asking twice means at once."""
        self.count += 1
        self.signal = signal_number


_listening: StopRequest | None = None


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `KeyboardInterrupt` inside, so that what was started is ended.

    Who ignores them (nohup) goes on doing so. For the main thread.
    """
    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Turn stop signals into a `StopRequest` while inside; nested calls share one.

    Outside the main thread no signal can be caught; the request is then only a value.
    """
    global _listening
    if _listening is not None:
        yield _listening
        return
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.ask(number)
        if request.count > 2:  # whoever should have looked at the request does not
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS if in_main}
    _listening = request
    try:
        yield request
    finally:
        _listening = None
        for number, handler in before.items():
            signal.signal(number, handler)
