"""Quotas: what a request may use is reserved before it is answered, and settled to what it used.

Both are transactions that begin by locking the key's row, over all replicas: of a parallel burst each request sees what
those before it have reserved. PostgreSQL has them as functions, too (functions.py). Windows are minutes and days of the
clock (UTC), budgets are for months.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

from serving.keys.database import Database, Statement, Steps
from serving.keys.functions import RESERVE, SETTLE
from serving.keys.key import NANO, Key
from serving.limits import Refused

MINUTE, DAY = 60, 86_400
BYTES_A_TOKEN = 16  # seldom more
KEPT_DAYS = 62  # windows of days, of which a budget's month is summed
FIND = "SELECT * FROM keys WHERE id = $1"
LOCK = "UPDATE keys SET used_at = $2 WHERE id = $1 RETURNING *"
OPEN_WINDOWS = """SELECT period_seconds, started_at, requests, tokens, cost_nano FROM windows WHERE key_id = $1
    AND ((period_seconds = 60 AND started_at = $2) OR (period_seconds = 86400 AND started_at >= $3))"""
HOLD = """INSERT INTO windows (key_id, period_seconds, started_at, requests, tokens, cost_nano)
    VALUES ($1, $2, $3, 1, $4, $5) ON CONFLICT (key_id, period_seconds, started_at) DO UPDATE SET
    requests = windows.requests + 1, tokens = windows.tokens + excluded.tokens,
    cost_nano = windows.cost_nano + excluded.cost_nano"""
CORRECT = """UPDATE windows SET tokens = tokens + $4, cost_nano = cost_nano + $5
    WHERE key_id = $1 AND ((period_seconds = 60 AND started_at = $2) OR (period_seconds = 86400 AND started_at = $3))"""
METER = """INSERT INTO meter (key_id, day_at, endpoint, requests, prompt_tokens, completion_tokens, cost_nano)
    VALUES ($1, $2, $3, 1, $4, $5, $6) ON CONFLICT (key_id, day_at, endpoint) DO UPDATE SET
    requests = meter.requests + 1, prompt_tokens = meter.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = meter.completion_tokens + excluded.completion_tokens,
    cost_nano = meter.cost_nano + excluded.cost_nano"""
LOG = """INSERT INTO requests (id, request_id, key_id, asked_at, endpoint, model, path, status, prompt_tokens,
    completion_tokens, cost_nano, duration_seconds, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""
LOG_END = """UPDATE requests SET status = $2, prompt_tokens = $3, completion_tokens = $4, cost_nano = $5,
    duration_seconds = $6 WHERE id = $1"""
SPENT = "SELECT COALESCE(SUM(cost_nano), 0) AS spent FROM meter WHERE key_id = $1 AND day_at >= $2"
TELL_ONCE = "UPDATE keys SET told_month = $2 WHERE id = $1 AND told_month < $2 RETURNING name"


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens."""

    input_price: float = 0.0
    output_price: float = 0.0

    def cost_nano(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What tokens cost in billionths, rounded up."""
        millionths = prompt_tokens * self.input_price + completion_tokens * self.output_price
        return math.ceil(round(millionths * 1000, 6))


@dataclass(frozen=True)
class Entry:
    """A request of a key, with the most that it may use. `body` is kept only where the spec asks for it."""

    id: str
    request_id: str
    key_id: str
    asked_at: float
    endpoint: str
    model: str
    path: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    body: str | None = None
    logged: bool = True
    counted: bool = False  # whether the tokens of the prompt are a count, and no bound
    prices: Prices = field(default_factory=Prices)

    @property
    def minute_at(self) -> int:
        return int(self.asked_at) // MINUTE * MINUTE

    @property
    def day_at(self) -> int:
        return int(self.asked_at) // DAY * DAY

    @property
    def least_tokens(self) -> int:
        """Of what it may use, what it surely may."""
        return self.completion_tokens + (self.prompt_tokens if self.counted else self.prompt_tokens // BYTES_A_TOKEN)

    @property
    def cost_nano(self) -> int:
        return self.prices.cost_nano(self.prompt_tokens, self.completion_tokens)


@dataclass(frozen=True)
class Used:
    """What a request has used, and how it ended."""

    status: int
    prompt_tokens: int
    completion_tokens: int
    duration_seconds: float

    @property
    def tokens(self) -> tuple[int, int]:
        return self.prompt_tokens, self.completion_tokens

    def cost_nano(self, entry: Entry) -> int:
        return entry.prices.cost_nano(*self.tokens)

    def beyond(self, entry: Entry) -> tuple[int, int]:
        """Tokens and money beyond what was reserved; less than nothing where less was used."""
        tokens = sum(self.tokens) - entry.prompt_tokens - entry.completion_tokens
        return tokens, self.cost_nano(entry) - entry.cost_nano


class Exceeded(Refused):
    """A quota that has no room for a request, and how many tokens it lacks (0: it is not for the lack of them)."""

    missing_tokens = 0


@dataclass(frozen=True)
class Spending:
    """A key that has spent its soft budget."""

    key_id: str
    name: str
    spent_nano: int
    budget_nano: int
    month_at: int


def reserve(entry: Entry) -> Steps[Key]:
    """Take what a request may use out of its key's quotas. Raises Refused where it is not there, or the key ended."""
    rows = yield LOCK, (entry.key_id, int(entry.asked_at))
    key = Key.of(rows[0])
    if why := key.ended(entry.asked_at):
        raise no_key(f"this API key has {'been revoked' if why == 'revoked' else 'expired'}")
    month_at = month_of(entry.asked_at)
    windows = yield OPEN_WINDOWS, (key.id, entry.minute_at, entry.day_at if key.budget_nano is None else month_at)
    for period, started, name in ((MINUTE, entry.minute_at, "minute"), (DAY, entry.day_at, "day")):
        found = [row for row in windows if (row["period_seconds"], row["started_at"]) == (period, started)]
        wait = started + period - entry.asked_at
        tokens = entry.prompt_tokens + entry.completion_tokens
        for what, wanted, least in (("requests", 1, 1), ("tokens", tokens, entry.least_tokens)):
            limit = getattr(key, f"{what}_per_{name}")
            used = sum(row[what] for row in found)
            if limit is not None and used + wanted > limit:
                raise _rate_exceeded(what, name, limit, used, wanted, None if least > limit else wait)
    if key.budget_nano is not None:
        spent = sum(row["cost_nano"] for row in windows if row["period_seconds"] == DAY)
        _check_budget(key.budget_nano, spent, entry, next_month(entry.asked_at) - entry.asked_at)
    taken = (entry.prompt_tokens + entry.completion_tokens, entry.cost_nano)
    held: list[Statement] = [(HOLD, (key.id, DAY, entry.day_at, *taken))]
    if key.requests_per_minute is not None or key.tokens_per_minute is not None:
        held.append((HOLD, (key.id, MINUTE, entry.minute_at, *taken)))
    if entry.logged:  # an entry without a status is one that is not settled: its replica was killed
        held.append(_logged(entry, None))
    yield held
    return key


async def reserve_at_once(database: Database, entry: Entry) -> None:
    """The same in one way to a server and back; where it has no room, the transaction says why. Raises Refused."""
    times = (entry.asked_at, entry.minute_at, entry.day_at, month_of(entry.asked_at))
    named = (entry.id, entry.request_id, entry.endpoint, entry.model, entry.path)
    taken = (entry.prompt_tokens, entry.completion_tokens, entry.body)
    if not await database.call(RESERVE, entry.key_id, *times, entry.cost_nano, entry.logged, *named, *taken):
        await database.run(reserve(entry))


def settle(entry: Entry, used: Used) -> Steps[None]:
    """Give back what was reserved and not used."""
    yield LOCK, (entry.key_id, int(entry.asked_at))
    settled: list[Statement] = [
        (CORRECT, (entry.key_id, entry.minute_at, entry.day_at, *used.beyond(entry))),
        (METER, (entry.key_id, entry.day_at, entry.endpoint, *used.tokens, used.cost_nano(entry))),
    ]
    if entry.logged:
        settled.append((LOG_END, (entry.id, used.status, *used.tokens, used.cost_nano(entry), used.duration_seconds)))
    yield settled


async def settle_at_once(database: Database, entry: Entry, used: Used) -> None:
    """The same in one way to a server and back."""
    metered = (entry.endpoint, *used.tokens, used.cost_nano(entry))
    ended = (entry.logged, entry.id, used.status, used.duration_seconds)
    windows = (entry.minute_at, entry.day_at, *used.beyond(entry))
    if not await database.call(SETTLE, entry.key_id, *windows, *metered, *ended):
        await database.run(settle(entry, used))


def soft_budget(entry: Entry, soft_fraction: float) -> Steps[Spending | None]:
    """The spending of an entry's key, once a month, from where it is over its soft budget."""
    (key,) = yield FIND, (entry.key_id,)
    budget, month_at = key["budget_nano"], month_of(entry.asked_at)
    if budget is None:
        return None
    (row,) = yield SPENT, (entry.key_id, month_at)
    spent = int(row["spent"])
    if spent < soft_fraction * budget or not (yield TELL_ONCE, (entry.key_id, month_at)):
        return None
    return Spending(entry.key_id, key["name"], spent, budget, month_at)


def log(entry: Entry, used: Used) -> Steps[None]:
    """Write down a request that is refused."""
    yield _logged(entry, used)


def _logged(entry: Entry, used: Used | None) -> Statement:
    """An entry of the log: with how it ended, or with what it has reserved."""
    tokens = (entry.prompt_tokens, entry.completion_tokens, entry.cost_nano) if used is None else (0, 0, 0)
    status, duration = (None, None) if used is None else (used.status, used.duration_seconds)
    named = (entry.id, entry.request_id, entry.key_id, entry.asked_at, entry.endpoint, entry.model, entry.path)
    return LOG, (*named, status, *tokens, duration, entry.body)


def prune(now: float, log_days: int) -> Steps[None]:
    """Remove what nothing asks for any more."""
    yield "DELETE FROM windows WHERE period_seconds = 60 AND started_at < $1", (int(now) - DAY,)
    yield "DELETE FROM windows WHERE period_seconds = 86400 AND started_at < $1", (int(now) - KEPT_DAYS * DAY,)
    yield "DELETE FROM requests WHERE asked_at < $1", (now - log_days * DAY,)


def month_of(now: float) -> int:
    """When the month began."""
    day = datetime.fromtimestamp(now, UTC)
    return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())


def next_month(now: float) -> int:
    day = datetime.fromtimestamp(now, UTC)
    return int(datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC).timestamp())


