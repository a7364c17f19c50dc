"""Hosts as network and process namespaces on one machine, for tests that lose nodes and links.

A host is one process, the init of namespaces of its own: network, names, processes, IPC, mounts.
Nothing has a name outside of them (no named network namespace, no link in the machine's own
network), so two beds never meet, and all of a host is gone when its init is. The hosts are joined
by a bridge, which lives in a nameless host of its own, the switch.

Init listens for commands on the host's own network, as a remote shell does: that is how mpirun
starts its daemons, and a link that is down cuts that off, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

REPO = Path(__file__).resolve().parents[1]
SWITCH, CONTROL = "switch", "ctl"
MOST_HOSTS = 100
PRIVATE = ("/tmp", "/dev/shm")
"""Folders that every host has for itself."""

_NETWORK = "10.213.0"
_PORT = 514
_READY_S = 20.0
_NEW_PID = 0x20000000
_NEW_REST = 0x20000 | 0x4000000 | 0x8000000 | 0x40000000  # mounts, names, IPC, network
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PROBE = (
    "ip link add v0 type veth peer name v1; ip link add b0 type bridge; mount -t tmpfs t /dev/shm"
)


class BedError(Exception):
    """What can not be done, in words for the user."""


def why_not() -> str:
    """Why there can be no bed here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces and links"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"needs the program {program} (Debian package {package})"
    probe = ["unshare", "-m", "-u", "-i", "-n", "-p", "-f", "sh", "-ec", _PROBE]
    done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        return f"namespaces are not allowed here: {done.stderr.decode().strip()}"
    return ""


def default_state() -> Path:
    """Where a bed is noted down if nobody says otherwise."""
    return Path(tempfile.gettempdir()) / "mpipipe-bed"


def address(host: str) -> str:
    """The address of a host."""
    return f"{_NETWORK}.{200 if host == CONTROL else int(host.removeprefix('n'))}"


