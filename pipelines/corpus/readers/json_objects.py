"""The objects of a JSON file, one after another, whatever the file is called: a line each, or one array of them, or
objects that are written over several lines. Memory stays flat, and a line that is no JSON costs only itself.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from pipelines.corpus.documents import Broken, SourceFile
from pipelines.corpus.encodings import REPLACEMENT, decode
from pipelines.corpus.files import BUFFER_BYTES, MAX_DOCUMENT_BYTES, lines, open_stream

Object = dict[str, Any]

_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*(\[|\{\s*\n)?")  # what a file begins with that has no object a line
_BETWEEN = re.compile(r"[\s,]*")
_HALF = re.compile("[\ud800-\udfff]")  # half of a pair: no text, and nothing that UTF-8 could hold
_SPLITTER = json.JSONDecoder(strict=False)


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_FAST = msgspec.json.Decoder()
_PATIENT = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite)


def objects(file: SourceFile) -> Iterator[tuple[int, Object | Broken]]:
    """The objects of a file with their numbers from 1: those of the lines where there is one a line.

    NaN and infinities become null. Raises ValueError where an array breaks off or holds what is no JSON.
    """
    with open_stream(file) as stream:
        head: bytes = stream.peek(1)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("JSON in UTF-16 or UTF-32: convert the file to UTF-8")
        beginning = _BEGINNING.match(head)
        if beginning is not None and beginning[1]:
            found, unit = _values(stream, beginning.start(1), is_array=beginning[1] == b"["), "record"
        else:
            found, unit = lines(stream), "line"
        for number, data in found:
            if number == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
            if data.isspace():
                continue
            value = _parse(data)
            if isinstance(value, str):
                yield number, Broken(f"{file.name}#{number}", f"{unit} {number}", value)
            else:
                yield number, value


def _parse(data: bytes) -> Object | str:
    """The object, or why there is none."""
    if len(data) > MAX_DOCUMENT_BYTES:
        return f"record_size: more than {MAX_DOCUMENT_BYTES} bytes"
    try:
        try:
            value = _FAST.decode(data)
        except (msgspec.MsgspecError, ValueError):
            value = _parse_patiently(data)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else f"not an object but {type(value).__name__}"


def _parse_patiently(data: bytes) -> Any:
    """What others write: NaN, control characters in strings, half surrogate pairs, encodings that are not UTF-8."""
    text, encoding, replaced = decode(data.rstrip())
    value = _PATIENT.decode(text)
    whole, halves = _HALF.subn(REPLACEMENT, json.dumps(value, ensure_ascii=False))
    if halves:
        value = json.loads(whole)
    if isinstance(value, dict):
        if encoding != "utf-8":
            value.setdefault("encoding", encoding)
        if replaced + halves:
            value.setdefault("replacement_characters", replaced + halves)
    return value


def _values(stream: io.BufferedReader, start: int, is_array: bool) -> Iterator[tuple[int, bytes]]:
    """The bytes of each value of an array, or of values behind one another, from byte `start` of the stream.

    Read as Latin-1, which maps every byte and leaves alone the ASCII that JSON's structure is made of.
    """
    buffer, position = stream.read1(BUFFER_BYTES).decode("latin-1"), start + is_array
    before, number = 0, 0  # bytes in front of the buffer, values so far
    while True:
        position = _BETWEEN.match(buffer, position).end()  # type: ignore[union-attr]
        if is_array and buffer.startswith("]", position):
            break
        end, problem, more = position, "the file was cut off", b""
        if position < len(buffer):
            try:
                end = _SPLITTER.raw_decode(buffer, position)[1]
            except (json.JSONDecodeError, RecursionError) as error:
                problem = str(getattr(error, "msg", error))
        if end in (position, len(buffer)):  # unfinished, or perhaps to be continued
            more = _more(stream, len(buffer) - position)
        if more:
            before += position
            buffer, position = buffer[position:] + more.decode("latin-1"), 0
        elif end > position:
            number += 1
            yield number, buffer[position:end].encode("latin-1")
            position = end
        elif is_array or position < len(buffer):
            raise ValueError(f"record {number + 1} at byte {before + position}: not JSON: {problem}")
        else:
            return
    if buffer[position + 1 :].strip() or stream.read1(BUFFER_BYTES).strip():
        raise ValueError(f"byte {before + position + 1}: something follows the end of the array")


def _more(stream: io.BufferedReader, pending_bytes: int) -> bytes:
    """At least as much again, so that a large value is not parsed once a buffer; nothing beyond the largest record."""
    if pending_bytes > MAX_DOCUMENT_BYTES:
        return b""
    more = stream.read1(BUFFER_BYTES)
    while len(more) < pending_bytes and (chunk := stream.read1(BUFFER_BYTES)):
        more += chunk
    return more
