"""An HTTP response as crawlers store it: status, headers, and the body without its transfer and content encodings.

Many archives keep headers of encodings that the crawler has undone, so a body that looks decoded is taken as it is.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

from fastwarc.stream_io import BrotliReader, ZstdReader

_STATUS = re.compile(rb"HTTP/[\d.]+[ \t]+(\d{3})\b")
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


class Response(NamedTuple):
    """Status code, headers (names in lower case; the first of several), and the body as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse_response(block: bytes) -> Response:
    """The response in a record's block. Raises ValueError where there is no status line."""
    status = _STATUS.match(block)
    if status is None:
        raise ValueError("no status line")
    end = _END_OF_HEADERS.search(block)
    head, body = (block, b"") if end is None else (block[: end.start()], block[end.end() :])
    headers: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return Response(int(status[1]), headers, body)


def media_type(content_type: str) -> tuple[str, str]:
    """Type and charset of a `Content-Type`: `text/html; charset=UTF-8` is (`text/html`, `UTF-8`)."""
    charset = _CHARSET.search(content_type)
    return content_type.partition(";")[0].strip().lower(), charset[1] if charset else ""


def decoded_body(response: Response, limit_bytes: int) -> bytes:
    """The body without its encodings, at most `limit_bytes + 1` of it. Raises ValueError for a damaged one."""
    body = response.body
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body = _dechunked(body)
    for coding in reversed(response.headers.get("content-encoding", "").lower().split(",")):
        decoder = _DECODERS.get(coding.strip())
        if decoder is None:
            continue
        try:
            body = decoder(body, limit_bytes + 1)
        except (zlib.error, OSError) as error:
            if not body.lstrip().startswith(b"<"):
                raise ValueError(f"content_encoding: {coding.strip()}: {error}") from error
    return body


def _dechunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while position < len(body):
        chunk = _CHUNK.match(body, position)
        if chunk is None:
            if not parts:
                return body
            raise ValueError(f"transfer_encoding: no chunk at byte {position} of the body")
        size = int(chunk[1], 16)
        if size == 0:
            break
        parts.append(body[chunk.end() : chunk.end() + size])
        position = chunk.end() + size
        position += 2 if body.startswith(b"\r\n", position) else body.startswith(b"\n", position)
    return b"".join(parts)


def _inflate(body: bytes, limit_bytes: int) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(body, limit_bytes)  # 47: gzip or zlib, by the header


def _deflate(body: bytes, limit_bytes: int) -> bytes:
    try:
        return _inflate(body, limit_bytes)
    except zlib.error:  # some servers send it without zlib's header
        return zlib.decompressobj(wbits=-15).decompress(body, limit_bytes)


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _deflate,
    "br": lambda body, limit_bytes: BrotliReader(io.BytesIO(body)).read(limit_bytes),
    "zstd": lambda body, limit_bytes: ZstdReader(io.BytesIO(body)).read(limit_bytes),
}
