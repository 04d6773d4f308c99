"""A port of a service as a port of ours, on loopback, for as long as this process lives.

Requests go through the API server, with the rights that the kubeconfig gives. That one keeps the Authorization header
for itself: Ray's token goes on under the name that Ray has for such proxies. Nothing is added: whoever comes without
the token is refused by the head.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cluster.core.errors import TrunklineError
from cluster.kubernetes.api import Api

ASKED = ("accept", "content-type", "range", "user-agent")  # headers that go on
ANSWERED = ("content-type", "content-length", "content-encoding", "content-range")  # and come back
TOKEN = "X-Ray-Authorization"
CHUNK_BYTES = 1 << 16


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever asks finds the connection broken, and says so."""


class Forward:
    """Open from the beginning; `url` is ours."""

    def __init__(self, api: Api, service: str, port: int) -> None:
        prefix = f"/api/v1/namespaces/{api.namespace}/services/{service}:{port}/proxy"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name: value for name, value in self.headers.items() if name.lower() in ASKED}
                if token := self.headers.get("Authorization"):
                    headers[TOKEN] = token
                try:
                    body = self.rfile.read(length) if length else None
                    answer = api.stream(self.command, prefix + self.path, headers, body)
                except TrunklineError as error:
                    self.send_error(HTTPStatus.BAD_GATEWAY, explain=str(error))
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() in ANSWERED:
                        self.send_header(name, value)
                self.end_headers()
                for chunk in answer.stream(CHUNK_BYTES, decode_content=False):
                    self.wfile.write(chunk)
                answer.release_conn()

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                """Nothing: the terminal is the command's."""

        server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
