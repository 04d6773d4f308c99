"""The REST side of the cluster that is meant: one bounded way to ask it.

Everything that only looks (status, jobs, endpoints) goes through the dashboard's port: it needs no Ray process on this
machine, so it works through a port-forward to a cluster in Kubernetes as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.control import clusters, nodes, runtime
from cluster.core.errors import JobError, NotReadyError, gist

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_SECONDS = 15.0


def dashboard_url() -> str:
    """URL of the dashboard of the cluster that is meant. Raises NotReadyError where there is none."""
    return clusters.find().dashboard_url()


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
    head = nodes.running_head()
    if head and head.dashboard == url:
        return nodes.AFRESH
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
