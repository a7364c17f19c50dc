"""Wakes ranks of the same host that sleep while a message comes for them.

MPI has no way to sleep until a message is there, so a rank has to look again and again, and each
look costs 0.2 ms of a core that its task process wants. On one host a byte through a Unix datagram
socket does better: whoever sends a message rings, and the receiver sleeps until then. Between
hosts, and where such sockets are not to be had, ranks go on looking.

A ring says nothing but "look now", so it does no harm that anybody on the host may give one.
"""

from __future__ import annotations

import contextlib
import socket

from mpipipe.parallel.watch import Peer


def _address(peer: Peer) -> bytes:
    """The name of a rank's bell: abstract, so that nothing is left on disk."""
    return f"\0mpipipe-bell/{peer.pid}/{peer.started}/{peer.namespace}".encode()


class Doorbell:
    """The bell of one rank, by which it also rings those of others.

    Parameters
    ----------
    me
        This rank.
    """

    def __init__(self, me: Peer) -> None:
        self._me = me
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):  # no such sockets here
            bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            bell.setblocking(False)
            try:
                bell.bind(_address(me))
                self._socket = bell
            except OSError:
                bell.close()

    def fileno(self) -> int:
        """What to wait for; -1 if there is no bell."""
        return -1 if self._socket is None else self._socket.fileno()

    def ring(self, peer: Peer) -> bool:
        """Wake another rank; whether its bell is there."""
        if self._socket is None or not peer.is_beside(self._me):
            return False
        try:
            self._socket.sendto(b"\0", _address(peer))
        except BlockingIOError:
            return True  # it was rung often enough
        except OSError:
            return False
        return True

    def clear(self) -> None:
        """Forget what has rung so far; look for messages after that, not before."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                while True:
                    self._socket.recv(1)

    def close(self) -> None:
        """Be woken no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
