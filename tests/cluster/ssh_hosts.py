"""Hosts behind real SSH servers, each with an address, a home and a PATH of its own: on this machine's loopback, or on
machines of their own (namespaces.py)."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.local_cluster import free_port

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
SEPARATION = Path("/run/sshd")  # where Debian's server, run by root, wants an empty folder
CONFIG = """
ListenAddress {address}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
SetEnv HOME={home} PATH={path}
"""
# A Python that finds something of another version, or a clock that is off, first.
PYTHON = '#!/bin/sh\nPYTHONPATH={first}:$PYTHONPATH exec {python} "$@"\n'


@dataclass
class Host:
    """One host: the word for `hosts`, its home, and the folder at the front of its PATH."""

    name: str
    home: Path
    bin: Path

    def put_before_python(self, first: Path) -> None:
        """Have `python3` there find a folder's modules and packages before the real ones."""
        place = self.bin / "python3"
        place.write_text(PYTHON.format(first=first, python=sys.executable))
        place.chmod(0o755)


class SshHosts:
    """A context: servers start one by one, and end with it."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None or shutil.which("ssh-keygen") is None:
            pytest.skip("no sshd here (Debian: apt-get install openssh-server)")
        self.folder = folder
        self._servers: list[subprocess.Popen[bytes]] = []
        self._made = os.getuid() == 0 and not SEPARATION.exists()
        if self._made:
            SEPARATION.mkdir(mode=0o755)
        for name in ("host_key", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, timeout=60)
        key = (folder / "host_key.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"* {' '.join(key)}\n")
        known = f"UserKnownHostsFile {folder}/known_hosts\nIdentityFile {folder}/key\nIdentitiesOnly yes\n"
        self.config = folder / "config"
        self.config.write_text(f"User {getpass.getuser()}\n{known}")

    def __enter__(self) -> SshHosts:
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.terminate()
            server.wait()
        if self._made:
            SEPARATION.rmdir()

    def start(self, address: str, on: Callable[..., list[str]] = lambda *words: list(words)) -> Host:
        """A server at an address, which is there when this returns; `on` makes the command line that runs one there."""
        home = self.folder / f"home-{address}"
        bin_ = home / "bin"
        bin_.mkdir(parents=True)
        port = free_port()
        path = f"{bin_}:{Path(sys.executable).parent}:/usr/bin:/bin"
        file = self.folder / f"sshd-{address}"
        file.write_text(CONFIG.format(address=address, port=port, folder=self.folder, home=home, path=path))
        log = (self.folder / f"log-{address}").open("wb")
        assert SSHD is not None
        command = on(SSHD, "-D", "-e", "-f", str(file))
        server = subprocess.Popen(command, stdout=log, stderr=log)
        self._servers.append(server)
        pause, said = threading.Event(), self.folder / f"log-{address}"
        while server.poll() is None:
            if "Server listening on" in said.read_text():
                return Host(f"{address}:{port}", home, bin_)
            pause.wait(0.05)  # a log sends no events
        raise AssertionError(said.read_text())
