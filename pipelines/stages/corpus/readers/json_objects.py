"""The objects of a JSON file, one after another, whatever the file is called: a line each, or one array of them, or
objects that are written over several lines. Memory stays flat, and a line that is no JSON costs only itself.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from pipelines.stages.corpus.documents import Broken, SourceFile
from pipelines.stages.corpus.reading.encodings import REPLACEMENT, Decoded, Narrowed, decode, hint, wide_encoding
from pipelines.stages.corpus.reading.files import (
    BUFFER_BYTES,
    MAX_DOCUMENT_BYTES,
    is_compressed,
    lines,
    lines_between,
    open_stream,
)
from pipelines.stages.corpus.tally import LIKELY_ENCODING

Object = dict[str, Any]
NO_JSON = "not JSON:"
LINE_END = "\n"

SPLIT_BYTES = 256 << 20  # a file of this size is still one task
RANGE_BYTES = 64 << 20

_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*(\[|\{\s*\n)?")  # what a file begins with that has no object a line
_BETWEEN = re.compile(r"[\s,]*")
_HALF = re.compile("[\ud800-\udfff]")  # half of a pair: no text, and nothing that UTF-8 could hold
_SPLITTER = json.JSONDecoder(strict=False)


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_FAST = msgspec.json.Decoder()
_PATIENT = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite)


def objects(file: SourceFile, encoding: str = "") -> Iterator[tuple[int, Object | Broken]]:
    """The objects of a file with their numbers from 1: those of the lines where there is one a line. In a range of a
    file, an object's number is the byte at which it begins. `encoding`: of the file; empty finds it out.

    NaN and infinities become null. Raises ValueError where an array breaks off or holds what is no JSON.
    """
    with open_stream(file) as stream:
        if file.stop:
            found, first, unit = lines_between(stream, file.start, file.stop), 0, "byte"
        else:
            found, first, unit = _whole(stream, encoding)
        for number, data in found:
            if number == first:
                data = data.removeprefix(codecs.BOM_UTF8)
            if data.isspace():
                continue
            value = _parse(data)
            if isinstance(value, str):
                is_cut = value.startswith(NO_JSON) and not data.endswith((b"\n", b"}")) and unit != "record"
                yield number, Broken(f"{file.name}#{number}", f"{unit} {number}", value, ends_file=is_cut)
            else:
                yield number, value


def _whole(stream: io.BufferedReader, encoding: str) -> tuple[Iterator[tuple[int, bytes]], int, str]:
    """The objects' bytes, the number of the first, and what is counted."""
    head: bytes = stream.peek(1)
    if declared := wide_encoding(head) or ("" if head.startswith(codecs.BOM_UTF8) else encoding):
        stream = io.BufferedReader(Narrowed(stream, declared), BUFFER_BYTES)
        head = stream.peek(1)
    if kind := layout(head):
        found = values(stream, kind.start(1), is_array=kind[1] == b"[")
        return ((number, data) for number, _, data in found), 1, "record"
    return lines(stream), 1, "line"


def layout(head: bytes) -> re.Match[bytes] | None:
    """Where a file begins that has no object a line; None for one that has."""
    beginning = _BEGINNING.match(head)
    return beginning if beginning is not None and beginning[1] else None


def ranges(file: SourceFile) -> list[SourceFile]:
    """A file, or what several tasks can read of it at once: ranges of a large one that has an object a line."""
    if file.size_bytes <= SPLIT_BYTES or is_compressed(file):
        return [file]
    with open_stream(file) as stream:
        head = stream.peek(1)
    if layout(head) or wide_encoding(head):
        return [file]
    count = -(-file.size_bytes // RANGE_BYTES)
    bounds = [file.size_bytes * number // count for number in range(count + 1)]
    return [
        replace(file, start=start, stop=stop, size_bytes=stop - start) for start, stop in itertools.pairwise(bounds)
    ]


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
        return f"{NO_JSON} {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        return f"{NO_JSON} {error}"
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
        if replaced and (what := hint(data, Decoded(text, encoding, replaced))):
            value.setdefault(LIKELY_ENCODING, what)
    return value


def values(stream: io.BufferedReader, start: int, is_array: bool) -> Iterator[tuple[int, int, bytes]]:
    """Number, line and bytes of each value of an array, or of values behind one another, from byte `start` on.

    Read as Latin-1, which maps every byte and leaves alone the ASCII that JSON's structure is made of. Between the
    values of an array stands a comma; one behind the last does no harm.
    """
    buffer, position = stream.read1(BUFFER_BYTES).decode("latin-1"), start + is_array
    before, number = 0, 0  # bytes in front of the buffer, values so far
    line, counted = 1, 0  # the line of the place in the buffer up to which lines are counted
    has_comma = True  # or need not have one

    def broken(place: int, problem: str) -> ValueError:
        at_line = line + buffer.count(LINE_END, counted, place)
        return ValueError(f"record {number + 1} at byte {before + place}: {NO_JSON} {problem} (line {at_line})")

    while True:
        begun = position
        position = _BETWEEN.match(buffer, position).end()  # type: ignore[union-attr]
        commas = buffer.count(",", begun, position)
        if is_array and commas > (0 if number == 0 else 1):
            raise broken(begun, "a value is missing between two commas")
        has_comma = has_comma or commas > 0
        if is_array and buffer.startswith("]", position):
            break
        if is_array and not has_comma and position < len(buffer):
            raise broken(position, "a comma is missing in front of it")
        end, problem, more = position, "the file was cut off", b""
        if position < len(buffer):
            try:
                end = _SPLITTER.raw_decode(buffer, position)[1]
            except (json.JSONDecodeError, RecursionError) as error:
                problem = str(getattr(error, "msg", error))
        if end in (position, len(buffer)):  # unfinished, or perhaps to be continued
            more = _more(stream, len(buffer) - position)
        if more:
            before, line = before + position, line + buffer.count(LINE_END, counted, position)
            buffer, position, counted = buffer[position:] + more.decode("latin-1"), 0, 0
        elif end > position:
            number += 1
            line, counted = line + buffer.count(LINE_END, counted, position), position
            yield number, line, buffer[position:end].encode("latin-1")
            position, has_comma = end, False
        elif is_array or position < len(buffer):
            raise broken(position, problem)
        else:
            return
    if buffer[position + 1 :].strip() or stream.read1(BUFFER_BYTES).strip():
        raise broken(position + 1, "something follows the end of the array")


def _more(stream: io.BufferedReader, pending_bytes: int) -> bytes:
    """At least as much again, so that a large value is not parsed once a buffer; nothing beyond the largest record."""
    if pending_bytes > MAX_DOCUMENT_BYTES:
        return b""
    more = stream.read1(BUFFER_BYTES)
    while len(more) < pending_bytes and (chunk := stream.read1(BUFFER_BYTES)):
        more += chunk
    return more