def no_key(message: str) -> Refused:
    """The refusal of a key that does not count."""
    return Refused(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _rate_exceeded(what: str, period: str, limit: int, used: int, wanted: int, wait_seconds: float | None) -> Exceeded:
    told = f"rate limit reached for {what} per {period}: limit {limit}, used {used}, asked for {wanted}"
    if wait_seconds is None:
        told = f"{told}. The request alone may use more: give less text, or a smaller max_tokens"
    refused = _exceeded(told, what, wait_seconds)
    refused.missing_tokens = used + wanted - limit if what == "tokens" else 0
    return refused


def _check_budget(budget_nano: int, spent_nano: int, entry: Entry, wait_seconds: float) -> None:
    if spent_nano + entry.cost_nano <= budget_nano:
        return
    budget, spent, wanted = (amount / NANO for amount in (budget_nano, spent_nano, entry.cost_nano))
    told = f"the key's budget of {budget:g} a month: {spent:.6g} is spent or reserved, and this may cost {wanted:.6g}"
    raise _exceeded(told, "insufficient_quota", wait_seconds)


def _exceeded(message: str, kind: str, wait_seconds: float | None) -> Exceeded:
    """A refusal with 429 as OpenAI writes it; without a wait where none would help, which its package obeys, too."""
    code = kind if kind == "insufficient_quota" else "rate_limit_exceeded"
    headers = {"x-should-retry": "false"}
    if wait_seconds is not None:
        seconds = max(1, math.ceil(wait_seconds))
        headers = {"Retry-After": str(seconds)}
        message = f"{message}. Try again in {seconds} s"
    return Exceeded(429, message, kind=kind, code=code, headers=headers)
