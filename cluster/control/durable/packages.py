"""The code of jobs in the store, each version once: what was submitted can be run again when its machine is gone."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cluster.control.durable.records import FOLDER
from cluster.core.errors import InputError
from cluster.core.storage.location import CHUNK_BYTES, Location


def _place(root: Location) -> Location:
    return root / FOLDER / "packages"


def digest(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_kept(root: Location, sha256: str) -> bool:
    return _place(root).exists(f"{sha256}.zip")


def keep(root: Location, archive: Path) -> str:
    """Put a zip into the store, unless it is there; its SHA-256."""
    sha256 = digest(archive)
    if not is_kept(root, sha256):
        _place(root).write_file(f"{sha256}.zip", archive)
    return sha256


def fetch(root: Location, sha256: str, target: Path) -> None:
    """Copy a zip out of the store. Raises InputError where it is not there or damaged."""
    if not sha256 or not is_kept(root, sha256):
        raise InputError(f"the code of the job is not in {root.url}", "Submit its script again.")
    with _place(root).open(f"{sha256}.zip") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)
    if digest(target) != sha256:
        raise InputError(f"{_place(root).url}/{sha256}.zip is damaged", "Remove it, and submit the script again.")


def add(archive: Path, more: Mapping[str, bytes]) -> None:
    """Add files to a zip."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        for name, data in more.items():
            opened.writestr(zipfile.ZipInfo(name), data)


def forget(root: Location, sha256: str) -> None:
    """Remove a zip that no job needs."""
    _place(root).remove(f"{sha256}.zip")
