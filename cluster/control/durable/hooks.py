"""Webhooks that are told of a job's preemptions, retries and end, in the shape that Slack takes."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable

from cluster.control.durable import references
from cluster.core.errors import NotReadyError

TIMEOUT_SECONDS = 10.0


def payload(job_id: str, kind: str, text: str, attempt: int) -> dict[str, object]:
    """`text` is for people; Slack keeps `metadata` for programs."""
    event = {"job": job_id, "attempt": attempt, "event": kind, "text": text}
    return {"text": f"{job_id}: {text}", "metadata": {"event_type": f"job_{kind}", "event_payload": event}}


def notify(hooks: tuple[str, ...], message: dict[str, object], failed: Callable[[str], None]) -> None:
    """POST a message to each hook. One that cannot be told does not hold the job up: `failed` hears why."""
    data = json.dumps(message).encode()
    for hook in hooks:
        try:
            url = references.value(hook)
            if not url.startswith(("http://", "https://")):
                raise NotReadyError(f"{hook} is no http address")
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
        except NotReadyError as error:
            failed(f"hook {hook}: {error.message}")
        except (OSError, ValueError) as error:  # an address in the message would be the secret
            failed(f"hook {hook}: {type(error).__name__}")
