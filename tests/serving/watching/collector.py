"""A collector of OpenTelemetry's traces (OTLP over HTTP) on loopback, in this process."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_SECONDS = 60


class Collector:
    """`url` is what OTEL_EXPORTER_OTLP_ENDPOINT takes; `spans`, by their names, what has come."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Any]] = {}
        self.services: set[str] = set()
        self._came = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                outer.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def take(self, request: Any) -> None:
        with self._came:
            for resource in request.resource_spans:
                names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                self.services.add(names.get("service.name", ""))
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.spans.setdefault(span.name, []).append(span)
            self._came.notify_all()

    def wait_for(self, name: str, number: int = 1) -> list[Any]:
        """The spans of a name, when there are so many."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.spans.get(name, ())) >= number, WAIT_SECONDS), self.spans.keys()
            return list(self.spans[name])

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}
