"""What people say of answers: taken with consent and a receipt only, kept in files that no two replicas share."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.core.feedback import Line, counting, read
from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.feedback import Feedback
from cluster.core.storage.location import Location
from serving.asgi import Application
from serving.gateway import gateway
from serving.keys.administration import Administration
from tests.serving.keys.small_app import CONTEXT, REF, Small, asking, make_key

OTHER = "sft/other-ba9876543210"
ASKED: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
ABOUT: dict[str, Any] = {
    "model": "chat",
    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}],
    "sampling": {"temperature": 0.7, "stop": ["\n"]},
    "consent": True,
}


async def endpoint(place: Path | str, keys: str = "", artifact: str = REF, small: Small | None = None,
                   feedback: dict[str, Any] | None = None, **access: Any) -> Application:  # fmt: skip
    wanted = Access(keys=bool(keys), database=keys, **access)
    kept = Feedback(path=str(place), **(feedback or {}))
    app = (small or Small()).app
    return await gateway(app, "chat", artifact, EndpointSpec(model="m", access=wanted, feedback=kept), CONTEXT)


async def receipt(client: httpx.AsyncClient, **changes: Any) -> str:
    reply = await client.post("/v1/chat/completions", json=ASKED | changes)
    assert reply.status_code == 200, reply.text
    return reply.headers["trunkline-receipt"]


def thumb(receipt: str, way: str = "up", text: str = "one two", **changes: Any) -> dict[str, Any]:
    return {"kind": "thumb", **ABOUT, "answer": {"text": text, "receipt": receipt}, "thumb": way} | changes


def lines(place: Path | str) -> list[Line]:
    found = [line for _, line in read(Location(place))]
    assert all(isinstance(line, Line) for line in found), found
    return [line for line in found if isinstance(line, Line)]


def refused(reply: httpx.Response, status: int, param: str | None = None) -> str:
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (reply.status_code, error["param"]) == (status, param), reply.text
    return str(error["message"])


def test_what_is_said_is_kept_with_what_the_gateway_knows(tmp_path: Path) -> None:
    """Thumb, choice and edit, behind keys; which artifact answered is what it says itself."""
    database, place = str(tmp_path / "keys.sqlite"), tmp_path / "said"
    key_id, key = make_key(database)

    async def work() -> None:
        async with asking(await endpoint(place, database), key) as client:
            first, second = await receipt(client), await receipt(client, stream=True)
            said = [
                thumb(first),
                {"kind": "choice", **ABOUT, "chosen": {"text": "b", "receipt": second},
                 "rejected": {"text": "a", "receipt": first}},
                {"kind": "edit", **ABOUT, "answer": {"text": "a", "receipt": first}, "edit": f"better, {key}"},
            ]  # fmt: skip
            for each in said:
                reply = await client.post("/feedback", json=each, headers={"x-request-id": "x"})
                assert reply.status_code == 200 and reply.json()["kept"] is True
                assert reply.headers["trunkline-artifact"] == REF

    asyncio.run(work())
    kept = lines(place)
    assert [type(line.said).__name__ for line in kept] == ["Thumb", "Choice", "Edit"]
    assert {line.key for line in kept} == {key_id}
    up, choice, edit = (line.said for line in kept)
    assert up.answer.artifact == choice.chosen.artifact == REF and up.answer.id != choice.chosen.id
    assert up.answer.endpoint == "chat" and up.consent and up.sampling.stop == ["\n"]
    assert [each.role for each in up.messages] == ["system", "user"]
    (entry,) = [e for e in Administration(database).requests(9) if e["request_id"] == up.answer.request]
    assert entry["path"] == "/v1/chat/completions"
    everything = "".join(path.read_text() for path in place.glob("*.jsonl"))
    assert key not in everything and f"tk_{key_id}_REDACTED" in edit.edit
    assert place.stat().st_mode & 0o077 == 0


def test_nothing_is_kept_without_consent(tmp_path: Path) -> None:
    """And a log of prompts does not keep it either."""
    database, place = str(tmp_path / "keys.sqlite"), tmp_path / "said"
    _, key = make_key(database)

    async def work() -> None:
        async with asking(await endpoint(place, database, request_log="prompts"), key) as client:
            given = await receipt(client)
            for consent in ({"consent": False}, {"consent": "yes"}):
                said = thumb(given, text="canary") | consent
                assert "consent" in refused(await client.post("/feedback", json=said), 400, "consent") or consent
            without = {name: value for name, value in thumb(given, text="canary").items() if name != "consent"}
            reply = await client.post("/feedback", json=without)
            assert reply.json()["error"]["code"] == "consent_required"

    asyncio.run(work())
    assert lines(place) == []
    assert all("canary" not in json.dumps(dict(e)) for e in Administration(database).requests(9))


WRONG: dict[str, tuple[dict[str, Any], str | None]] = {
    "kind": ({"kind": "like"}, "kind"),
    "thumb": ({"thumb": "sideways"}, "thumb"),
    "unknown field": ({"artifact": "sft/mine"}, None),
    "no messages": ({"messages": []}, "messages"),
    "empty message": ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
    "role": ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
    "answered already": ({"messages": [*ABOUT["messages"], {"role": "assistant", "content": "x"}]}, "messages"),
    "sampling": ({"sampling": {"temperature": "hot"}}, "sampling.temperature"),
    "empty answer": ({"answer": {"text": " ", "receipt": "x"}}, "answer.text"),
    "no receipt": ({"answer": {"text": "x"}}, "answer"),
    "receipt": ({"answer": {"text": "x", "receipt": "ä.b"}}, "answer.receipt"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_of_the_schema_is_refused_by_name(tmp_path: Path, wrong: str) -> None:
    changes, param = WRONG[wrong]

    async def work() -> None:
        async with asking(await endpoint(tmp_path)) as client:
            reply = await client.post("/feedback", json=thumb(await receipt(client)) | changes)
            refused(reply, 400, param)
            same = {"text": "a", "receipt": await receipt(client)}
            refused(await client.post("/feedback", json={"kind": "choice", **ABOUT, "chosen": same, "rejected": same}),
                    400, "rejected.text")  # fmt: skip
            edit = {"kind": "edit", **ABOUT, "answer": same, "edit": "a"}
            refused(await client.post("/feedback", json=edit), 400, "edit")

    asyncio.run(work())
    assert lines(tmp_path) == []


def test_a_receipt_cannot_be_made_or_borrowed(tmp_path: Path) -> None:
    """Not changed, not of another log, not of another key."""
    database = str(tmp_path / "keys.sqlite")
    keys = [make_key(database, name)[1] for name in ("alice", "bob")]

    async def work() -> None:
        async with (
            asking(await endpoint(tmp_path / "one", database), keys[0]) as alice,
            asking(await endpoint(tmp_path / "one", database), keys[1]) as bob,
            asking(await endpoint(tmp_path / "two", database), keys[0]) as elsewhere,
        ):
            mine = await receipt(alice)
            said, mac = mine.split(".")
            claimed = json.loads(base64.urlsafe_b64decode(said)) | {"artifact": OTHER}
            forged = f"{base64.urlsafe_b64encode(json.dumps(claimed).encode()).decode()}.{mac}"
            for wrong in (forged, said, f"{said}.", f".{mac}", f"{mine}A", await receipt(elsewhere)):
                refused(await alice.post("/feedback", json=thumb(wrong)), 400, "answer.receipt")
            borrowed = await bob.post("/feedback", json=thumb(mine))
            assert borrowed.json()["error"]["code"] == "receipt_not_yours" and borrowed.status_code == 403
            assert (await alice.post("/feedback", json=thumb(mine))).status_code == 200

    asyncio.run(work())
    assert len(lines(tmp_path / "one")) == 1 and lines(tmp_path / "two") == []


def test_after_a_change_of_the_model_what_answered_is_still_known(tmp_path: Path) -> None:
    """And of two endpoints that keep feedback at one place, a choice names both."""

    async def work() -> None:
        async with (
            asking(await endpoint(tmp_path)) as before,
            asking(await endpoint(tmp_path, artifact=OTHER)) as after,
        ):
            old, new = await receipt(before), await receipt(after)
            assert (await after.post("/feedback", json=thumb(old, "down"))).status_code == 200
            both = {"chosen": {"text": "b", "receipt": new}, "rejected": {"text": "a", "receipt": old}}
            assert (await before.post("/feedback", json={"kind": "choice", **ABOUT, **both})).status_code == 200

    asyncio.run(work())
    assert len(list(tmp_path.glob("*.jsonl"))) == 2  # a file for each replica
    down, choice = (line.said for line in sorted(lines(tmp_path), key=lambda line: line.at))
    assert down.answer.artifact == REF
    assert (choice.chosen.artifact, choice.rejected.artifact) == (OTHER, REF)


def test_of_an_answer_that_was_passed_on_the_receipt_names_what_gave_it(tmp_path: Path) -> None:
    """A share of the requests is a canary's, whose answers say so in their header."""
    small = Small()
    inner = small.app

    async def canary(scope: Any, receive: Any, send: Any) -> None:
        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"trunkline-artifact", OTHER.encode())]}
            await send(message)

        await inner(scope, receive, told)

    async def work() -> None:
        small.app = canary  # type: ignore[assignment]
        async with asking(await endpoint(tmp_path, small=small)) as client:
            assert (await client.post("/feedback", json=thumb(await receipt(client)))).status_code == 200

    asyncio.run(work())
    (line,) = lines(tmp_path)
    assert line.said.answer.artifact == OTHER


