"""Answers the batches that an endpoint keeps, in a replica that has time: of each key one after another.

Who answers a batch holds its lock, which ends with the process: another replica, or the next, then goes on where it
was. So nothing has to be told when a replica is killed, and none of them is in charge.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from cluster.core.errors import JobError, TrunklineError
from cluster.core.specs.batches import Batches
from serving.asgi import Application
from serving.batch import requests
from serving.batch.kept import Batch, Counts, Kept
from serving.batch.over_gateway import Leaves, OverGateway, Room, Stop
from serving.batch.requests import Asked, Bad
from serving.batch.run import run

LOOK_SECONDS = 5.0  # between two looks for batches that nobody answers
PRUNE_SECONDS = 3600.0
TELL_SECONDS = 1.0  # between two times that progress is written down
MOST_ERRORS = 100  # that a batch tells of its input
OUTPUT_PURPOSE = "batch_output"
LOGGER = logging.getLogger(__name__)


class Runner:
    """The batches below a folder. `gateway` answers their requests."""

    def __init__(self, root: Path, limits: Batches, gateway: Application, room: Room) -> None:
        self.root, self.limits, self.gateway, self.room = root, limits, gateway, room
        self._new = asyncio.Event()
        self._leaving = threading.Event()
        self._running: dict[str, asyncio.Task[None]] = {}  # by key
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for batches, in the loop that answers them."""
        self._looking = self._looking or asyncio.create_task(self._look())

    def begun(self) -> None:
        """A batch is there."""
        self._new.set()

    async def close(self) -> None:
        """Leave the batches to another replica; what was answered of them is kept."""
        self._leaving.set()
        if self._looking:
            self._looking.cancel()
        if self._running:
            await asyncio.wait(self._running.values())

    async def _look(self) -> None:
        pruned_at = -PRUNE_SECONDS
        while True:
            self._new.clear()
            try:
                if time.monotonic() - pruned_at > PRUNE_SECONDS:
                    pruned_at = time.monotonic()
                    await asyncio.to_thread(self._prune)
                for key, batch_id in await asyncio.to_thread(self._oldest):
                    if key not in self._running:
                        self._running[key] = asyncio.create_task(self._answer(key, batch_id))
            except OSError as error:
                LOGGER.error("the batches cannot be read: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), LOOK_SECONDS)

    def _kept(self) -> list[Kept]:
        keys = [folder.name for folder in self.root.iterdir() if (folder / "batches").is_dir()]
        return [Kept(self.root, key, self.limits) for key in sorted(keys)]

    def _prune(self) -> None:
        for kept in self._kept():
            kept.prune()

    def _oldest(self) -> list[tuple[str, str]]:
        """Of each key the first batch that is not finished."""
        waiting = ((kept.key, kept.unfinished()) for kept in self._kept())
        return [(key, batches[0].id) for key, batches in waiting if batches]

    async def _answer(self, key: str, batch_id: str) -> None:
        loop, kept = asyncio.get_running_loop(), Kept(self.root, key, self.limits)
        done, ended = asyncio.Event(), False

        def work() -> None:
            nonlocal ended
            try:
                with kept.held(batch_id) as batch:
                    if batch:
                        _Answering(kept, batch, self._leaving).run(self.gateway, loop, self.room)
                        ended = batch.ended
            except Exception:
                LOGGER.exception("batch %s failed", batch_id)
            finally:
                loop.call_soon_threadsafe(done.set)

        # A thread of its own: a batch of hours must not take one of those that requests need.
        threading.Thread(target=work, name=batch_id, daemon=True).start()
        await done.wait()
        del self._running[key]
        if ended:
            self._new.set()  # the next one of this key


class _Answering:
    """One batch, in a thread."""

    def __init__(self, kept: Kept, batch: Batch, leaving: threading.Event) -> None:
        self.kept, self.batch, self.leaving = kept, batch, leaving
        self._told_at = 0.0

    def run(self, gateway: Application, loop: asyncio.AbstractEventLoop, room: Room) -> None:
        """Answer it to its end, or until this replica leaves."""
        batch, kept = self.batch, self.kept
        if errors := self._wrong():
            self._failed(errors)
            return
        way = OverGateway(gateway, loop, room, kept.key, self._stop)
        try:
            outcome = run(kept.input(batch.id), kept.answers(batch.id), batch.id, way, self._progress)
        except Leaves:
            return
        except JobError as error:
            self._failed([{"code": "invalid_api_key", "message": error.message}])
            return
        except TrunklineError as error:
            self._failed([{"code": "invalid_request", "message": str(error)}])
            return
        self._enter("finalizing")
        completed = sum(count for end, count in outcome.ends.items() if end.isdigit() and int(end) < 400)
        counts = Counts(total=outcome.lines, completed=completed, failed=outcome.lines - completed)
        batch.request_counts = counts
        batch.output_file_id, batch.error_file_id = self._files()
        stopped = next((end for end in ("batch_cancelled", "batch_expired") if outcome.ends[end]), "")
        self._end("cancelled" if stopped == "batch_cancelled" else "expired" if stopped else "completed")

    def _wrong(self) -> list[dict[str, object]]:
        """What is wrong with the input, by lines; as OpenAI's, a batch with a bad line is not begun."""
        if self.batch.status != "validating":
            return []
        errors: list[dict[str, object]] = []
        total = 0
        for line in requests.read(self.kept.input(self.batch.id)):
            total += 1
            if isinstance(line, Bad):
                errors.append({"code": "invalid_line", "message": line.why, "param": None, "line": line.number})
            elif line.url != self.batch.endpoint:
                errors.append(_mismatched(line, self.batch.endpoint))
            if len(errors) >= MOST_ERRORS:
                break
        most = self.kept.limits.requests
        if not total:
            errors.append({"code": "empty_file", "message": "the file has no requests", "param": None, "line": None})
        elif total > most:
            message = f"{total} requests, and {most} are allowed (endpoint.batches.requests)"
            errors.append({"code": "too_many_requests", "message": message, "param": None, "line": None})
        self.batch.request_counts.total = total
        if not errors:
            self._enter("in_progress")
        return errors

    def _stop(self) -> Stop:
        if self.leaving.is_set():
            return "leaves"
        if self.kept.cancelled(self.batch.id):
            return "batch_cancelled"
        return "batch_expired" if time.time() >= self.batch.expires_at else ""

    def _progress(self, done: int, total: int) -> None:
        if time.monotonic() - self._told_at < TELL_SECONDS:
            return
        self._told_at = time.monotonic()
        self.batch.request_counts.completed = done  # which of them failed is known in the end
        self.kept.write(self.batch)

    def _files(self) -> tuple[str | None, str | None]:
        """Files of the answers, and of the errors, where there are any: the same however often it is done."""
        good, bad = self.kept.partial(), self.kept.partial()
        answers = self.kept.answers(self.batch.id)
        with answers.open("rb") as lines, good.open("wb") as fine, bad.open("wb") as failed:
            for line in lines:
                told = msgspec.json.decode(line)
                response = told["response"]
                (fine if response and response["status_code"] < 400 else failed).write(line)
        kept: list[str | None] = []
        for partial, what in ((good, "output"), (bad, "error")):
            if not partial.stat().st_size:
                partial.unlink()
                kept.append(None)
                continue
            file_id = f"file-{hashlib.sha256(f'{self.batch.id}/{what}'.encode()).hexdigest()[:24]}"
            self.kept.add(partial, f"{self.batch.id}_{what}.jsonl", OUTPUT_PURPOSE, file_id=file_id)
            kept.append(file_id)
        return kept[0], kept[1]

    def _enter(self, status: str) -> None:
        self._set(status)
        self.kept.write(self.batch)

    def _set(self, status: str) -> None:
        setattr(self.batch, f"{status}_at", int(time.time()))
        self.batch.status = status  # type: ignore[assignment]

    def _failed(self, errors: list[dict[str, object]]) -> None:
        self.batch.errors = {"object": "list", "data": errors}
        self._end("failed")

    def _end(self, status: str) -> None:
        if status == "cancelled":
            self.batch.cancelling_at = self.kept.batch(self.batch.id).cancelling_at
        self._set(status)
        self.kept.finish(self.batch)


def _mismatched(line: Asked, endpoint: str) -> dict[str, object]:
    message = f"line {line.number}: url is {line.url!r}, and the batch is of {endpoint!r}"
    return {"code": "mismatched_endpoint", "message": message, "param": "url", "line": line.number}
