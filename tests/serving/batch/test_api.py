"""Files and batches of an endpoint, as the `openai` package asks for them; its model is a small application."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cluster.core.specs.access import Access
from cluster.core.specs.batches import Batches
from cluster.core.specs.endpoint import EndpointSpec
from serving.admission import Admission
from serving.batch import over_gateway
from serving.gateway import gateway
from serving.keys.administration import Administration
from tests.serving.keys.small_app import CONTEXT, REF, Small, make_key

PATH = "/v1/completions"


def lines(count: int, **body: Any) -> bytes:
    asked = {"model": "chat", "prompt": "say it", "max_tokens": 4, **body}
    rows = [
        {"custom_id": f"line-{n}", "method": "POST", "url": PATH, "body": asked | {"seed": n}} for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@asynccontextmanager
async def endpoint(
    folder: Path, small: Small, *, keys: bool = True, admission: Admission | None = None, **limits: Any
) -> AsyncIterator[Any]:
    """What makes clients of an endpoint that keeps batches below a folder, as long as its replica lives."""
    batches = Batches(path=str(folder / "batches"), **limits)
    access = Access(keys=keys, database=str(folder / "keys.sqlite"))
    served = await gateway(
        small.app, "chat", REF, EndpointSpec(model="m", access=access, batches=batches), CONTEXT, admission
    )
    transport = httpx.ASGITransport(app=served, raise_app_exceptions=False)

    def client(key: str = "none") -> openai.AsyncOpenAI:
        http = httpx.AsyncClient(transport=transport)
        return openai.AsyncOpenAI(api_key=key, base_url="http://endpoint/v1", http_client=http, max_retries=0)

    try:
        yield client
    finally:
        await served.batches.close()
        if served.guard:
            await served.guard.close()


async def ended(client: openai.AsyncOpenAI, batch_id: str) -> Any:
    while (batch := await client.batches.retrieve(batch_id)).status not in (
        "completed", "failed", "cancelled", "expired",
    ):  # fmt: skip
        await asyncio.sleep(0.01)
    return batch


async def begun(client: openai.AsyncOpenAI, data: bytes, **more: Any) -> Any:
    file = await client.files.create(file=("asked.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=PATH, completion_window="24h", **more
    )  # fmt: skip


def test_a_batch_by_the_openai_package(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(database)
    _, other = make_key(database, "other")

    async def work() -> None:
        async with endpoint(tmp_path, Small()) as client:
            mine, theirs = client(key), client(other)
            data = lines(20) + lines(1, fail=418).replace(b"line-0", b"teapot")
            file = await mine.files.create(file=("asked.jsonl", data), purpose="batch")
            assert (file.bytes, file.filename, file.purpose) == (len(data), "asked.jsonl", "batch")
            assert (await mine.files.retrieve(file.id)) == file
            assert (await mine.files.content(file.id)).content == data
            batch = await mine.batches.create(
                input_file_id=file.id, endpoint=PATH, completion_window="24h", metadata={"of": "tests"}
            )
            assert batch.status == "validating" and batch.metadata == {"of": "tests"}
            deleted = await mine.files.delete(file.id)
            assert deleted.deleted, "the batch has it still"
            done = await ended(mine, batch.id)
            assert done.status == "completed" and done.completed_at and done.errors is None
            counts = done.request_counts
            assert (counts.total, counts.completed, counts.failed) == (21, 20, 1)
            output = (await mine.files.content(done.output_file_id)).text
            rows = [json.loads(line) for line in output.splitlines()]
            assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(20)]
            assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in rows)
            assert rows[3]["response"]["body"]["choices"][0]["text"] == "one two three four"
            [failed] = (await mine.files.content(done.error_file_id)).text.splitlines()
            assert json.loads(failed)["custom_id"] == "teapot"
            assert json.loads(failed)["response"]["status_code"] == 418
            assert {f.id for f in (await mine.files.list()).data} == {done.output_file_id, done.error_file_id}
            assert [b.id for b in (await mine.batches.list()).data] == [batch.id]
            assert (await theirs.files.list()).data == [] and (await theirs.batches.list()).data == []
            for asked in (
                theirs.files.retrieve(done.output_file_id), theirs.files.content(done.output_file_id),
                theirs.files.delete(done.output_file_id), theirs.batches.retrieve(batch.id),
                theirs.batches.cancel(batch.id), begun_of(theirs, done.output_file_id),
            ):  # fmt: skip
                with pytest.raises(openai.NotFoundError):
                    await asked
            with pytest.raises(openai.AuthenticationError):
                await client("none").files.list()

    asyncio.run(work())
    metered = Administration(database).usage(1)
    assert {row["key_id"]: row["completion_tokens"] for row in metered}[key_id] == 20 * 4, "paid as by its owner"


async def begun_of(client: openai.AsyncOpenAI, file_id: str) -> Any:
    return await client.batches.create(input_file_id=file_id, endpoint=PATH, completion_window="24h")


def test_a_batch_goes_on_in_the_next_replica(tmp_path: Path) -> None:
    """Its first one holds the answers when it goes; what was answered is not asked again."""
    _, key = make_key(str(tmp_path / "keys.sqlite"))

    async def work() -> None:
        first, second = Small(), Small()
        first.go.clear()
        data = lines(3) + lines(5, stream=False, wait=True).replace(b"line-", b"held-")
        async with endpoint(tmp_path, first, concurrency=2) as client:
            batch = await begun(client(key), data)
            while len(first.seen) < 5:
                await asyncio.sleep(0.01)
        assert len(first.seen) == 5, "two of those that are held"
        async with endpoint(tmp_path, second, concurrency=2) as client:
            done = await ended(client(key), batch.id)
            assert done.status == "completed" and done.request_counts.completed == 8
            output = (await client(key).files.content(done.output_file_id)).text
            expected = [f"line-{n}" for n in range(3)] + [f"held-{n}" for n in range(5)]
            assert [json.loads(line)["custom_id"] for line in output.splitlines()] == expected
        assert len(second.seen) == 5

    asyncio.run(work())


REPLICA = """
import asyncio, sys
from pathlib import Path
from tests.serving.batch.test_api import begun, endpoint, lines
from tests.serving.keys.small_app import Small

