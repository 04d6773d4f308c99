"""Machines that are reached by SSH. All of them are asked before anything is started on one, and what was started goes
again where one fails. The dashboard stays on the head's loopback: each command reaches it through SSH."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.control import runtime
from cluster.control.clusters import Cluster, checks, host
from cluster.control.clusters.connection import Connection
from cluster.control.clusters.tunnel import Tunnel
from cluster.core.clusters.kinds import Ssh
from cluster.core.errors import NotReadyError, TrunklineError

START_SECONDS = 300.0
STOP_SECONDS = 120.0
AT_ONCE = 16
AGENT = "from cluster.control.clusters.host import main; main()"
CARRIED = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")  # no secrets, and the store is not found without

_tunnels: dict[tuple[str, str, int], Tunnel] = {}  # of this process, by context, host and port


class OverSsh(Cluster):
    """A head on the first host, a node on each other one."""

    def __init__(self, found: Any) -> None:
        super().__init__(found)
        self.connections = [Connection(name, self.context) for name in self.context.hosts]

    @property
    def context(self) -> Ssh:
        assert isinstance(self.meant.context, Ssh)
        return self.meant.context

    def dashboard_url(self) -> str:
        runtime.use_token(create=False)
        head, port = self.connections[0], self.context.dashboard_port
        key = (self.meant.name, head.host, port)
        if key not in _tunnels or not _tunnels[key].is_open:
            _tunnels[key] = Tunnel(head, port)
        return f"http://127.0.0.1:{_tunnels[key].port}"

    def head_address(self) -> str:
        raise NotReadyError(
            f"{self.meant} is reached by SSH: a process here cannot join it",
            "Send it there with `ctl submit`, or run the command on one of its hosts.",
        )

    def up(self, tell: Callable[[str], None]) -> None:
        token = self._token()
        checks.check(self.context, self.connections, self.python)
        head, *others = self.connections
        attempt = secrets.token_hex(8)
        asked = {"token": token, "attempt": attempt, "num_cpus": self.context.num_cpus}
        wanted = {"port": self.context.port, "dashboard_port": self.context.dashboard_port}
        try:
            found = self._ask(head, {"do": "head", **asked, **wanted}, START_SECONDS)
            joined = self._each(others, {"do": "join", "address": found["address"], **asked}, START_SECONDS)
            answers = [found, *_whole(joined)]
        except BaseException:
            self._each(self.connections, {"do": "down", "attempt": attempt}, STOP_SECONDS)
            raise
        new = sum(answer["started"] for answer in answers)
        tell(f"Ray is up on {len(answers)} hosts ({new} of them new): head {found['address']} on {head.host}.")
        tell("Submit with `ctl submit SCRIPT`; end it with `ctl down`.")

    def down(self, tell: Callable[[str], None]) -> None:
        for key in [key for key in _tunnels if key[0] == self.meant.name]:
            _tunnels.pop(key).close()
        ended = self._each(self.connections[::-1], {"do": "down"}, STOP_SECONDS)
        answers = [answer for answer in ended if isinstance(answer, dict)]
        tell(f"Ended {sum(a['processes'] for a in answers)} processes on {sum(a['nodes'] > 0 for a in answers)} hosts.")
        _whole(ended)

    def python(self) -> list[str]:
        """What runs Python on a host, with Trunkline where it is a checkout."""
        variables = {name: os.environ[name] for name in CARRIED if name in os.environ}
        if self.context.checkout:
            variables["PYTHONPATH"] = self.context.checkout.removeprefix("~/")
        return ["env", *(f"{name}={value}" for name, value in variables.items()), self.context.interpreter]

    def _token(self) -> str:
        if not runtime.use_token(create=True):
            raise NotReadyError(
                "Ray's token authentication is off (RAY_AUTH_MODE)", "Unset it: others reach the hosts."
            )
        return os.environ.get("RAY_AUTH_TOKEN") or runtime.token_path().read_text().strip()

    def _each(
        self, connections: list[Connection], request: dict[str, Any], timeout_seconds: float
    ) -> list[dict[str, Any] | TrunklineError]:
        """The answers of several hosts, or their errors, in their order."""

        def one(connection: Connection) -> dict[str, Any] | TrunklineError:
            try:
                return self._ask(connection, request, timeout_seconds)
            except TrunklineError as error:
                return error

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, connections))

    def _ask(self, connection: Connection, request: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        """One host's answer (cluster/control/clusters/host.py). Raises NotReadyError for what it could not do."""
        given = json.dumps({"context": self.meant.name, **request}).encode()
        said = connection.run([*self.python(), "-c", AGENT], given, timeout_seconds)
        line = next((line for line in said.splitlines() if line.startswith(host.ANSWER)), "")
        if not line:
            raise NotReadyError(f"{connection.host} did not say how it went", f"Try `{connection.by_hand}` by hand.")
        answer: dict[str, Any] = json.loads(line.removeprefix(host.ANSWER))
        if error := answer.get("error"):
            raise NotReadyError(f"{connection.host}: {error[0]}", error[1])
        return answer


def _whole(answers: list[dict[str, Any] | TrunklineError]) -> list[dict[str, Any]]:
    """The answers of all hosts. Raises what the first that failed says."""
    for answer in answers:
        if isinstance(answer, TrunklineError):
            raise answer
    return [answer for answer in answers if isinstance(answer, dict)]
