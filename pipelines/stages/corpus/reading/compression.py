"""Compressed files as streams of what is in them: gzip, Zstandard, bzip2 and xz, told apart by their first bytes.

Names are often wrong, so they do not count; only where a file that is called compressed has the first bytes of none and
is no text either, it is damaged. Compressions that are not read say so. A Zstandard file may begin with the dictionary
of its frames (IIPC's `.warc.zst`).
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import zstandard

CHUNK_BYTES = 1 << 14  # decompressed at once: small, for a chunk may grow a thousandfold
MAX_DICTIONARY_BYTES = 100 << 20
HEAD_BYTES = 512

_NAMED = re.compile(r"\.(?:gz|tgz|zst|bz2|xz)$", re.IGNORECASE)
_UNREAD = (  # what a file begins with, and what it then is
    (b"PK\x03\x04", "a zip archive"),
    (b"\x04\x22\x4d\x18", "compressed with lz4"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\x1f\x9d", "compressed with compress"),
    (b"\xff\x06\0\0sNaPpY", "compressed with snappy"),
    (b"\x89LZO\0", "compressed with lzop"),
    (b"LZIP", "compressed with lzip"),
    (b"\x5d\0\0", "compressed with lzma"),
)
_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # a skippable frame, as https://iipc.github.io/warc-specifications/ has it
_PLAIN = re.compile(rb"[^\0]+\Z|PAR1|\xff\xfe|\xfe\xff|.{257}ustar", re.DOTALL)  # text, Parquet, UTF-16, tar


class Kind(NamedTuple):
    """A compression: what a file begins with, what a frame does, and how a decompressor of one frame is made."""

    begins: re.Pattern[bytes]
    frame: bytes
    start: Callable[[bytes], Any]  # of the dictionary, which is empty for most


def _zstd(dictionary: bytes) -> Any:
    known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return zstandard.ZstdDecompressor(dict_data=known, max_window_size=1 << 31).decompressobj()


KINDS = (
    Kind(re.compile(rb"\x1f\x8b\x08"), b"\x1f\x8b\x08", lambda _: zlib.decompressobj(wbits=31)),
    Kind(re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _ZSTD_FRAME, _zstd),
    Kind(re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), b"BZh", lambda _: bz2.BZ2Decompressor()),
    Kind(re.compile(rb"\xfd7zXZ\0"), b"\xfd7zXZ\0", lambda _: lzma.LZMADecompressor()),
)


def decompressed(raw: Any, name: str) -> Any:
    """The stream `raw`, or what is compressed in it; it is at its beginning, and can seek.

    Raises ValueError for one that is called compressed and is neither that nor plain.
    """
    head = _read(raw, HEAD_BYTES)
    raw.seek(0)
    kind = kind_of(head)
    if kind is not None:
        return Decompressed(raw, kind, _dictionary(raw) if head.startswith(_ZSTD_DICTIONARY) else b"")
    if what := next((what for begins, what in _UNREAD if head.startswith(begins)), None):
        raise ValueError(f"it is {what}, which is not read: unpack it, or pack it with gzip or Zstandard")
    if head and _NAMED.search(name) and not _PLAIN.match(head):
        raise ValueError(f"the compressed file is damaged: it begins with {head[:8].hex(' ')}, as no compression does")
    return raw


def kind_of(head: bytes) -> Kind | None:
    """The compression of a file that begins so."""
    return next((kind for kind in KINDS if kind.begins.match(head)), None)


class Decompressed(io.RawIOBase):
    """Compressed frames, one after another. What comes before damage is read before the damage is raised."""

    def __init__(self, raw: IO[bytes], kind: Kind, dictionary: bytes = b"") -> None:
        self._raw, self._kind, self._dictionary = raw, kind, dictionary
        self._frame: Any = None
        self._rest = b""  # compressed bytes that no frame has got yet
        self._ready = memoryview(b"")
        self._is_first, self._is_twice = True, False

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            chunk = self._rest or self._raw.read(CHUNK_BYTES)
            if not chunk:
                if self._frame is not None:
                    self._frame = None
                    raise EOFError("the compressed file ends in the middle: it was cut off")
                return 0
            self._decompress(chunk)
        if self._is_twice:
            raise ValueError("it is compressed twice: unpack it once")
        count = min(len(self._ready), len(target))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def resume(self) -> bool:
        """After damage was raised: go on at the next frame, if the file has one."""
        self._frame, mark = None, self._kind.frame
        while (at := self._rest.find(mark, 1)) < 0:
            more = self._raw.read(CHUNK_BYTES)
            if not more:
                self._rest = b""
                return False
            self._rest = self._rest[-len(mark) :] + more
        self._rest = self._rest[at:]
        return True

    def _decompress(self, chunk: bytes) -> None:
        self._rest = b""
        if self._frame is None:
            chunk = chunk.lstrip(b"\0")  # gzip and xz allow padding between and behind frames
            if not chunk:
                return
            self._frame = self._kind.start(self._dictionary)
        try:
            self._ready = memoryview(self._frame.decompress(chunk))
            self._is_twice = self._is_twice or (self._is_first and kind_of(bytes(self._ready[:HEAD_BYTES])) is not None)
            self._is_first = self._is_first and not self._ready
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            self._rest = chunk
            reason = str(error)
            if "Dictionary mismatch" in reason:
                reason = "its frames were made with a dictionary that it does not hold"
            raise ValueError(f"the compressed file is damaged: {reason}") from error
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None

    def close(self) -> None:
        self._raw.close()
        super().close()


def _dictionary(raw: IO[bytes]) -> bytes:
    """The dictionary in the first frame, which may be compressed itself; the stream then stands behind it."""
    size = int.from_bytes(_read(raw, 8)[4:], "little")
    if size > MAX_DICTIONARY_BYTES:
        raise ValueError(f"the compressed file is damaged: a dictionary of {size} bytes")
    data = _read(raw, size)
    if len(data) < size:
        raise EOFError("the compressed file ends in the middle: it was cut off")
    if not data.startswith(_ZSTD_FRAME):
        return data
    try:
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
    except zstandard.ZstdError as error:
        raise ValueError(f"the compressed file is damaged: its dictionary: {error}") from error


def _read(raw: IO[bytes], size: int) -> bytes:
    """That many bytes, or all that there are."""
    found = b""
    while len(found) < size and (more := raw.read(size - len(found))):
        found += more
    return found
