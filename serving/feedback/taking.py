"""Around the application of a replica: every answer gets a receipt, and what people say of answers is kept.

Nothing is kept without consent, and of who says it only the id of the key. Which artifact answered is what the receipt
says, and never what the client does.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from cluster.core.feedback import Answer, Choice, Edit, Given, Kept, Line, Sent, Thumb, Withdrawal
from cluster.core.specs.feedback import Feedback
from cluster.core.storage.location import Location
from serving.admission import GENERATED
from serving.asgi import (
    ARTIFACT_HEADER,
    FEEDBACK_PATH,
    KEY_ID,
    REQUEST_ID,
    Application,
    Message,
    Receive,
    Scope,
    Send,
    error,
    path_of,
)
from serving.feedback.log import FeedbackLog
from serving.feedback.receipts import Receipt, Receipts
from serving.keys.guard import NAME_LETTERS
from serving.keys.key import redacted
from serving.limits import Refused

RECEIPT_HEADER = b"trunkline-receipt"
SENT: msgspec.json.Decoder[Sent] = msgspec.json.Decoder(Sent)
LOGGER = logging.getLogger(__name__)


class WithFeedback:
    """An ASGI application around another, whose answers `artifact` gives under the endpoint's name."""

    def __init__(self, app: Application, endpoint: str, artifact: str, feedback: Feedback) -> None:
        """Raises OSError where nothing can be kept there."""
        place = Location(feedback.path)
        if place.is_local:
            place.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # conversations are nobody else's business
        self.app, self.endpoint, self.artifact, self.body_bytes = app, endpoint, artifact, feedback.body_bytes
        self.receipts, self.log = Receipts.at(place), FeedbackLog(place)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        if path == FEEDBACK_PATH:
            await self._take(scope, receive, send)
        elif path in GENERATED:
            await self.app(scope, receive, self._with_receipt(scope, send))
        else:
            await self.app(scope, receive, send)

    def _with_receipt(self, scope: Scope, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                # A canary, to which this replica has passed the request on, has said what it is.
                other = dict(message.get("headers", ())).get(ARTIFACT_HEADER)
                receipt = Receipt(
                    id=secrets.token_hex(16),
                    artifact=other.decode("latin-1") if other else self.artifact,
                    endpoint=self.endpoint,
                    request=redacted(scope[REQUEST_ID])[:NAME_LETTERS],
                    key=scope[KEY_ID],
                    answered_at=round(time.time(), 3),
                )
                headers = [*message.get("headers", ()), (RECEIPT_HEADER, self.receipts.sign(receipt))]
                message = {**message, "headers": headers}
            await send(message)

        return told

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":  # which a page of another origin cannot send unless it may
                raise Refused(415, "the body must be application/json")
            body = (await receive()).get("body", b"")  # whole: the gateway has read it
            if len(body) > self.body_bytes:
                raise Refused(413, f"the body is longer than {self.body_bytes} bytes (endpoint.feedback.body_bytes)")
            line = Line(id=secrets.token_hex(16), at=time.time(), key=scope[KEY_ID], said=self._checked(body, scope))
            await self._keep(line)
        except Refused as refused:
            await error(refused)(scope, receive, send)
            return
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": msgspec.json.encode({"id": line.id, "kept": True})})

    def _checked(self, body: bytes, scope: Scope) -> Kept:
        """What is said, with what receipts say in their place. Raises Refused."""
        try:
            sent = SENT.decode(body)
        except msgspec.ValidationError as wrong:
            message, _, where = str(wrong).partition(" - at `$.")
            raise Refused(400, message, where.rstrip("`") or None) from None
        if isinstance(sent, Withdrawal):  # which is no more than what it takes back had consent for
            return Withdrawal(answer=self._answer(sent.answer, "answer", scope), model=sent.model)
        if not sent.consent:
            raise Refused(400, "nothing is kept without consent: true", "consent", code="consent_required")
        if sent.messages[-1].role != "user":
            raise Refused(400, "the last message before an answer is the user's", "messages")
        about: dict[str, Any] = {name: getattr(sent, name) for name in ("model", "consent", "messages", "sampling")}

        def answer(name: str) -> Answer:
            given: Given = getattr(sent, name)
            if not given.text.strip():
                raise Refused(400, "an answer that says nothing", f"{name}.text")
            return self._answer(given, name, scope)

        return _kept(sent, answer, about)

    def _answer(self, given: Given, name: str, scope: Scope) -> Answer:
        receipt = self.receipts.read(given.receipt)
        if receipt is None:
            raise Refused(
                400,
                "not a receipt of this endpoint, or of one that keeps its feedback at the same place: send the "
                f"{RECEIPT_HEADER.decode()} header of the answer",
                f"{name}.receipt",
            )
        if receipt.key != scope[KEY_ID]:
            raise Refused(403, "this answer was given to another key", f"{name}.receipt", code="receipt_not_yours")
        told = {field: getattr(receipt, field) for field in ("id", "artifact", "endpoint", "request", "answered_at")}
        return Answer(**told, text=given.text)

    async def _keep(self, line: Line) -> None:
        try:
            await self.log.write(line)
        except Exception as failed:  # of whichever library reaches the place
            LOGGER.error("feedback cannot be kept: %s: %s", type(failed).__name__, failed)
            raise Refused(
                503, "the feedback cannot be kept just now", kind="server_error", headers={"Retry-After": "5"}
            ) from None


def _kept(sent: Sent, answer: Callable[[str], Answer], about: dict[str, Any]) -> Kept:
    if isinstance(sent, Thumb):
        return Thumb(answer=answer("answer"), thumb=sent.thumb, **about)
    if isinstance(sent, Choice):
        chosen, rejected = answer("chosen"), answer("rejected")
        if chosen.text == rejected.text:
            raise Refused(400, "both answers are the same", "rejected.text")
        return Choice(chosen=chosen, rejected=rejected, **about)
    assert isinstance(sent, Edit)
    if not sent.edit.strip() or sent.edit == sent.answer.text:
        raise Refused(400, "no other text than the answer", "edit")
    return Edit(answer=answer("answer"), edit=sent.edit, **about)
