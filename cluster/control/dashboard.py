"""The REST side of the cluster that is meant: one bounded way to ask it.

Everything that only looks (status, jobs, endpoints), and what is submitted, goes through the dashboard's port: it needs
no Ray process on this machine, so it works through a port-forward to a cluster in Kubernetes as well, and no import of
Ray, which takes longer than what is asked. Each question has a deadline.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from cluster.control import clusters, nodes, runtime
from cluster.core.errors import JobError, NotReadyError, gist

REQUEST_TIMEOUT_SECONDS = 15.0


def dashboard_url() -> str:
    """URL of the dashboard of the cluster that is meant. Raises NotReadyError where there is none."""
    return clusters.find().dashboard_url()


def request(
    method: str,
    url: str,
    path: str,
    *,
    body: Any = None,
    data: bytes | None = None,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> Any:
    """One request with the token, with a `body` of JSON or with `data`; the decoded JSON, or None for 404 and for an
    empty answer.

    Raises NotReadyError where nobody answers in time or the token is refused, JobError for other failures.
    """
    reply = _asked(method, url, path, body, data, timeout_seconds)
    if reply.status_code == HTTPStatus.NOT_FOUND:
        return None
    return reply.json() if reply.content else None


def exists(url: str, path: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> bool:
    """Whether there is something at a path. Raises what `request` does."""
    return bool(_asked("GET", url, path, None, None, timeout_seconds).ok)


def _asked(method: str, url: str, path: str, body: Any, data: bytes | None, timeout_seconds: float) -> Any:
    """The answer to one request, which is right or 404."""
    import requests

    with lost(url):
        reply = requests.request(method, url + path, headers=_token(), json=body, data=data, timeout=timeout_seconds)
    if reply.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise runtime.refused(url)
    if reply.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise NotReadyError(f"the Ray cluster at {url} does not work: {gist(reply.text)}", again(url))
    if not reply.ok and reply.status_code != HTTPStatus.NOT_FOUND:
        raise JobError(f"{url}{path}: HTTP {reply.status_code}: {gist(reply.text)[:300]}", "Run `ctl doctor`.")
    return reply


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


def _token() -> dict[str, str]:
    """The header that carries the token, from where Ray itself would read it."""
    if not runtime.use_token(create=False):
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN") or runtime.token_path().read_text()
    return {"Authorization": f"Bearer {token.strip()}"}
