"""What the gateway counts of the requests that pass it, in the registry of the process, where vLLM's figures are, too.

Keys stand there by their ids, and only so many of them: a label of any value would let clients fill the memory of
whatever collects the figures. Metrics belong to the process, as a gateway does.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from prometheus_client import Counter, Gauge, Histogram

from serving.asgi import Application, Message, Receive, Scope, Send, path_of

SEEN = "trunkline.seen"  # in a request's scope: what is known of it
MOST_KEYS = 200  # that are told apart
NO_KEY, OTHER = "none", "other"
LEFT = 499  # as nginx calls a client that left before the end
FAILED = 500
GATEWAY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)

REQUESTS = Counter("trunkline_requests", "Requests that ended; status 499: the client left.", ("key", "path", "status"))
TOKENS = Counter("trunkline_tokens", "Tokens that keys have used: kind prompt or completion.", ("key", "kind"))
GATEWAY_SECONDS = Histogram(
    "trunkline_gateway_seconds",
    "Time of the gateway until the application has a request (key, limits, quotas), without the way of its body.",
    ("key",),
    buckets=GATEWAY_BUCKETS,
)
REQUEST_SECONDS = Histogram(
    "trunkline_request_seconds",
    "Time from a request's arrival to the end of its answer.",
    ("path",),
    buckets=REQUEST_BUCKETS,
)
OPEN = Gauge("trunkline_requests_open", "Requests that are being answered.", multiprocess_mode="livesum")
ARTIFACT = Gauge("trunkline_artifact", "1 for the artifact that answers.", ("artifact",), multiprocess_mode="livemax")

_keys: set[str] = set()


def key_label(key_id: str) -> str:
    """A key's label: its id, or that of all others where too many were told apart before."""
    if key_id not in _keys:
        if len(_keys) >= MOST_KEYS:
            return OTHER
        _keys.add(key_id)
    return key_id


def note_key(scope: Scope, key_id: str) -> None:
    """Whose a request is, once its secret has proved it."""
    if seen := scope.get(SEEN):
        seen.key = key_label(key_id)


def count_tokens(key_id: str, prompt_tokens: int, completion_tokens: int) -> None:
    label = key_label(key_id)
    TOKENS.labels(label, "prompt").inc(prompt_tokens)
    TOKENS.labels(label, "completion").inc(completion_tokens)


class Seen:
    """One request on its way: whose it is, and since when."""

    def __init__(self, path: str) -> None:
        self.path, self.key, self.status = path, NO_KEY, 0
        self.began_at = time.perf_counter()
        self.waited_seconds = 0.0  # for the client to send its body
        self.passed_on = self.ended = False

    def pass_on(self) -> None:
        """The application gets the request now."""
        self.passed_on = True
        own_seconds = time.perf_counter() - self.began_at - self.waited_seconds
        GATEWAY_SECONDS.labels(self.key).observe(own_seconds)

    def end(self) -> None:
        status = self.status if self.ended else LEFT
        REQUESTS.labels(self.key, self.path, str(status)).inc()
        REQUEST_SECONDS.labels(self.path).observe(time.perf_counter() - self.began_at)


class Counted:
    """Counts the requests that `app` answers, over HTTP, by path where that is one of `paths`."""

    def __init__(self, app: Application, paths: Collection[str]) -> None:
        self.app, self.paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        seen = scope[SEEN] = Seen(path if path in self.paths else OTHER)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = int(message["status"])
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                seen.ended = True

        async def received() -> Message:
            if seen.passed_on:
                return await receive()
            begun = time.perf_counter()
            message = await receive()
            seen.waited_seconds += time.perf_counter() - begun
            return message

        answered = float(scope["method"] == "POST")  # and not whoever looks at figures
        OPEN.inc(answered)
        try:
            await self.app(scope, received, told)
        except Exception:
            seen.status, seen.ended = FAILED, True
            raise
        finally:
            OPEN.dec(answered)
            seen.end()
