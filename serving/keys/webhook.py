"""The message that a key has spent its soft budget: a POST of JSON, tried a few times. It holds no key, only its id."""

from __future__ import annotations

import asyncio
import logging
import os
import urllib.request
from datetime import UTC, datetime

import msgspec

from serving.keys.key import NANO
from serving.keys.ledger import Spending

TRIES = 4
FIRST_PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
LOGGER = logging.getLogger(__name__)


async def tell(url: str, endpoint: str, spending: Spending) -> None:
    """Tell it; what cannot be told is logged, without the address, which may be a secret."""
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, TRIES + 1):
        try:
            await asyncio.to_thread(_post, os.path.expandvars(url), _message(endpoint, spending))
            return
        except (OSError, ValueError) as error:
            if attempt == TRIES:
                kind = type(error).__name__
                LOGGER.warning("the webhook does not take that key %s nears its budget: %s", spending.key_id, kind)
                return
        await asyncio.sleep(pause)
        pause *= 2


def _message(endpoint: str, spending: Spending) -> bytes:
    spent, budget = spending.spent_nano / NANO, spending.budget_nano / NANO
    month = datetime.fromtimestamp(spending.month_at, UTC).strftime("%Y-%m")
    text = f"Key {spending.key_id} ({spending.name}) has spent {spent:.2f} of its {budget:.2f} for {month}."
    told = {"event": "soft_budget", "text": text, "key": spending.key_id, "name": spending.name, "endpoint": endpoint}
    return msgspec.json.encode({**told, "month": month, "spent": spent, "budget": budget})


def _post(url: str, body: bytes) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("no address")  # an environment variable that is not set
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
        return
