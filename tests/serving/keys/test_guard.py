"""Who is answered: keys as a client sends them, as their administrator ends them, and as nothing tells them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.gateway import ROUTES
from serving.keys.administration import Administration
from serving.keys.database import Steps, database_at
from serving.keys.key import parsed, redacted
from tests.serving.keys.small_app import Small, asking, behind, make_key

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 5}


def error_of(reply: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.heavy
def test_without_a_key_nothing_but_health_is_there(database: str) -> None:
    async def work() -> None:
        small = Small()
        async with asking(await behind(small, database)) as client:
            for path, method in ROUTES.items():
                reply = await client.request(method, path, json=CHAT if method == "POST" else None)
                if path == "/health":
                    assert reply.status_code == 200
                    continue
                assert reply.status_code == 401, path
                assert error_of(reply)["code"] == "invalid_api_key"
                assert reply.headers["www-authenticate"] == "Bearer" and reply.headers["x-request-id"]
            for path in ("/invocations", "/pause", "/scale_elastic_ep", "/docs"):
                assert (await client.post(path, json={})).status_code == 404
        assert [headers for headers, _ in small.seen if "authorization" in headers] == []
        assert len(small.seen) == 1  # of /health

    asyncio.run(work())


def test_a_key_opens_what_it_is_for(database: str) -> None:
    _, key = make_key(database)
    _, elsewhere = make_key(database, "elsewhere", endpoints=("other",))
    _, here = make_key(database, "here", endpoints=("other", "chat"), models=("chat", "adapter"))

    async def work() -> None:
        small = Small()
        async with asking(await behind(small, database)) as client:

            async def ask(key: str, **changes: Any) -> httpx.Response:
                headers = {"Authorization": f"Bearer {key}"}
                return await client.post("/v1/chat/completions", json=CHAT | changes, headers=headers)

            assert (await ask(key)).json()["choices"][0]["text"] == "one two three four five"
            assert (await ask(here)).status_code == 200
            assert (await ask(here, model="adapter")).status_code == 200
            foreign = await ask(here, model="mine")
            assert foreign.status_code == 403 and error_of(foreign)["param"] == "model"
            refused = await ask(elsewhere)
            assert refused.status_code == 403 and error_of(refused)["code"] == "endpoint_not_allowed"
            for wrong in ("", "x", key[:-1], key[:-1] + ("a" if key[-1] != "a" else "b"), f"{key} ", "tk_" + "0" * 56):
                status = (await ask(wrong)).status_code
                assert status == (200 if wrong.strip() == key else 401), wrong
            unknown = f"tk_{'0' * 12}_{key[-43:]}"
            assert error_of(await ask(unknown))["message"] == error_of(await ask(f"{key[:-2]}zz"))["message"]
            for headers in ([("authorization", f"Basic {key}")], [("authorization", f"Bearer {key}")] * 2):
                assert (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 401
            models = await client.get("/v1/models", headers={"Authorization": f"bearer {key}"})
            assert models.json()["data"][0]["id"] == "chat"
        assert all("authorization" not in headers for headers, _ in small.seen)

    asyncio.run(work())


def test_figures_are_for_keys_of_their_own(database: str) -> None:
    _, asks = make_key(database)
    _, looks = make_key(database, "prometheus", scopes=("metrics",))
    _, both = make_key(database, "operator", scopes=("answers", "metrics"))

    async def work() -> None:
        async with asking(await behind(Small(), database)) as client:
            for key, figures, answers in ((asks, 403, 200), (looks, 200, 403), (both, 200, 200)):
                headers = {"Authorization": f"Bearer {key}"}
                told = [await client.get("/metrics", headers=headers), await client.get("/v1/models", headers=headers)]
                told.append(await client.post("/v1/chat/completions", json=CHAT, headers=headers))
                assert [reply.status_code for reply in told] == [figures, answers, answers]
                refused = [error_of(reply)["code"] for reply in told if reply.status_code == 403]
                assert set(refused) <= {"scope_not_allowed"}

    asyncio.run(work())


def test_keys_made_before_there_were_scopes_are_for_answers(database: str) -> None:
    make_key(database, "earlier")

    async def older() -> None:
        opened = database_at(database)
        await opened.open()
        await opened.run(drop())
        await opened.close()

    def drop() -> Steps[None]:
        yield "ALTER TABLE keys DROP COLUMN scopes", ()

    asyncio.run(older())
    make_key(database, "later", scopes=("metrics",))
    found = {key.name: key.scopes for key in Administration(database).list_keys()}
    assert found == {"earlier": ["answers"], "later": ["metrics"]}


def test_who_has_no_key_sends_no_body(database: str) -> None:
    """Refused before a byte of it is read."""

    async def work() -> None:
        sent = 0

        async def pieces() -> Any:
            nonlocal sent
            for _ in range(100):
                sent += 1
                yield b" " * 65_536

        async with asking(await behind(Small(), database)) as client:
            assert (await client.post("/v1/completions", content=pieces())).status_code == 401
        assert sent == 0

    asyncio.run(work())


def test_a_revoked_key_counts_no_more_from_the_next_request_on(database: str) -> None:
    """What has begun is finished. The administration is another process's, as `ctl` is."""
    key_id, key = make_key(database)

    async def work() -> None:
        small = Small()
        small.go.clear()
        async with asking(await behind(small, database), key) as client, asyncio.TaskGroup() as group:
            asked = {"model": "chat", "prompt": "x", "max_tokens": 9, "stream": True, "words": 6}
            begun = group.create_task(client.post("/v1/completions", json=asked))
            while not small.seen:
                await asyncio.sleep(0)
            assert (await client.get("/v1/models")).status_code == 200
            await asyncio.to_thread(Administration(database).revoke, key_id)
            for path, method in ROUTES.items():
                if path != "/health":
                    reply = await client.request(method, path, json=CHAT if method == "POST" else None)
                    assert reply.status_code == 401 and "revoked" in error_of(reply)["message"]
            small.go.set()
            assert (await begun).text.endswith("data: [DONE]\n\n")

    asyncio.run(work())


