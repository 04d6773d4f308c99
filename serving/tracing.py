"""OpenTelemetry traces from the gateway to the engine, where the environment names a collector, as the standard has it.

A request's span begins with its arrival and ends with its answer. Its context goes on in the request's headers, so that
the engine's span (vLLM's `llm_request`) is its child, also behind a canary or a model beside the endpoint's own.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from cluster.core.errors import NotReadyError
from serving.asgi import ARTIFACT_HEADER, Application, Message, Receive, Scope, Send, path_of

PREFIX = "OTEL_EXPORTER_OTLP_"
ENDPOINT, TRACES_ENDPOINT = f"{PREFIX}ENDPOINT", f"{PREFIX}TRACES_ENDPOINT"
PROTOCOL, TRACES_PROTOCOL = f"{PREFIX}PROTOCOL", f"{PREFIX}TRACES_PROTOCOL"
HTTP = "http/protobuf"  # the standard's own default; vLLM's is another, so that it is always said
# What replicas get of the environment of whoever starts an endpoint. Not OTLP_HEADERS: what Serve is given it tells,
# and they hold keys.
PASSED = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
CONTEXT_HEADERS = (b"traceparent", b"tracestate")  # W3C Trace Context
REQUEST_ID_HEADER = b"x-request-id"
SERVICE = "trunkline"
FAILED = 500


def collector() -> str:
    """Where traces go, by the environment; empty: nowhere."""
    if found := os.environ.get(TRACES_ENDPOINT):
        return found
    base = os.environ.get(ENDPOINT, "").rstrip("/")
    return f"{base}/v1/traces" if base and _protocol() == HTTP else base


def environment() -> dict[str, str]:
    """Variables of a replica's process that say where its traces go, and its engine's."""
    if not (where := collector()):
        return {}
    given = {name: value for name in PASSED if (value := os.environ.get(name))}
    return {"OTEL_SERVICE_NAME": SERVICE, **given, TRACES_ENDPOINT: where, TRACES_PROTOCOL: _protocol()}


def _protocol() -> str:
    return os.environ.get(TRACES_PROTOCOL) or os.environ.get(PROTOCOL) or HTTP


def provider() -> Any:
    """The process's provider of tracers: vLLM's where it has made one, else one of our own. Raises NotReadyError where
    the packages are missing."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if _protocol() == HTTP:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Exporter
        else:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # type: ignore[assignment]
                OTLPSpanExporter as Exporter,
            )
    except ImportError as error:
        raise NotReadyError(
            f"{TRACES_ENDPOINT} is set: {error}", "`pip install opentelemetry-exporter-otlp`."
        ) from None
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        made = TracerProvider()
        made.add_span_processor(BatchSpanProcessor(Exporter(endpoint=collector())))
        trace.set_tracer_provider(made)
    return trace.get_tracer_provider()


class Traced:
    """An ASGI application around another: a span for each request, named by its path where that is one of `paths`."""

    def __init__(self, app: Application, paths: Collection[str]) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.app, self.paths = app, paths
        self.tracer, self.context = provider().get_tracer("trunkline.gateway"), TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in CONTEXT_HEADERS}
        path = path_of(scope)
        route = path if path in self.paths else "other"
        span = self.tracer.start_span(
            f"{scope['method']} {route}",
            context=self.context.extract(given),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route},
        )
        passed: dict[str, str] = {}
        self.context.inject(passed, set_span_in_context(span))
        headers = [pair for pair in scope["headers"] if pair[0] not in CONTEXT_HEADERS]
        headers += [(name.encode(), value.encode()) for name, value in passed.items()]
        first = True

        async def told(message: Message) -> None:
            nonlocal first
            if message["type"] == "http.response.start":
                status, told_by = int(message["status"]), dict(message.get("headers", ()))
                span.set_attribute("http.response.status_code", status)
                for name, header in (("artifact", ARTIFACT_HEADER), ("request_id", REQUEST_ID_HEADER)):
                    if header in told_by:
                        span.set_attribute(f"trunkline.{name}", told_by[header].decode("latin-1"))
                if status >= FAILED:
                    span.set_status(StatusCode.ERROR)
            elif first and message.get("body"):
                first = False
                span.add_event("first piece of the answer")
            await send(message)

        try:
            await self.app({**scope, "headers": headers}, receive, told)
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()
