"""A process with a gateway of its own over a database that others use, too: `burst.py DATABASE KEY NOW REQUESTS`.

Prints how many of its requests, all sent at once, were answered, and how many were refused for a quota.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter

from tests.serving.keys.small_app import Small, asking, behind


async def burst(database: str, key: str, requests: int) -> Counter[int]:
    """Statuses of requests that are sent at once; each answer has 5 tokens of the 10 that it might."""
    asked = {"model": "chat", "prompt": [1, 2, 3], "max_tokens": 10, "words": 5}
    async with asking(await behind(Small(), database), key) as client:
        replies = await asyncio.gather(*(client.post("/v1/completions", json=asked) for _ in range(requests)))
    return Counter(reply.status_code for reply in replies)


if __name__ == "__main__":
    database, key, now, requests = sys.argv[1:]
    time.time = lambda: float(now)  # a test that ends in another minute than it began would count anew
    print("ready", flush=True)
    sys.stdin.readline()
    found = asyncio.run(burst(database, key, int(requests)))
    print(found[200], found[429], sum(found.values()))