def test_an_expired_key_counts_no_more(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = make_key(database, lifetime_seconds=3600)

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:
            assert (await client.get("/v1/models")).status_code == 200
            import time

            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + 3601)
            for asked in (client.get("/v1/models"), client.post("/v1/chat/completions", json=CHAT)):
                reply = await asked
                assert reply.status_code == 401 and "expired" in error_of(reply)["message"]

    asyncio.run(work())


def test_keys_and_texts_stand_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the database, not in a log, not in an error: also those that a client puts where they do not belong."""
    database = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(database)
    caplog.set_level(logging.DEBUG)

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:
            secret_text = {"model": "chat", "prompt": "the canary sings", "max_tokens": 3}
            told = [await client.post("/v1/completions", json=secret_text, headers={"x-request-id": key})]
            told += [await client.post("/v1/completions", json={"model": key, "prompt": f"my key is {key}"})]
            told += [await client.post("/v1/completions", json={**secret_text, "n": 99, "user": key})]
            told += [await client.post("/v1/completions", json={**secret_text, "crash": True})]
            assert [reply.status_code for reply in told] == [200, 200, 400, 500]
            assert key not in "".join(reply.text for reply in told)

    asyncio.run(work())
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    output = "".join((caplog.text, *capfd.readouterr()))
    for secret in (key, parsed(key)[1], "canary"):  # type: ignore[index]
        assert secret.encode() not in kept and secret not in output
    assert key_id.encode() in kept
    assert (tmp_path / "keys.sqlite").stat().st_mode & 0o077 == 0


def test_the_request_log_has_figures_and_texts_only_where_asked(database: str) -> None:
    key_id, key = make_key(database)

    async def ask(**access: Any) -> None:
        async with asking(await behind(Small(), database, **access), key) as client:
            headers = {"x-request-id": "mine"}
            asked = {"model": "chat", "prompt": f"a canary, and {key}", "max_tokens": 3}
            assert (await client.post("/v1/completions", json=asked, headers=headers)).status_code == 200

    administration = Administration(database)
    asyncio.run(ask(request_log="off"))
    assert administration.requests(9) == []
    asyncio.run(ask())
    (entry,) = administration.requests(9)
    named = (
        "request_id",
        "key_id",
        "endpoint",
        "model",
        "path",
        "status",
        "prompt_tokens",
        "completion_tokens",
        "body",
    )
    assert [entry[name] for name in named] == ["mine", key_id, "chat", "chat", "/v1/completions", 200, 4, 3, None]
    assert 0 < entry["duration_seconds"] < 60
    asyncio.run(ask(request_log="prompts"))
    body = administration.requests(1)[0]["body"]
    assert "a canary" in body and key not in body and f"tk_{key_id}_REDACTED" in body
    assert redacted(key) == f"tk_{key_id}_REDACTED"


def test_changes_of_keys_are_kept_with_who_made_them(database: str) -> None:
    key_id, key = make_key(database, "alice", endpoints=("chat",))
    Administration(database).revoke("alice")
    revoked, created = Administration(database).audits(9)
    assert (created["action"], revoked["action"]) == ("create", "revoke")
    assert created["key_id"] == revoked["key_id"] == key_id and "@" in created["actor"]
    assert "chat" in str(created["details"]) and parsed(key)[1] not in str(created)  # type: ignore[index]
    make_key(database, "alice")  # the name is free again


def test_where_the_keys_cannot_be_read_nobody_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = str(tmp_path / "keys.sqlite")
    _, key = make_key(database)

    async def work() -> None:
        async with asking(await behind(Small(), database), key) as client:
            with sqlite3.connect(database) as other:
                other.execute("DROP TABLE keys")
            for asked in (client.get("/v1/models"), client.post("/v1/chat/completions", json=CHAT)):
                reply = await asked
                assert reply.status_code == 503 and reply.headers["retry-after"]
                assert "sqlite" not in reply.text and "table" not in reply.text
            assert (await client.get("/health")).status_code == 200

    asyncio.run(work())
    assert "no such table" in caplog.text  # for whoever runs it


def test_pages_of_other_origins_ask_only_where_they_may(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    _, key = make_key(database)
    page = {"Origin": "https://chat.example.org"}
    before = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    async def work() -> None:
        async with asking(await behind(Small(), database, origins=("https://chat.example.org",))) as client:
            asked = await client.options("/v1/chat/completions", headers=before)
            assert asked.headers["access-control-allow-origin"] == page["Origin"]
            other = await client.options("/v1/chat/completions", headers=before | {"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in other.headers
            refused = await client.post("/v1/chat/completions", json=CHAT, headers=page)
            assert refused.status_code == 401  # which the page may read
            assert refused.headers["access-control-allow-origin"] == page["Origin"]
            answered = await client.post(
                "/v1/chat/completions", json=CHAT, headers=page | {"Authorization": f"Bearer {key}"}
            )
            assert answered.status_code == 200
            assert "trunkline-artifact" in answered.headers["access-control-expose-headers"]
        async with asking(await behind(Small(), database), key) as client:
            assert (await client.options("/v1/chat/completions", headers=before)).status_code == 405
            reply = await client.get("/v1/models", headers=page)
            assert "access-control-allow-origin" not in reply.headers

    asyncio.run(work())
