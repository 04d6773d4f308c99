"""OpenAI's files and batches, as an ASGI application that the gateway passes on to what it has let through.

A file is written to the disk as it comes, whatever its length, and never held in memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from cluster.core.specs.batches import Batches
from serving.admission import Admission
from serving.asgi import KEY_ID, Application, Message, Receive, Scope, Send, error
from serving.batch.kept import NOBODY, WINDOW, Batch, File, Kept
from serving.batch.over_gateway import Room
from serving.batch.requests import URLS
from serving.batch.runner import Runner
from serving.limits import Refused

PURPOSE = "batch"
BODY_BYTES = 65_536  # of a request that is no file
FORM_BYTES = 65_536  # of an upload, beside the file
COPY_BYTES = 1 << 20
MOST_METADATA, KEY_LETTERS, VALUE_LETTERS = 16, 64, 512
LIFETIME_SECONDS = range(3600, 2_592_001)  # OpenAI's
PAGE = {"files": (10_000, 10_000), "batches": (20, 100)}  # records of a list: by default, and at most
ROUTES = (
    (re.compile(r"/v1/files"), ("GET", "POST")),
    (re.compile(r"/v1/files/[^/]+"), ("GET", "DELETE")),
    (re.compile(r"/v1/files/[^/]+/content"), ("GET",)),
    (re.compile(r"/v1/batches"), ("GET", "POST")),
    (re.compile(r"/v1/batches/[^/]+"), ("GET",)),
    (re.compile(r"/v1/batches/[^/]+/cancel"), ("POST",)),
)


class Wanted(msgspec.Struct):
    """What a batch is begun with."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


def batch_api(root: Path, limits: Batches, gateway: Application, admission: Admission) -> BatchApi:
    """The application, and what answers its batches by the `gateway` around both. Raises OSError."""
    found = BatchApi(root, limits, Runner(root, limits, gateway, Room(admission, limits.concurrency)))
    found.runner.start()
    return found


class BatchApi:
    """The application of one replica, over what is kept in a folder."""

    def __init__(self, root: Path, limits: Batches, runner: Runner) -> None:
        """Raises OSError for a folder that cannot be used."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root, self.limits, self.runner = root, limits, runner
        self.app = Starlette(
            routes=[
                Route("/v1/files", self._upload, methods=["POST"]),
                Route("/v1/files", self._files, methods=["GET"]),
                Route("/v1/files/{id}", self._file, methods=["GET"]),
                Route("/v1/files/{id}", self._delete, methods=["DELETE"]),
                Route("/v1/files/{id}/content", self._content, methods=["GET"]),
                Route("/v1/batches", self._begin, methods=["POST"]),
                Route("/v1/batches", self._batches, methods=["GET"]),
                Route("/v1/batches/{id}", self._batch, methods=["GET"]),
                Route("/v1/batches/{id}/cancel", self._cancel, methods=["POST"]),
            ],
            exception_handlers={Refused: _refused, HTTPException: _http},
        )

    def methods(self, path: str) -> tuple[str, ...]:
        """By what a path is asked; none where it is not this application's."""
        return next((methods for route, methods in ROUTES if route.fullmatch(path)), ())

    def named(self, path: str) -> str:
        """A path without the ids in it."""
        return re.sub(r"/(file-|batch_)[^/]+", r"/{id}", path)

    async def close(self) -> None:
        await self.runner.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def _kept(self, request: Request) -> Kept:
        return Kept(self.root, request.scope.get(KEY_ID) or NOBODY, self.limits)

    async def _upload(self, request: Request) -> Response:
        kept = await run_in_threadpool(self._kept, request)
        await run_in_threadpool(kept.check_room)
        bounded = _Bounded(request.receive, self.limits.file_bytes)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise Refused(415, "a file is uploaded as multipart/form-data")
        try:
            parser = MultiPartParser(
                request.headers, Request(request.scope, bounded).stream(), max_files=1, max_fields=8
            )
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as wrong:
            raise Refused(400, f"no form with a file: {getattr(wrong, 'message', wrong)}") from None
        async with _closing(form):
            upload, purpose = form.get("file"), form.get("purpose")
            if purpose != PURPOSE:
                raise Refused(
                    400, f"purpose is {str(purpose)[:64]!r}; this endpoint keeps files of {PURPOSE!r}", "purpose"
                )
            if not isinstance(upload, UploadFile):
                raise Refused(400, "no file is given", "file")
            lifetime = _lifetime(form)
            partial = kept.partial()
            try:
                with partial.open("xb") as target:
                    while piece := await upload.read(COPY_BYTES):
                        await run_in_threadpool(target.write, piece)
                if partial.stat().st_size > self.limits.file_bytes:
                    raise _too_long(self.limits.file_bytes)
                named = Path(upload.filename or "").name[:255] or "file"
                file = await run_in_threadpool(kept.add, partial, named, PURPOSE, lifetime_seconds=lifetime)
            finally:
                partial.unlink(missing_ok=True)
        return _json(file)

    def _files(self, request: Request) -> Response:
        found = self._kept(request).files()
        if purpose := request.query_params.get("purpose"):
            found = [file for file in found if file.purpose == purpose]
        if request.query_params.get("order") == "asc":
            found.reverse()
        return _page(request, found, *PAGE["files"])

    def _file(self, request: Request) -> Response:
        return _json(self._kept(request).file(request.path_params["id"]))

    def _delete(self, request: Request) -> Response:
        self._kept(request).remove(request.path_params["id"])
        return JSONResponse({"id": request.path_params["id"], "object": "file", "deleted": True})

    def _content(self, request: Request) -> Response:
        kept = self._kept(request)
        file = kept.file(request.path_params["id"])
        return FileResponse(kept.content(file.id), media_type="application/octet-stream", filename=file.filename)

    async def _begin(self, request: Request) -> Response:
        wanted = _wanted(await _body(request))
        kept = await run_in_threadpool(self._kept, request)
        batch = await run_in_threadpool(kept.begin, wanted.endpoint, wanted.input_file_id, wanted.metadata)
        self.runner.begun()
        return _json(batch)

    def _batches(self, request: Request) -> Response:
        return _page(request, self._kept(request).batches(), *PAGE["batches"])

    def _batch(self, request: Request) -> Response:
        return _json(self._kept(request).batch(request.path_params["id"]))

    def _cancel(self, request: Request) -> Response:
        return _json(self._kept(request).cancel(request.path_params["id"]))


