"""When a job may begin: after the jobs that it waits for, and when its share of the cluster is free.

Of the jobs that wait for one cluster those of the highest priority go first, then those whose user holds the least of
it, then the oldest; none goes past one that comes before it, so that large ones get their turn. Each waiting job works
this out for itself from what the others write down; a lease keeps two from taking the same room.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

import msgspec

from cluster.control.durable.records import FOLDER, JobRecord
from cluster.control.durable.shapes import Submitted
from cluster.core.errors import InputError, JobError
from cluster.core.storage.lease import Lease
from cluster.core.storage.location import Location

POLL_SECONDS = 2.0
REMOTE_POLL_SECONDS = 20.0  # each look at an object store is some requests


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A job that runs on a cluster or waits for it, as the others see it."""

    id: str
    user: str
    demand: dict[str, float]
    priority: int
    submitted_at: str
    admitted: bool

    def fits(self, room: dict[str, float]) -> bool:
        return all(amount <= room.get(name, 0.0) + 1e-9 for name, amount in self.demand.items())


def in_order(waiting: list[Standing], running: list[Standing], capacity: dict[str, float]) -> list[Standing]:
    """The jobs that wait, in the order in which they go. One that the cluster could not hold at all is left out.

    A user's share is that of the resource of which the running jobs hold the most (dominant resource fairness,
    Ghodsi et al. 2011).
    """
    held: dict[str, dict[str, float]] = {}
    for job in running:
        sums = held.setdefault(job.user, {})
        for name, amount in job.demand.items():
            sums[name] = sums.get(name, 0.0) + amount

    def share(user: str) -> float:
        return max((a / capacity[n] for n, a in held.get(user, {}).items() if capacity.get(n)), default=0.0)

    possible = [job for job in waiting if job.fits(capacity)]
    return sorted(possible, key=lambda job: (-job.priority, share(job.user), job.submitted_at, job.id))


class Turn:
    """The turn of one job at one cluster."""

    def __init__(
        self,
        root: Location,
        submitted: Submitted,
        cluster: str,
        tell: Callable[[str], None],
        capacity: Callable[[], dict[str, float]],
    ) -> None:
        """`tell` hears what is waited for, whenever that changes; `capacity` is what the cluster has, CPU and GPU."""
        self.root, self.submitted, self._tell, self._capacity = root, submitted, tell, capacity
        name = hashlib.sha256(cluster.encode()).hexdigest()[:12]
        self._place = root / FOLDER / "standing" / name
        self._lease_place = root / FOLDER / "turns" / name
        self._told = ""

    def take(self, stopping: threading.Event) -> None:
        """Return when the job may begin, or is to stop. Raises JobError where it never may."""
        self._await(self._others, stopping)
        if self.submitted.policy.queue:
            self._stand(admitted=False)
            self._await(self._room, stopping)
        else:
            self._stand(admitted=True)

    def leave(self) -> None:
        """The job holds nothing of the cluster any more, and wants nothing."""
        self._place.remove(f"{self.submitted.id}.json")

    def _await(self, reason: Callable[[], str], stopping: threading.Event) -> None:
        pause = POLL_SECONDS if self.root.is_local else REMOTE_POLL_SECONDS
        while not stopping.is_set() and (why := reason()):
            if why != self._told:
                self._told = why
                self._tell(why)
            stopping.wait(pause)  # a store sends no events

    def _others(self) -> str:
        """What is waited for of the jobs that come before; empty where all have succeeded."""
        for job_id in self.submitted.policy.after:
            job = JobRecord(self.root, job_id).job()
            if job is None:
                raise JobError(f"job {job_id}, which this one comes after, is not in the store")
            if job.status in ("FAILED", "STOPPED"):
                how = "failed" if job.status == "FAILED" else "been stopped"
                raise JobError(f"job {job_id}, which this one comes after, has {how}", "Submit both again.")
            if job.status != "SUCCEEDED":
                return f"for job {job_id}, which is {job.status}"
        return ""

    # -- the queue ----------------------------------------------------------------------------------------------

    def _stand(self, *, admitted: bool) -> None:
        mine = Standing(
            id=self.submitted.id,
            user=self.submitted.user,
            demand=self.submitted.demand,
            priority=self.submitted.policy.priority,
            submitted_at=self.submitted.submitted_at,
            admitted=admitted,
        )
        self._place.write_bytes(f"{mine.id}.json", msgspec.json.encode(mine))

    def _standing(self) -> Iterator[Standing]:
        """The jobs that run or wait. What one left that died is removed."""
        for name in self._place.names():
            if not name.endswith(".json"):
                continue
            try:
                job = msgspec.json.decode(self._place.read_bytes(name), type=Standing)
            except InputError:  # it has ended since
                continue
            if job.id == self.submitted.id or JobRecord(self.root, job.id).is_alive():
                yield job
            else:
                self._place.remove(name)

    def _room(self) -> str:
        """What is waited for until the job has its room; empty where it has taken it."""
        lease = Lease(self._lease_place)
        if not lease.acquire():
            return self._told or "for its turn"
        try:
            return self._look()
        finally:
            lease.release()

    def _look(self) -> str:
        capacity, standing = self._capacity(), list(self._standing())
        running = [job for job in standing if job.admitted]
        mine = next(job for job in standing if job.id == self.submitted.id)
        if not mine.fits(capacity):
            return f"for {_amounts(mine.demand)}, the cluster has {_amounts(capacity)}"
        order = in_order([job for job in standing if not job.admitted], running, capacity)
        if order[0].id != mine.id:
            return f"for its turn: {[job.id for job in order].index(mine.id)} before it"
        free = {n: a - sum(job.demand.get(n, 0.0) for job in running) for n, a in capacity.items()}
        if not mine.fits(free):
            return f"for {_amounts(mine.demand)}, {_amounts(free)} of {_amounts(capacity)} are free"
        self._stand(admitted=True)
        return ""


def _amounts(amounts: dict[str, float]) -> str:
    return " and ".join(f"{max(0.0, amount):g} {name}s" for name, amount in amounts.items() if amount) or "nothing"


def capacity_of(address: str) -> dict[str, float]:
    """CPUs and GPUs of the cluster whose head is at `host:port`: of the nodes that live, and that it may add."""
    from ray._raylet import GcsClient
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    from cluster.control import growth, runtime

    runtime.use_token(create=False)
    found: dict[str, float] = {}
    for node in GcsClient(address=address).get_all_node_info().values():
        if node.state == GcsNodeInfo.ALIVE:
            for name in ("CPU", "GPU"):
                found[name] = found.get(name, 0.0) + node.resources_total.get(name, 0.0)
    return growth.grown(found)