class Bed:
    """The hosts ctl and n1, n2, ... of one state folder.

    Parameters
    ----------
    state
        Folder in which the bed is noted down; made by `up`, removed by `down`.
    """

    def __init__(self, state: Path) -> None:
        self.state = state.absolute()
        self._tie: tuple[int, int] | None = None

    # -- all of it ---------------------------------------------------------------------------------

    def up(self, n_hosts: int, share: Sequence[Path] = (), *, tied: bool = False) -> None:
        """Start the hosts; leaves nothing if one fails.

        Parameters
        ----------
        n_hosts
            How many beside ctl.
        share
            Folders that all hosts see, beside this repository and Python's environment.
        tied
            Whether all hosts die with this process, however it ends.

        Raises
        ------
        BedError
            If there is such a bed, or it can not be made.
        """
        if reason := why_not():
            raise BedError(reason)
        if not 1 <= n_hosts <= MOST_HOSTS:
            raise BedError(f"the number of hosts is 1 to {MOST_HOSTS}, not {n_hosts}")
        for folder in share:
            if not folder.is_dir():
                raise BedError(f"{folder} is no folder that could be shared")
        try:
            self.state.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            text = f"{self.state} exists: a bed is up there, or was; 'down' removes it"
            raise BedError(text) from None
        hosts = [CONTROL, *(f"n{i}" for i in range(1, n_hosts + 1))]
        folders = [str(path.resolve()) for path in (REPO, Path(sys.prefix), *share)]
        (self.state / "bed.json").write_text(json.dumps({"hosts": hosts, "share": folders}))
        lines = ["127.0.0.1 localhost", *(f"{address(host)} {host}" for host in hosts)]
        (self.state / "hosts").write_text("\n".join(lines) + "\n")
        if tied:
            self._tie = os.pipe()
        try:
            self._start(SWITCH)
            self._ip(SWITCH, "link", "add", "br0", "type", "bridge")
            self._ip(SWITCH, "link", "set", "br0", "up")
            for host in hosts:
                self.boot(host)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End everything, whatever state it is in.

        Raises
        ------
        BedError
            If the state folder is not one of a bed.
        """
        if not self.state.exists():
            return
        if not (self.state / "bed.json").exists():
            raise BedError(f"{self.state} is not the state folder of a bed")
        for host in [*self.hosts(), SWITCH]:
            self.crash(host)
        for end in self._tie or ():
            os.close(end)
        self._tie = None
        shutil.rmtree(self.state)

    def hosts(self) -> list[str]:
        """Names of the hosts, dead or alive."""
        return list(self._content()["hosts"])

    def status(self) -> list[str]:
        """A line for each host."""
        found = []
        for host in self.hosts():
            if self.init_of(host) is None:
                found.append(f"{host:<5} {address(host):<13} dead")
                continue
            link = "up" if self.is_linked(host) else "down"
            n_processes = len(self.processes(host))
            found.append(
                f"{host:<5} {address(host):<13} alive  link {link}  {n_processes} processes"
            )
        return found

    # -- one host ----------------------------------------------------------------------------------

    def boot(self, host: str) -> None:
        """Start a host that is dead, with its link up.

        Raises
        ------
        BedError
            If it lives, or does not start.
        """
        self._check(host)
        if self.init_of(host) is not None:
            raise BedError(f"{host} is up")
        pid = self._start(host)
        try:
            self._plug(host, pid)
        except BaseException:
            self.crash(host)
            raise

    def crash(self, host: str) -> None:
        """End all processes of a host at once; their peers are told by the network."""
        pid = self.init_of(host)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)  # of an init: ends every process of its namespace
            while self.init_of(host) is not None:
                time.sleep(0.01)

    def poweroff(self, host: str) -> None:
        """Cut the link of a host, then end its processes; their peers hear nothing."""
        self.link(host, up=False)
        self.crash(host)

    def link(self, host: str, *, up: bool) -> None:
        """Plug the cable of a host in or out; its processes live on.

        Raises
        ------
        BedError
            If the host is dead.
        """
        self.need(host)
        self._ip(SWITCH, "link", "set", f"to-{host}", "up" if up else "down")

    def is_linked(self, host: str) -> bool:
        """Whether the cable of a host is in."""
        shown = json.loads(self._ip(SWITCH, "-json", "link", "show", f"to-{host}"))
        return "UP" in shown[0]["flags"]

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        """The command that runs `words` on a host, as from its console: needs no network.

        It starts in the present folder if the host sees that.

        Raises
        ------
        BedError
            If the host is dead.
        """
        enter = ["nsenter", "-t", str(self.need(host)), "-m", "-u", "-i", "-n", "-p"]
        move = 'cd "$1" 2>/dev/null || cd /; shift; exec "$@"'
        return [*enter, "--", "sh", "-c", move, "sh", os.getcwd(), *words]

    def processes(self, host: str) -> list[int]:
        """Numbers of the processes of a host, as seen from outside; its init is the first."""
        init = self.init_of(host)
        if init is None:
            return []
        space = os.readlink(f"/proc/{init}/ns/pid")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns" / "pid") == space and int(process.name) != init:
                    found.append(int(process.name))
        return [init, *sorted(found)]

    def signal(self, host: str, number: int) -> int:
        """Send a signal to all processes of a host but its init; how many there were."""
        found = self.processes(host)[1:]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(found)

    def need(self, host: str) -> int:
        """The init of a host that lives."""
        self._check(host)
        pid = self.init_of(host)
        if pid is None:
            raise BedError(f"{host} is dead; 'boot {host}' starts it")
        return pid

    def init_of(self, host: str) -> int | None:
        """The init of a host; None if it is dead."""
        try:
            pid, started = (self.state / f"{host}.pid").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == int(started) else None

    # -- inside ------------------------------------------------------------------------------------

    def _content(self) -> dict[str, list[str]]:
        try:
            found: dict[str, list[str]] = json.loads((self.state / "bed.json").read_text())
        except OSError:
            text = f"no bed is up in {self.state}; 'up N' makes one, --state names another folder"
            raise BedError(text) from None
        return found

    def _check(self, host: str) -> None:
        if host not in self.hosts():
            raise BedError(f"there is no host {host!r}; there are {', '.join(self.hosts())}")

    def _plug(self, host: str, pid: int) -> None:
        """Give a host that has just started its card, and put that on the switch."""
        with contextlib.suppress(BedError):  # the kernel takes its time with links of the dead
            self._ip(SWITCH, "link", "del", f"to-{host}")
        # As in a real host the card keeps its address: peers remember it.
        card = f"02:00:00:00:00:{int(address(host).rpartition('.')[2]):02x}"
        veth = ("type", "veth", "peer", "name", "eth0", "address", card, "netns", str(pid))
        self._ip(SWITCH, "link", "add", f"to-{host}", *veth)
        self._ip(SWITCH, "link", "set", f"to-{host}", "master", "br0", "up")
        self._ip(host, "addr", "add", f"{address(host)}/24", "dev", "eth0")
        self._ip(host, "link", "set", "eth0", "up")

    def _ip(self, host: str, *words: str) -> str:
        """Run ip(8) in the network of a host."""
        command = ["nsenter", "-t", str(self.init_of(host)), "-n", "ip", *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BedError(f"ip {' '.join(words)}, on {host}: {done.stderr.strip()}")
        return done.stdout

    def _start(self, host: str) -> int:
        """Start the init of a host and wait until it listens; its number.

        Of a tied bed it reads from a pipe that is closed when this process ends.
        """
        ready = self.state / f"{host}.ready"
        ready.unlink(missing_ok=True)
        path = self.state / f"{host}.log"
        with open(path, "ab") as log:
            subprocess.run(
                [sys.executable, str(Path(__file__)), "init", str(self.state), host],
                stdin=self._tie[0] if self._tie else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_plain_environment(),
                start_new_session=True,
                check=False,
            )
        limit = time.monotonic() + _READY_S
        while not ready.exists():
            if self.init_of(host) is None or time.monotonic() > limit:
                raise BedError(f"{host} does not start: {path.read_text()[-1000:]}")
            time.sleep(0.02)
        pid = self.init_of(host)
        if pid is None:
            raise BedError(f"{host} does not start: {path.read_text()[-1000:]}")
        return pid


def _started(pid: int) -> int | None:
    """When a living process was started, in ticks since the boot; None if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _plain_environment() -> dict[str, str]:
    """What a host begins with: nothing of the environment in which it was started but the home."""
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = f"{Path(sys.executable).parent}:{usual}"
    return {"PATH": path, "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C.UTF-8"}


