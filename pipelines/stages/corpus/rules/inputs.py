"""Files that a rule reads besides the corpus: block lists and evaluation data, local or at any fsspec URL.

They are read whole, once a process, so a file must not change while a corpus is made; its SHA-256 can be demanded.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable

import zstandard

from cluster.core.errors import InputError


def _undo_zstd(data: bytes) -> bytes:
    return bytes(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read())


_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _undo_zstd,
}


def find(path: str, field: str) -> list[str]:
    """The files of a file, folder (all below it) or glob, sorted. Raises InputError where there is none."""
    import fsspec

    files, root = fsspec.core.url_to_fs(path)
    if files.isfile(root):
        found = [root]
    elif files.isdir(root):
        found = files.find(root)
    else:
        found = [name for name in files.glob(root) if files.isfile(name)]
    if not found:
        raise InputError(f"{field}: no file at {path}", "Give a file, a folder or a glob that exists on every worker.")
    return [str(files.unstrip_protocol(name)) for name in sorted(found)]


def read(url: str, field: str) -> bytes:
    """What lies in the file, as it is. Raises InputError."""
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except OSError as error:
        raise InputError(
            f"{field}: cannot read {url}: {error}", "The file must be readable on every worker."
        ) from error


def decompress(data: bytes, url: str, field: str) -> bytes:
    """Undo `.gz`, `.bz2`, `.xz` or `.zst`, told by the name. Raises InputError."""
    try:
        for ending, undo in _COMPRESSIONS.items():
            if url.endswith(ending):
                return undo(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise InputError(f"{field}: cannot decompress {url}: {error}", "Fetch the file again.") from error
    return data


def uncompressed_name(url: str) -> str:
    """The name without the ending that `decompress` undoes."""
    for ending in _COMPRESSIONS:
        url = url.removesuffix(ending)
    return url


def check_sha256(data: list[bytes], expected: str, field: str) -> None:
    """Raises InputError where the files, one after the other, do not have the demanded SHA-256."""
    digest = hashlib.sha256()
    for part in data:
        digest.update(part)
    if expected and digest.hexdigest() != expected:
        raise InputError(
            f"{field}: the file has the SHA-256 {digest.hexdigest()}, and {expected} is demanded",
            "Use the file that the corpus was specified with, or correct `sha256`.",
        )
