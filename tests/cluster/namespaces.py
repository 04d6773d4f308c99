"""Machines of their own on this one: namespaces of network, processes and names each, with a home and an /etc/hosts, on
one switch.

A link is cut as a cable is pulled: what is sent is lost, and nobody is told. A machine that loses its power sends
nothing any more, so its link is cut before its processes are killed. None sees another's processes: Ray looks for heads
among them. Files and the clock are shared: a store on this disk is a shared file system to them.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.core.provenance import PROJECT_ROOT
from tests.cluster.local_cluster import CTL, environment, run

SUBNET = "10.213.77"  # of each network, which no other can see
HEAD_PORT = 6379
NAMES = Path("/etc/netns")  # where `ip netns exec` finds the files that take the place of those in /etc
# As Debian writes it: the machine's own name leads to loopback.
HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n"
GONE_SECONDS = 60.0
# A machine's first process. It names the machine, and takes leave of the processes that lost their parent.
INIT = 'hostname "$0"; echo; while :; do sleep 5; done'
_numbers = itertools.count()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60).stdout


class Machine:
    """One machine. Commands run on it as a user of it would give them."""

    def __init__(self, network: Network, name: str, number: int, folder: Path) -> None:
        self.network, self.name = network, name
        self.space, self.port = f"{network.space}-{number}", f"port{number}"
        self.address = f"{SUBNET}.{number}"
        self.home = folder / name
        self.home.mkdir()
        (NAMES / self.space).mkdir(parents=True)
        (NAMES / self.space / "hosts").write_text(HOSTS.format(name=name))
        ip("netns", "add", self.space)
        ends = ("type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("link", "add", self.port, "netns", network.space, *ends)
        ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.space, "link", "set", device, "up")
        ip("-n", self.space, "route", "add", "default", "via", f"{SUBNET}.254")
        ip("-n", network.space, "link", "set", self.port, "up")
        self.boot()

    def boot(self) -> None:
        """Switch it on: its first process, and its link. Nothing else runs then."""
        apart = ("unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child")
        command = ["ip", "netns", "exec", self.space, *apart, "sh", "-c", INIT, self.name]
        power = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT_ROOT)
        assert power.stdout and power.stdout.readline()
        (first,) = psutil.Process(power.pid).children()
        self._first, self._power = first.pid, power
        self.join_link()

    def command(self, *words: str) -> list[str]:
        """The command line that runs one on this machine."""
        spaces = ("--net", "--uts", "--mount", "--pid")
        return ["nsenter", f"--target={self._first}", *spaces, f"--wd={PROJECT_ROOT}", "--", *words]

    def environment(self, **more: str) -> dict[str, str]:
        own = {"TRUNKLINE_STORE": str(self.network.store), "PYTHONPATH": str(PROJECT_ROOT)}
        return environment(self.home, **(own | more))

    def run(self, *words: str, code: int = 0, timeout: float = 480, **more: str) -> str:
        """Run a command, expect an exit code, and return what it printed (stderr last)."""
        return run(self.command(*words), self.environment(**more), code, timeout)

    def ctl(self, *arguments: str, code: int = 0, timeout: float = 480, **more: str) -> str:
        return self.run(*CTL, *arguments, code=code, timeout=timeout, **more)

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(self.command(*words), env=self.environment(), cwd=PROJECT_ROOT, **options)

    def up(self, *options: str, num_cpus: int = 1, **more: str) -> str:
        """`ctl up`: a head on the first machine, a node that joins it on each other one."""
        head = self.network.head
        to = () if self is head else ("--join", f"{head.address}:{HEAD_PORT}")
        return self.ctl("up", *to, "--num-cpus", str(num_cpus), *options, **more)

    def processes(self, words: str = "") -> list[psutil.Process]:
        """The processes on this machine; those whose command line has `words`."""
        found = []
        for pid in ip("netns", "pids", self.space).split():
            try:
                process = psutil.Process(int(pid))
                if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def cut_link(self) -> None:
        """Pull the cable. The machine's own end stays up, as behind a switch that has lost its power."""
        ip("-n", self.network.space, "link", "set", self.port, "nomaster")

    def join_link(self) -> None:
        ip("-n", self.network.space, "link", "set", self.port, "master", "switch")

    def lose_power(self) -> None:
        """All of its processes are gone at once, and nobody on the network hears of it."""
        self.cut_link()
        while left := self.processes():
            for process in left:
                try:
                    process.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=GONE_SECONDS)
        self._power.wait(GONE_SECONDS)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.space], capture_output=True, timeout=60, check=False)
        shutil.rmtree(NAMES / self.space, ignore_errors=True)


class Network:
    """Machines on one switch, the first of which is the head. A context: all processes on them end with it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Skips the test where there are no namespaces."""
        if os.getuid() or shutil.which("ip") is None:
            pytest.skip("network namespaces need root and iproute2")
        self.space = f"trunkline-{os.getpid()}-{next(_numbers)}"
        self.folder, self.names = folder, names
        self.store = folder / "store"
        self.machines: list[Machine] = []

    @property
    def head(self) -> Machine:
        return self.machines[0]

    def __enter__(self) -> Network:
        try:
            ip("netns", "add", self.space)
            ip("-n", self.space, "link", "add", "switch", "type", "bridge")
            ip("-n", self.space, "addr", "add", f"{SUBNET}.254/24", "dev", "switch")
            ip("-n", self.space, "link", "set", "switch", "up")
            token = secrets.token_hex(32)
            for number, name in enumerate(self.names, 1):
                machine = Machine(self, name, number, self.folder)
                self.machines.append(machine)
                place = machine.home / ".ray" / "auth_token"
                place.parent.mkdir(mode=0o700)
                place.touch(mode=0o600)
                place.write_text(token)
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        return self

    def __exit__(self, *error: object) -> None:
        for machine in self.machines[::-1]:
            machine.lose_power()
            machine.boot()
            here = machine.environment(RAY_ADDRESS="local")  # for the folders that Ray left, and no other machine's
            down = machine.command(*CTL, "down")
            subprocess.run(down, env=here, cwd=PROJECT_ROOT, capture_output=True, timeout=120, check=False)
            machine.lose_power()
            machine.remove()
        subprocess.run(["ip", "netns", "del", self.space], capture_output=True, timeout=60, check=False)
        with suppress(OSError):  # others' are in it
            NAMES.rmdir()


def until(what: str, seconds: float, found: Any) -> Any:
    """Return what `found` returns once that is true; nothing sends an event where it is asked."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if answer := found():
            return answer
        pause.wait(0.1)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
