"""Commands on a host over the system's `ssh`: never asking a question, never waiting for ever.

Keys, agents, jump hosts and aliases are those of the user's SSH configuration.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence

from cluster.core.clusters.kinds import Ssh
from cluster.core.errors import NotReadyError, gist

CONNECT_SECONDS = 10
ALIVE_SECONDS, ALIVE_TIMES = 10, 3  # how soon a connection that has died is noticed
FAILED = 255  # how `ssh` says that it is the connection that failed
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": str(ALIVE_SECONDS),
    "ServerAliveCountMax": str(ALIVE_TIMES),
    "LogLevel": "ERROR",
}
REMEDIES = {
    "Host key verification failed": "Connect once by hand, and compare its key: `{ssh}`.",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "Find out why before you connect to it.",
    "Permission denied": "Give `key` and `user`, or load the key: `ssh-add`.",
    "Could not resolve hostname": "Correct `hosts`.",
}


class Connection:
    """A host of a context."""

    def __init__(self, host: str, context: Ssh) -> None:
        self.host = host
        place, _, port = host.rpartition(":") if re.search(r"[^:\]]:\d+$|\]:\d+$", host) else (host, "", "")
        self._destination = place.replace("[", "").replace("]", "")
        options = dict(OPTIONS)
        if context.user and "@" not in place:
            options["User"] = context.user
        if port or context.ssh_port:
            options["Port"] = port or str(context.ssh_port)
        self.by_hand = (
            f"ssh -p {options['Port']} {self._destination}" if "Port" in options else f"ssh {self._destination}"
        )
        self._options = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        if context.key:
            self._options += ["-i", os.path.expanduser(context.key)]
        if context.ssh_config:
            self._options += ["-F", os.path.expanduser(context.ssh_config)]

    def command(self, remote: Sequence[str], *options: str) -> list[str]:
        """The command line of `ssh` that runs one there; paths that begin with ~/ are in the home there."""
        words = [word.removeprefix("~/") for word in remote]  # a session begins in the home
        return ["ssh", *self._options, *options, "--", self._destination, shlex.join(words)]

    def run(self, remote: Sequence[str], given: bytes, timeout_seconds: float) -> str:
        """Run a command there with `given` as its input; what it writes. Raises NotReadyError in one sentence."""
        try:
            done = subprocess.run(
                self.command(remote), input=given, capture_output=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise NotReadyError(
                f"{self.host} does not answer within {timeout_seconds:.0f} s", "Look whether it is well."
            ) from None
        except FileNotFoundError:
            raise NotReadyError("there is no ssh on this machine", "Install OpenSSH's client.") from None
        said = done.stderr.decode(errors="replace")
        if done.returncode == FAILED:
            raise self.lost(said)
        if done.returncode:
            raise NotReadyError(f"{self.host}: {gist(said)}", "Are `python` and `checkout` of the context right there?")
        return done.stdout.decode(errors="replace")

    def lost(self, said: str) -> NotReadyError:
        """The error for what `ssh` says of a connection that failed."""
        remedy = next((text for sign, text in REMEDIES.items() if sign in said), "Look whether it is up: `{ssh}`.")
        return NotReadyError(f"{self.host} is not reached by SSH: {gist(said)}", remedy.format(ssh=self.by_hand))
