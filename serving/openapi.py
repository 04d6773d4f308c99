"""GET /openapi.json: what is open of this endpoint, and nothing else, as OpenAPI 3.1 has it.

What an application of FastAPI's says of its own routes is taken from it, as far as the gateway lets them through; the
rest is described here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from starlette.responses import JSONResponse

from cluster.core.feedback import Sent
from cluster.core.specs.endpoint import EndpointSpec
from serving.asgi import FEEDBACK_PATH, Application, Receive, Scope, Send, path_of
from serving.batch.api import LIFETIME_SECONDS, PAGE, PURPOSE, Wanted
from serving.batch.kept import Batch, File
from serving.pooling.asked import FORMS

PATH = "/openapi.json"
SCHEMA = "#/components/schemas/{name}"
SCHEMA_REF = re.compile(r"#/components/schemas/([\w.-]+)")
CHAT, CHAT_SCHEMA = "/v1/chat/completions", "ChatCompletionRequest"
SUMMARIES = {
    "/health": "Whether the engine lives",
    "/version": "What the engine is",
    "/metrics": "Figures for Prometheus",
    "/openapi.json": "This document",
    "/v1/models": "The models",
    "/v1/plugins": "The plug-ins",
    "/feedback": "Keep what is said of an answer",
    "/v1/embeddings": "Vectors of texts, of a model that makes them",
    "/v1/score": "Scores of documents for a query, of a model that scores",
    "/score": "As /v1/score",
    "/v1/rerank": "Documents in the order of their scores for a query",
    "/rerank": "As /v1/rerank",
    "/pooling": "What a model that pools makes of texts or of a conversation",
}

Described = dict[str, Any]


def with_document(
    app: Application, name: str, spec: EndpointSpec, routes: Mapping[str, str], describe: Callable[[], Described]
) -> Application:
    """The application, which also describes itself; `describe` says of its own routes what it knows, when it is first
    asked."""

    def made() -> Described:
        own = {"keys": spec.access.keys, "batches": bool(spec.batches.path)}
        return document(name, routes, describe(), plugins=spec.plugins.allowed, **own)

    known: list[JSONResponse] = []

    async def documented(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_of(scope) != PATH:
            await app(scope, receive, send)
            return
        if not known:
            known.append(JSONResponse(await asyncio.to_thread(made)))
        await known[0](scope, receive, send)

    return documented


def document(
    name: str, routes: Mapping[str, str], base: Described, *, keys: bool, batches: bool, plugins: Collection[str]
) -> Described:
    """What there is: `routes` with their methods, described by `base` where it knows them."""
    schemas = dict((base.get("components") or {}).get("schemas") or {})
    paths = {path: {method.lower(): _operation(base, path, method.lower())} for path, method in routes.items()}
    kinds = [*([Wanted, File, Batch] if batches else []), *([Sent] if FEEDBACK_PATH in routes else [])]
    refs, own = msgspec.json.schema_components([*kinds, *FORMS.values()], ref_template=SCHEMA)
    schemas |= own
    for path, form in zip(FORMS, refs[len(kinds) :], strict=True):
        if path in paths:
            paths[path]["post"]["requestBody"] = _json_body(form)
    if FEEDBACK_PATH in routes:
        paths[FEEDBACK_PATH]["post"]["requestBody"] = _json_body(refs[len(kinds) - 1])
    if batches:
        paths |= _batch_paths(*refs[:3])
    if plugins and CHAT_SCHEMA in schemas:
        field = {"type": "array", "items": {"enum": list(plugins)}, "description": "Plug-ins that are switched on"}
        chat = schemas[CHAT_SCHEMA]
        schemas[CHAT_SCHEMA] = {**chat, "properties": {**chat.get("properties", {}), "plugins": field}}
    found: Described = {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1", "description": "OpenAI's API, as this endpoint has it."},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": _referenced(paths, schemas)},
    }
    model = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths["/v1/models/{id}"] = {"get": {"summary": "A model", "operationId": "get_models_id", "parameters": [model]}}
    error = {"description": "An error in OpenAI's shape", "content": {"application/json": {"schema": ERROR}}}
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"] = {"200": {"description": "The answer"}, "default": error}
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
        paths["/health"]["get"]["security"] = []
    return found


TEXT: Described = {"type": ["string", "null"]}
ERROR: Described = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": {"type": "string"}, "type": TEXT, "param": TEXT, "code": {}},
        }
    },
}


def _operation(base: Described, path: str, method: str) -> Described:
    """What is said of a route: its parameters and its body."""
    known = ((base.get("paths") or {}).get(path) or {}).get(method) or {}
    found = {name: known[name] for name in ("requestBody", "parameters") if name in known}
    if method == "post" and "requestBody" not in found:
        found["requestBody"] = _json_body({"type": "object"})
    summary = SUMMARIES.get(path) or known.get("summary") or path
    return {"summary": summary, "operationId": _named(method, path), **found}


def _named(method: str, path: str) -> str:
    return f"{method}_{re.sub(r'[^a-z0-9]+', '_', path.removeprefix('/v1')).strip('_')}"


def _json_body(schema: Described) -> Described:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _batch_paths(wanted: Described, file: Described, batch: Described) -> Described:
    """OpenAI's files and batches."""
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "purpose": {"const": PURPOSE},
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {
                "type": "integer", "minimum": LIFETIME_SECONDS.start, "maximum": LIFETIME_SECONDS.stop - 1,
            },
        },
    }  # fmt: skip
    upload = {"required": True, "content": {"multipart/form-data": {"schema": form}}}

    def of(path: str, **operations: Described) -> tuple[str, Described]:
        names = re.findall(r"\{(\w+)\}", path)
        place = [
            {"name": n, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for n in names
        ]
        return path, {
            method: {
                "summary": operation.pop("summary"),
                "operationId": _named(method, path),
                "parameters": [*place, *operation.pop("parameters", [])],
                **operation,
            }
            for method, operation in operations.items()
        }

    def listing(what: str) -> list[Described]:
        limit = {"type": "integer", "minimum": 1, "maximum": PAGE[what][1], "default": PAGE[what][0]}
        return [
            {"name": "limit", "in": "query", "schema": limit},
            {"name": "after", "in": "query", "schema": {"type": "string"}},
        ]

    return dict(
        [
            of(
                "/v1/files",
                get={"summary": "Files of this key", "parameters": listing("files")},
                post={"summary": "Upload a file of requests", "requestBody": upload},
            ),
            of("/v1/files/{id}", get={"summary": "A file"}, delete={"summary": "Remove a file"}),
            of("/v1/files/{id}/content", get={"summary": "What is in a file"}),
            of(
                "/v1/batches",
                get={"summary": "Batches of this key", "parameters": listing("batches")},
                post={"summary": "Begin a batch", "requestBody": _json_body(wanted)},
            ),
            of("/v1/batches/{id}", get={"summary": "A batch"}),
            of("/v1/batches/{id}/cancel", post={"summary": "End a batch"}),
        ]
    )


def _referenced(paths: Described, schemas: Described) -> Described:
    """The schemas that paths name, and those that these name."""
    found: Described = {}
    open_ = _names(paths)
    while open_:
        name = open_.pop()
        if name in schemas and name not in found:
            found[name] = schemas[name]
            open_ |= _names(schemas[name])
    return dict(sorted(found.items()))


def _names(described: Any) -> set[str]:
    return set(SCHEMA_REF.findall(msgspec.json.encode(described).decode()))
