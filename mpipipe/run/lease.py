"""Who works on a run: a lease in its folder, so that nobody starts it a second time meanwhile.

A courtesy to people. What protects the data is that every incarnation writes files of its own and
that images are written aside and renamed.

The lease names the processes of all ranks. On their own host they are looked up; whether those on
other hosts live is told by the heartbeat in the run folder, by the clock of its file system.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.errors import BadDataError, ConfigError, OutputError
from mpipipe.parallel.watch import Peer, introduce, state_of
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.layout import RunLayout

SILENT_S = 30.0
"""After so many seconds without a heartbeat ranks on other hosts count as dead."""

_LOOK_EVERY_S = 1.0
_MOST_TRIALS = 10


@dataclass(frozen=True)
class Holder:
    """What a lease says.

    Attributes
    ----------
    id
        Of the start of ranks that holds it.
    boot
        Of the host of its rank 0: processes of another boot are dead.
    peers
        The processes.
    """

    id: str
    user: str
    boot: str
    peers: tuple[Peer, ...]


def take(
    layout: RunLayout,
    holder_id: str,
    peers: Sequence[Peer],
    say: Callable[[str], object] = lambda text: None,
) -> None:
    """Take the lease of a run, or take it over from one that has died.

    Parameters
    ----------
    holder_id
        Names this start of the ranks; who holds the lease under that name already keeps it.
    peers
        The processes of all ranks.
    say
        Told when a sign of life on other hosts has to be waited for.

    Raises
    ------
    ConfigError
        If somebody works on the run.
    OutputError
        If the folder can not be written.
    """
    for _ in range(_MOST_TRIALS):
        held = read(layout.lease)
        if held is not None:
            if held.id == holder_id:
                return
            _refuse_if_alive(layout, held, say)
            if not _push_aside(layout, held):
                continue
        if _put(layout, Holder(holder_id, os.environ.get("USER", ""), boot_id(), tuple(peers))):
            return
    raise ConfigError("others start this run at the same time", file=layout.root)


def release(layout: RunLayout, holder_id: str) -> None:
    """Give the lease back, if it is ours."""
    held = read(layout.lease)
    if held is not None and held.id == holder_id:
        with contextlib.suppress(OSError):
            layout.lease.unlink()


def is_held_by(layout: RunLayout, holder_id: str) -> bool:
    """Whether the start of ranks of that name holds the lease."""
    held = read(layout.lease)
    return held is not None and held.id == holder_id


def read(path: Path) -> Holder | None:
    """What a lease says; None if there is none. A damaged one is nobody's."""
    try:
        found = read_json(path)
        peers = (Peer(str(h), int(p), int(s), str(n)) for h, p, s, n in found["peers"])
        return Holder(str(found["id"]), str(found["user"]), str(found["boot"]), tuple(peers))
    except (BadDataError, KeyError, TypeError, ValueError):
        return None if not path.exists() else Holder("", "", "", ())


def myself() -> Peer:
    """This process, for a run without MPI."""
    return introduce(os.uname().nodename, os.getpid())


def boot_id() -> str:
    """Names the time since this host was started; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# -- is it alive ----------------------------------------------------------------------------------


def _refuse_if_alive(layout: RunLayout, held: Holder, say: Callable[[str], object]) -> None:
    me = myself()
    here = [peer for peer in held.peers if peer.is_beside(me)]
    rebooted = bool(here) and held.peers[0] in here and held.boot not in ("", boot_id())
    for peer in here:
        if not rebooted and state_of(peer):
            _refuse(layout, held, f"process {peer.pid} on {peer.host} works on it")
    if len(here) < len(held.peers) and (sign := _sign_of_life(layout, say)):
        # In the order of ranks: it is the first one that lives of which the sign comes.
        elsewhere = [h for h in dict.fromkeys(peer.host for peer in held.peers) if h != me.host]
        _refuse(layout, held, f"{sign} from {' or '.join(elsewhere[:3]) or 'another container'}")


def _refuse(layout: RunLayout, held: Holder, why: str) -> None:
    of = f" of {held.user}" if held.user else ""
    raise ConfigError(
        f"this run goes on{of}: {why}",
        file=layout.root,
        way_out=f"mpipipe status {layout.root} shows it, mpipipe stop ends it",
    )


def _sign_of_life(layout: RunLayout, say: Callable[[str], object]) -> str:
    """Look for a heartbeat, as long as there may be one; empty if there is none."""
    first = _beat_of(layout)
    told = False
    while first is not None:
        now = _beat_of(layout)
        if now is None or now != first:
            return "" if now is None else "signs of life come"
        silent_s = _time_of_file_system(layout) - first
        if silent_s > SILENT_S:
            return ""
        if not told:
            told = True
            left_s = SILENT_S - silent_s
            say(f"{layout.root}: last sign of life {silent_s:.0f} s ago; waiting {left_s:.0f} s")
        time.sleep(_LOOK_EVERY_S)
    return ""


def _beat_of(layout: RunLayout) -> float | None:
    try:
        return layout.heartbeat.stat().st_mtime
    except OSError:
        return None


def _time_of_file_system(layout: RunLayout) -> float:
    """Now, by the clock that stamps files there."""
    try:
        with tempfile.NamedTemporaryFile(dir=layout.root, prefix=".now-") as file:
            return os.stat(file.name).st_mtime
    except OSError:
        return time.time()


# -- the file -------------------------------------------------------------------------------------


def _put(layout: RunLayout, holder: Holder) -> bool:
    """Write the lease if there is none; a link is made by one of several, on NFS too."""
    aside = layout.root / f".lease-{secrets.token_hex(8)}"
    peers = [[peer.host, peer.pid, peer.started, peer.namespace] for peer in holder.peers]
    content = {"id": holder.id, "user": holder.user, "boot": holder.boot, "peers": peers}
    write_json_atomically(aside, content)
    try:
        os.link(aside, layout.lease)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(f"can not be made: {error.strerror}", file=layout.lease) from error
    finally:
        aside.unlink(missing_ok=True)


def _push_aside(layout: RunLayout, dead: Holder) -> bool:
    """Remove the lease of the dead, unless somebody else has taken it over meanwhile."""
    aside = layout.root / f".lease-{secrets.token_hex(8)}"
    try:
        os.rename(layout.lease, aside)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise OutputError(f"can not be removed: {error.strerror}", file=layout.lease) from error
    moved = read(aside)
    if moved is not None and moved.id != dead.id:
        with contextlib.suppress(FileExistsError):
            os.link(aside, layout.lease)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink(missing_ok=True)
    return True
