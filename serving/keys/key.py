"""A key: `tk_ID_SECRET`. The id names it everywhere; the secret is shown once, and of it only the SHA-256 is kept.

The secret is 256 random bits, which nobody finds by trying: a slow hash, as passwords need, would cost every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

SECRET_BYTES = 32
KEY = re.compile(r"tk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
ANSWERS, METRICS = "answers", "metrics"  # scopes: what a key opens
SCOPES = (ANSWERS, METRICS)
LISTS = ("endpoints", "models", "scopes")  # which the database keeps as JSON
QUOTAS = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
NANO = 1_000_000_000


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the database keeps it. No `endpoints` or `models` are all of them; a quota of None is none."""

    id: str
    digest: str
    name: str
    endpoints: list[str]
    models: list[str]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    used_at: int | None
    requests_per_minute: int | None
    requests_per_day: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    budget_nano: int | None
    scopes: list[str]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Key:
        found = {name: row[name] for name in cls.__struct_fields__}
        return cls(**found | {name: msgspec.json.decode(found[name]) for name in LISTS})

    def fits(self, secret: str) -> bool:
        """Whether a secret is this key's, in a time that does not depend on how alike they are."""
        return hmac.compare_digest(digest(secret), self.digest)

    def ended(self, now: float) -> str:
        """Why it counts no more, or nothing."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else ""


def new_secret() -> tuple[str, str]:
    """An id, and a secret."""
    return secrets.token_hex(6), secrets.token_urlsafe(SECRET_BYTES)


def written(key_id: str, secret: str) -> str:
    """A key as its owner gets it."""
    return f"tk_{key_id}_{secret}"


def parsed(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key as it is given, or None where it is none."""
    found = KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def redacted(text: str) -> str:
    """A text in which the keys that somebody put there are their ids."""
    return KEY.sub(r"tk_\1_REDACTED", text)