async def work():
    small = Small()
    small.go.clear()
    async with endpoint(Path(sys.argv[1]), small, keys=False, concurrency=2) as client:
        held = lines(5, wait=True).replace(b"line-", b"held-")
        print((await begun(client(), lines(3) + held)).id, flush=True)
        while len(small.seen) < 5:
            await asyncio.sleep(0.01)
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(work())
"""


def test_a_batch_goes_on_where_a_killed_replica_left_it(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", REPLICA, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    batch_id, held = process.stdout.readline().strip(), process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()
    assert held == "held"

    async def work() -> None:
        small = Small()
        async with endpoint(tmp_path, small, keys=False) as client:
            done = await ended(client(), batch_id)
            assert done.status == "completed" and done.request_counts.completed == 8
            output = (await client().files.content(done.output_file_id)).text
            expected = [f"line-{n}" for n in range(3)] + [f"held-{n}" for n in range(5)]
            assert [json.loads(line)["custom_id"] for line in output.splitlines()] == expected
        assert len(small.seen) == 5, "what was answered is not asked again"

    asyncio.run(work())


def test_a_batch_that_is_cancelled_or_expires_tells_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_gateway, "LOOK_SECONDS", 0.01)

    async def work() -> None:
        small = Small()
        small.go.clear()
        async with endpoint(tmp_path, small, keys=False, concurrency=1) as client:
            mine = client()
            data = lines(2) + lines(3, wait=True).replace(b"line-", b"held-")
            batch = await begun(mine, data)
            while len(small.seen) < 3:
                await asyncio.sleep(0.01)
            assert (await mine.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
            done = await ended(mine, batch.id)
            assert done.status == "cancelled" and done.cancelled_at >= done.cancelling_at
            assert (done.request_counts.completed, done.request_counts.failed) == (2, 3)
            left = (await mine.files.content(done.error_file_id)).text.splitlines()
            assert {json.loads(line)["error"]["code"] for line in left} == {"batch_cancelled"}
            with pytest.raises(openai.ConflictError):
                await mine.batches.cancel(batch.id)
            assert small.left.is_set(), "the model works on nothing of it any more"
            from serving.batch import kept

            monkeypatch.setattr(kept, "WINDOW_SECONDS", 0)
            late = await ended(mine, (await begun(mine, lines(1))).id)
            assert late.status == "expired" and late.output_file_id is None
            told = json.loads((await mine.files.content(late.error_file_id)).text)
            assert told["error"]["code"] == "batch_expired" and told["custom_id"] == "line-0"

    asyncio.run(work())


def test_a_batch_waits_as_long_as_others_wait(tmp_path: Path) -> None:
    async def work() -> None:
        small, admission = Small(), Admission(1, 8)
        async with endpoint(tmp_path, small, keys=False, admission=admission) as client:
            with admission.place({}):
                batch = await begun(client(), lines(2))
                while (await client().batches.retrieve(batch.id)).status != "in_progress":
                    await asyncio.sleep(0.01)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert small.seen == []
            assert (await ended(client(), batch.id)).status == "completed"

    asyncio.run(work())


def test_a_revoked_key_ends_its_batch(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(database)

    async def work() -> None:
        small = Small()
        small.go.clear()
        async with endpoint(tmp_path, small, concurrency=1) as client:
            await begun(client(key), lines(3, wait=True))
            while not small.seen:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(Administration(database).revoke, key_id)
            small.go.set()
            file = next((tmp_path / "batches" / "chat" / key_id / "batches").glob("batch_*.json"))
            while (told := json.loads(file.read_bytes()))["status"] != "failed":
                await asyncio.sleep(0.01)
            assert "revoked" in told["errors"]["data"][0]["message"]
        assert len(small.seen) == 1

    asyncio.run(work())


WRONG = {
    "no requests": (b"\n", "empty_file"),
    "no JSON": (b"{\n", "invalid_line"),
    "streams": (lines(1, stream=True), "invalid_line"),
    "another path": (lines(1).replace(PATH.encode(), b"/v1/responses"), "mismatched_endpoint"),
    "the same id": (lines(1) * 2, "invalid_line"),
    "too many": (lines(6), "too_many_requests"),
}


def test_a_batch_of_an_input_that_is_none_fails_by_lines(tmp_path: Path) -> None:
    async def work() -> None:
        small = Small()
        async with endpoint(tmp_path, small, keys=False, requests=5) as client:
            for name, (data, code) in WRONG.items():
                done = await ended(client(), (await begun(client(), data)).id)
                assert done.status == "failed" and done.output_file_id is None, name
                assert [error.code for error in done.errors.data] == [code], name
        assert small.seen == []

    asyncio.run(work())


def test_what_is_too_much_or_no_file_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with endpoint(tmp_path, Small(), keys=False, file_bytes=1000, files=2, unfinished=1) as client:
            mine = client()

            async def refused(asked: Any, status: int, said: str) -> None:
                with pytest.raises(openai.APIStatusError, match=said) as found:
                    await asked
                assert found.value.status_code == status
                assert isinstance(found.value.body, dict) and set(found.value.body) == {
                    "message", "type", "param", "code",
                }  # fmt: skip

            await refused(
                mine.files.create(file=("x", b"x" * 1001), purpose="batch"), 413, "endpoint.batches.file_bytes"
            )
            await refused(mine.files.create(file=("x", b"x" * 200_000), purpose="batch"), 413, "file_bytes")
            await refused(mine.files.create(file=("x", b"x"), purpose="assistants"), 400, "purpose")
            file = await mine.files.create(file=("../../x\0y", b"{}"), purpose="batch")
            assert "/" not in file.filename
            await refused(begun_of(mine, "file-" + "0" * 24), 404, "No such File")
            for path in ("file-..", "..%2f..%2fkeys", "file-" + "g" * 24, f"{file.id}.json"):
                await refused(mine.get(f"/files/{path}", cast_to=object), 404, "No such|there is no")
            create = mine.batches.create
            asked: dict[str, Any] = {"input_file_id": file.id, "completion_window": "24h", "endpoint": PATH}
            await refused(create(**asked | {"endpoint": "/v1/moderations"}), 400, "one of")
            await refused(create(**asked | {"completion_window": "1h"}), 400, "24h")
            await refused(create(**asked | {"metadata": {"x": "y" * 513}}), 400, "512")
            await refused(create(**asked | {"metadata": {"x": 1}}), 400, "str")
            await refused(mine.batches.list(limit=101), 400, "from 1 to 100")
            await refused(mine.batches.list(after="batch_x"), 400, "of this id")
            await mine.files.create(
                file=("x", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
            )
            await refused(mine.files.create(file=("x", b"x"), purpose="batch"), 429, "delete some")
            await refused(mine.post("/files", cast_to=object, body={}), 429, "delete some")
            pages = [file.id async for file in mine.files.list(limit=1)]
            assert len(pages) == 2
            await mine.files.delete(pages[0])
            await refused(mine.post("/files", cast_to=object, body={}), 415, "multipart")
            await refused(mine.put("/files", cast_to=object), 405, "GET or POST")

    asyncio.run(work())


def test_without_a_folder_there_are_none() -> None:
    async def work() -> None:
        served = await gateway(Small().app, "chat", REF, EndpointSpec(model="m"), CONTEXT)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=served), base_url="http://x") as client:  # type: ignore[arg-type]
            assert (await client.get("/v1/files")).status_code == 404

    asyncio.run(work())
