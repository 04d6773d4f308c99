"""The REST side of a Ray cluster: which one is meant, and one bounded way to ask it.

Everything that only looks (status, jobs, endpoints) goes through the dashboard's port: it needs no Ray process on this
machine, so it works through a port-forward to a cluster in Kubernetes as well.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.control import local, runtime
from cluster.core.errors import JobError, NotReadyError, gist

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_SECONDS = 15.0


def dashboard_url() -> str:
    """URL of the dashboard of the cluster that is meant: RAY_ADDRESS, else the one that `ctl up` started here.

    RAY_ADDRESS may be the dashboard's URL (`http://host:8265`) or the head's `host:port`. Raises NotReadyError where
    there is none or it does not answer.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    if address in ("", "auto", "local"):
        head = local.running_head()
        if head is None:
            raise NotReadyError("no Ray cluster is running here", "Start one with `ctl up`, or set RAY_ADDRESS.")
        if not local.listens(head.address):  # the dashboard of a dead head answers nobody, after a long wait
            raise local.dead(head)
        return head.dashboard
    runtime.use_token(create=False)
    if "://" in address or not runtime.answers(address):
        raise NotReadyError(f"no Ray cluster answers at {address}", "Start one with `ctl up`, or correct RAY_ADDRESS.")
    return _published_url(address)


def _published_url(address: str) -> str:
    """The dashboard's address as the head publishes it to its cluster."""
    from ray._private import ray_constants
    from ray._raylet import GcsClient

    key = ray_constants.DASHBOARD_ADDRESS.encode()
    found = GcsClient(address=address).internal_kv_get(key, namespace=ray_constants.KV_NAMESPACE_DASHBOARD, timeout=10)
    if not found:
        raise NotReadyError(f"the cluster at {address} has no dashboard", "Set RAY_ADDRESS to its http:// address.")
    return f"http://{found.decode()}"


def job_client(url: str) -> JobSubmissionClient:
    """Ray's client of the jobs API, with the token. Raises NotReadyError where nobody answers or it is refused."""
    request("GET", url, "/api/version")
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(url)
    if not runtime.debugging():
        for module in ("dashboard_sdk", "job.sdk"):  # they tell of every upload and every closed socket
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    return client


def request(method: str, url: str, path: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> Any:
    """One request with the token; the decoded JSON, or None for 404 and for an empty answer.

    Raises NotReadyError where nobody answers in time or the token is refused, JobError for other failures.
    """
    import requests

    with lost(url):
        reply = requests.request(method, url + path, headers=_token(), timeout=timeout_seconds)
    if reply.status_code in (401, 403):
        raise runtime.refused(url)
    if reply.status_code == 404:
        return None
    if reply.status_code >= 500:
        raise NotReadyError(f"the Ray cluster at {url} does not work: {gist(reply.text)}", again(url))
    if not reply.ok:
        raise JobError(f"{url}{path}: HTTP {reply.status_code}: {reply.text[:300]}", "Run `ctl doctor`.")
    return reply.json() if reply.content else None


def get(url: str, *, timeout: tuple[float, float], headers: dict[str, str] | None = None) -> Any:
    """Ask for something large with the token; the reply's body is still to be read. Raises what `requests` does."""
    import requests

    return requests.get(url, headers=_token() | (headers or {}), timeout=timeout, stream=True)


@contextmanager
def lost(url: str) -> Iterator[None]:
    """Raise NotReadyError where nobody answers, or ceases to."""
    import requests

    try:
        yield
    except requests.RequestException:
        raise NotReadyError(f"no Ray dashboard answers at {url}", again(url)) from None


def again(url: str) -> str:
    """The remedy where a cluster does not answer: the one that `ctl up` started here has processes left."""
    head = local.running_head()
    if head and head.dashboard == url:
        return local.AFRESH
    return "Start a cluster with `ctl up`."


@contextmanager
def told(url: str) -> Iterator[None]:
    """Say in one sentence what Ray's own client raises with a page of traceback, or with nothing."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise NotReadyError(f"the Ray cluster at {url} does not do that: {gist(str(error))}", again(url)) from error


def _token() -> dict[str, str]:
    """The header that carries the token."""
    if not runtime.use_token(create=False):
        return {}
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))