def test_the_last_word_counts_and_a_withdrawal_takes_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with asking(await endpoint(tmp_path)) as client:
            first, second = await receipt(client), await receipt(client)
            withdrawn = {"kind": "withdrawal", "answer": {"receipt": first}}
            for said in (thumb(first), thumb(second), thumb(second, "down"), withdrawn):
                assert (await client.post("/feedback", json=said)).status_code == 200

    asyncio.run(work())
    counted, others = counting(lines(tmp_path))
    assert [line.said.thumb for line in counted] == ["down"]
    assert sorted(reason.partition(":")[0] for _, reason in others) == ["said again", "withdrawal", "withdrawn"]


def test_limits_kinds_of_body_and_keys(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    _, key = make_key(database, quotas={"requests_per_minute": 3})

    async def work() -> None:
        app = await endpoint(tmp_path / "said", database, feedback={"body_bytes": 2000})
        async with asking(app) as nobody:
            assert (await nobody.post("/feedback", json=thumb("x"))).status_code == 401
            assert (await nobody.get("/feedback")).status_code == 405
            headers = {"Authorization": f"Bearer {key}"}
            said = thumb("x", text="x" * 3000)
            assert "endpoint.feedback.body_bytes" in refused(
                await nobody.post("/feedback", json=said, headers=headers), 413
            )
            simple = headers | {"content-type": "text/plain"}  # what any page may send without being asked
            assert (await nobody.post("/feedback", content=json.dumps(said), headers=simple)).status_code == 415
            assert (await nobody.post("/feedback", json=thumb("x"), headers=headers)).status_code == 400
            assert (await nobody.post("/feedback", json=thumb("x"), headers=headers)).status_code == 429

    asyncio.run(work())
    assert lines(tmp_path / "said") == []


def test_without_a_place_there_is_no_feedback_and_no_receipt(tmp_path: Path) -> None:
    async def work() -> None:
        async with asking(await endpoint("")) as client:
            reply = await client.post("/v1/chat/completions", json=ASKED)
            assert reply.status_code == 200 and "trunkline-receipt" not in reply.headers
            assert (await client.post("/feedback", json=thumb("x"))).status_code == 404
        async with asking(await endpoint(tmp_path)) as client:
            failed = await client.post("/v1/chat/completions", json=ASKED | {"fail": 400})
            assert failed.status_code == 400 and "trunkline-receipt" not in failed.headers

    asyncio.run(work())


def test_a_place_that_takes_nothing_more_is_said_and_recovers(tmp_path: Path) -> None:
    place = tmp_path / "said"

    async def work() -> None:
        async with asking(await endpoint(place)) as client:
            given = await receipt(client)
            place.rename(tmp_path / "gone")
            place.write_text("a file, where a folder was")
            reply = await client.post("/feedback", json=thumb(given))
            assert refused(reply, 503) and reply.headers["retry-after"]
            assert str(tmp_path) not in reply.text
            place.unlink()
            (tmp_path / "gone").rename(place)
            assert (await client.post("/feedback", json=thumb(given))).status_code == 200

    asyncio.run(work())
    assert len(lines(place)) == 1


def test_an_object_store_keeps_it_too(s3_server: None) -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir("clicks")
    place = "s3://clicks/said"

    async def work() -> None:
        for _ in range(2):  # two replicas, one after the other
            async with asking(await endpoint(place)) as client:
                given = await receipt(client)
                for way in ("up", "down"):
                    assert (await client.post("/feedback", json=thumb(given, way))).status_code == 200

    asyncio.run(work())
    assert [line.said.thumb for line in sorted(lines(place), key=lambda line: line.at)] == ["up", "down"] * 2