class _Bounded:
    """What is received, up to so many bytes of a file and a form around it. Raises Refused."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive, self.most, self.left = receive, most, most + FORM_BYTES

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the body ended early")
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise _too_long(self.most)
        return message


class _closing:
    """The files of a form, which are gone afterwards."""

    def __init__(self, form: Any) -> None:
        self.form = form

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *failed: object) -> None:
        await self.form.close()


def _too_long(most: int) -> Refused:
    return Refused(413, f"the file is longer than {most} bytes (endpoint.batches.file_bytes)", "file")


def _lifetime(form: Any) -> int:
    """How long a file is wanted, in seconds; 0 where that is not said."""
    given = form.get("expires_after[seconds]")
    if given is None:
        return 0
    if form.get("expires_after[anchor]", "created_at") != "created_at":
        raise Refused(400, "a file expires after created_at", "expires_after")
    if not (isinstance(given, str) and given.isdecimal() and len(given) < 10 and int(given) in LIFETIME_SECONDS):
        raise Refused(400, "from 3600 to 2592000 seconds", "expires_after")
    return int(given)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES:
            raise Refused(413, f"the body is longer than {BODY_BYTES} bytes")
    return bytes(body)


def _wanted(body: bytes) -> Wanted:
    """What is asked for. Raises Refused for what cannot be."""
    try:
        wanted = msgspec.json.decode(body, type=Wanted)
    except msgspec.ValidationError as wrong:
        message, _, where = str(wrong).partition(" - at `$.")
        raise Refused(400, message, where.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise Refused(400, f"the body is not JSON: {wrong}") from None
    if wanted.endpoint not in URLS:
        raise Refused(400, f"a batch is of one of {', '.join(URLS)}", "endpoint")
    if wanted.completion_window != WINDOW:
        raise Refused(400, f"a batch has {WINDOW}", "completion_window")
    given = wanted.metadata or {}
    if len(given) > MOST_METADATA or any(len(k) > KEY_LETTERS or len(v) > VALUE_LETTERS for k, v in given.items()):
        raise Refused(400, "16 pairs at most, of 64 letters and 512", "metadata")
    return wanted


def _page(request: Request, found: list[Any], usual: int, most: int) -> Response:
    """A part of a list, behind the record that `after` names."""
    limit, after = request.query_params.get("limit", str(usual)), request.query_params.get("after")
    if not (limit.isdecimal() and len(limit) < 10 and 1 <= int(limit) <= most):
        raise Refused(400, f"from 1 to {most}", "limit")
    ids = [each.id for each in found]
    if after is not None:
        if after not in ids:
            raise Refused(400, "there is none of this id", "after")
        found = found[ids.index(after) + 1 :]
    part = found[: int(limit)]
    first, last = (part[0].id, part[-1].id) if part else (None, None)
    told = {"object": "list", "data": part, "first_id": first, "last_id": last, "has_more": len(part) < len(found)}
    return _encoded(told)


def _json(record: File | Batch) -> Response:
    return _encoded(record)


def _encoded(told: Any) -> Response:
    return Response(msgspec.json.encode(told), media_type="application/json")


def _refused(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return error(refused)


def _http(request: Request, failed: Exception) -> Response:
    assert isinstance(failed, HTTPException)
    return error(Refused(failed.status_code, str(failed.detail)))
