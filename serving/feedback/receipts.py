"""Receipts: what an endpoint says of an answer that it gave, signed, so that it believes it when it is given back.

Which artifact answered, to whom and when is then known behind any replica and after any change of the model, and no
client can claim it. The text is not signed: it is not known when the headers go.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from cluster.core.storage.location import Location

SECRET_FILE = "receipts.secret"  # in the folder of the log, which all replicas and versions of its endpoints share
SECRET_BYTES = 32


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was given. `key` is the id of the key that asked, `request` what the log calls the request."""

    id: str
    artifact: str
    endpoint: str
    request: str
    key: str
    answered_at: float


class Receipts:
    """Signs and reads receipts."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def at(cls, place: Location) -> Receipts:
        """Those of a log. Of many that begin it at once, one makes the secret."""
        if not place.exists(SECRET_FILE):
            place.create(SECRET_FILE, secrets.token_bytes(SECRET_BYTES))
        return cls(place.read_bytes(SECRET_FILE))

    def sign(self, receipt: Receipt) -> bytes:
        said = urlsafe_b64encode(msgspec.json.encode(receipt))
        return said + b"." + self._mac(said)

    def read(self, text: str) -> Receipt | None:
        """What a receipt says, or None where it is not one of ours."""
        said, _, mac = text.encode(errors="replace").partition(b".")
        if not hmac.compare_digest(mac, self._mac(said)):
            return None
        try:
            return msgspec.json.decode(urlsafe_b64decode(said), type=Receipt)
        except msgspec.MsgspecError:  # of another version of ours
            return None

    def _mac(self, said: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(self._secret, said, hashlib.sha256))
