"""The REST side of the cluster that is meant: one bounded way to ask it.

Everything that only looks (status, jobs, endpoints), and what is submitted, goes through the dashboard's port: it needs
no Ray process on this machine, so it works through a port-forward to a cluster in Kubernetes as well, and no import of
Ray, which takes longer than what is asked. Each question has a deadline.
"""

from __future__ import annotations

import http.client
import json
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
    status, content = _asked(method, url, path, body, data, timeout_seconds)
    if not content or status == HTTPStatus.NOT_FOUND:
        return None
    try:
        return json.loads(content)
    except ValueError:
        raise NotReadyError(f"what answers at {url} is no Ray dashboard", "Correct the address.") from None


def exists(url: str, path: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> bool:
    """Whether there is something at a path. Raises what `request` does."""
    return _asked("GET", url, path, None, None, timeout_seconds)[0] != HTTPStatus.NOT_FOUND


def _asked(
    method: str, url: str, path: str, body: Any, data: bytes | None, timeout_seconds: float
) -> tuple[int, bytes]:
    """Status and content of the answer to one request: it is right, or 404."""
    import urllib.error  # `requests` takes longer to import than all of a command
    import urllib.request

    headers = _token()
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    elif data is not None:
        headers["Content-Type"] = "application/octet-stream"
    asked = urllib.request.Request(url + path, data, headers, method=method)
    with lost(url):
        try:
            with _opener().open(asked, timeout=timeout_seconds) as reply:
                status, content = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise runtime.refused(url)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise NotReadyError(f"the Ray cluster at {url} does not work: {_gist(content)}", again(url))
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES and status != HTTPStatus.NOT_FOUND:
        raise JobError(f"{url}{path}: HTTP {status}: {_gist(content)}", "Run `ctl doctor`.")
    return status, content


def _opener() -> Any:
    """Follows no redirection: the token is meant for the place that was named."""
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments: Any) -> None:
            return None

    return urllib.request.build_opener(Stay)


def _gist(content: bytes) -> str:
    return gist(content.decode(errors="replace"))[:300]


def get(url: str, *, timeout: tuple[float, float], headers: dict[str, str] | None = None) -> Any:
    """Ask for something large with the token; the reply's body is still to be read. Raises what `requests` does."""
    import requests

    return requests.get(url, headers=_token() | (headers or {}), timeout=timeout, stream=True)


@contextmanager
def lost(url: str) -> Iterator[None]:
    """Raise NotReadyError where nobody answers, or ceases to."""
    try:
        yield
    except (OSError, http.client.HTTPException):  # those of `requests` are OSErrors, too
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
