"""Files that a rule reads besides the corpus: block lists and evaluation data, local or at any fsspec URL.

They are read whole, once a process, so a file must not change while a corpus is made; its SHA-256 can be demanded.
"""

from __future__ import annotations

import hashlib
import io

from cluster.core.errors import InputError
from cluster.core.storage.location import PACKED
from pipelines.stages.corpus.reading.compression import HEAD_BYTES, Decompressed, kind_of
from pipelines.stages.corpus.reading.encodings import decode, hint


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
    """What is compressed in the data, told by its first bytes; what is called compressed must be. Raises InputError."""
    kind = kind_of(data[:HEAD_BYTES])
    try:
        if kind is not None:
            with io.BufferedReader(Decompressed(io.BytesIO(data), kind)) as stream:
                return stream.read()
        if url.endswith(PACKED):
            raise ValueError("it begins as no compression does")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{field}: cannot decompress {url}: {error}", "Fetch the file again.") from error
    return data


def text(data: bytes, name: str, field: str) -> str:
    """The data as text, in the encodings that a corpus is read in. Raises InputError where a part of it is lost: a list
    of other letters would match nothing, and nobody would know.
    """
    try:
        found = decode(data)
    except ValueError as error:
        raise InputError(f"{field}: cannot read {name}: {error}", "Give a text in UTF-8.") from error
    if found.replaced:
        what = hint(data, found)
        raise InputError(
            f"{field}: cannot read {name}: it is not UTF-8{f', and looks like {what}' if what else ''}",
            "Save it as UTF-8.",
        )
    return found.text


def uncompressed_name(url: str) -> str:
    """The name without the ending that `decompress` undoes."""
    for ending in PACKED:
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