# -- init: what runs as process 1 of a host --------------------------------------------------------


def be_init(state: Path, host: str) -> None:
    """Make the namespaces, leave a process in them that serves the host, note it down, return."""
    libc = ctypes.CDLL(None, use_errno=True)
    _unshare(libc, _NEW_PID)  # takes effect with the next child, which is process 1 there
    noted, note = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(note)
        if not os.read(noted, 1):
            os._exit(1)  # nobody knows of this host: nobody could end it
        _unshare(libc, _NEW_REST)
        _serve(state, host, libc)
    (state / f"{host}.pid").write_text(f"{pid} {_started(pid)}")
    os.write(note, b"+")


def _unshare(libc: ctypes.CDLL, kinds: int) -> None:
    if libc.unshare(kinds):
        raise OSError(ctypes.get_errno(), "namespaces can not be made")


def _serve(state: Path, host: str, libc: ctypes.CDLL) -> NoReturn:
    """The life of a host."""
    socket.sethostname(host)
    content = json.loads((state / "bed.json").read_text())
    noted = _mount_all(libc, state, [] if host == SWITCH else content["share"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    listening = socket.create_server(("", _PORT), backlog=100)
    Path(f"/proc/self/fd/{noted}/{host}.ready").touch()
    os.close(noted)
    tied = not os.path.samestat(os.fstat(0), os.stat(os.devnull))
    watched = [listening.fileno(), *([0] if tied else [])]
    while True:
        for found in select.select(watched, [], [], 0.5)[0]:
            if found == 0:
                os._exit(0)  # and with it all processes of the host
            connection, _ = listening.accept()
            if not os.fork():
                listening.close()
                _answer(connection)
            connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _mount_all(libc: ctypes.CDLL, state: Path, share: Sequence[str]) -> int:
    """Own process table, empty private folders, shared ones where they were.

    Gives a descriptor of the state folder, which may not be seen any more.
    """

    def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        words = (source.encode(), target.encode(), kind.encode())
        if libc.mount(*words, ctypes.c_ulong(flags), options.encode()):
            raise OSError(ctypes.get_errno(), f"mount {source} on {target}")

    mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    mount("proc", "/proc", "proc", 0)
    noted = os.open(state, os.O_RDONLY)
    opened = {folder: os.open(folder, os.O_PATH) for folder in share}
    mount(str(state / "hosts"), "/etc/hosts", "none", _MS_BIND)
    for folder in PRIVATE:
        mount("tmpfs", folder, "tmpfs", 0, "mode=1777")
    for folder, descriptor in opened.items():
        if folder.startswith(tuple(f"{private}/" for private in PRIVATE)):
            os.makedirs(folder, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", folder, "none", _MS_BIND | _MS_REC)
        os.close(descriptor)
    return noted


def _answer(connection: socket.socket) -> NoReturn:
    """Run the command that a connection brings, with its output; last of all say how it ended."""
    os.setsid()
    with connection.makefile("r") as lines:
        command = json.loads(lines.readline())
    stream = connection.fileno()
    done = subprocess.run(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False
    )
    connection.sendall(b"\0%d\n" % done.returncode)
    connection.shutdown(socket.SHUT_RDWR)
    os._exit(0)


# -- the remote shell ------------------------------------------------------------------------------


def agent_command() -> str:
    """The remote shell, for mpirun's option plm_ssh_agent."""
    return f"{sys.executable} {Path(__file__)} agent"


def be_agent(host: str, words: Sequence[str]) -> int:
    """Run a command on another host, over the network; its exit code, 255 if it is not reached."""
    try:
        with socket.create_connection((host, _PORT), timeout=10) as connection:
            connection.settimeout(None)
            connection.sendall(json.dumps(" ".join(words)).encode() + b"\n")
            return _relay(_received(connection))
    except OSError as error:
        print(f"{host}: {error.strerror or error}", file=sys.stderr)
        return 255


def _received(connection: socket.socket) -> Iterator[bytes]:
    while data := connection.recv(1 << 16):
        yield data


def _relay(received: Iterator[bytes]) -> int:
    """Copy output up to the zero byte; the number after it."""
    end = b""  # from the zero byte on
    for data in received:
        if not end:
            output, zero, rest = data.partition(b"\0")
            sys.stdout.buffer.write(output)
            sys.stdout.buffer.flush()
            data = zero + rest
        end += data
        if end.endswith(b"\n"):
            return int(end[1:])
    print("the connection was lost", file=sys.stderr)
    return 255


if __name__ == "__main__":
    if sys.argv[1] == "init":
        be_init(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(be_agent(sys.argv[2], sys.argv[3:]))
