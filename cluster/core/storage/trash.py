"""Removing a folder of the store so that a kill at any moment leaves nothing that looks finished or begun.

On a file system it is moved to `.trash` in one step, and removed there. An object store cannot move: a mark in `.trash`
says of the place that it goes, until all of it has gone. Whoever finds such remains removes them.
"""

from __future__ import annotations

import errno
import os

from cluster.core.storage.artifact import RECORD_FILE
from cluster.core.storage.holder import new_owner
from cluster.core.storage.location import Location

FOLDER = ".trash"  # in the store's root
FULL = (errno.ENOSPC, errno.EDQUOT)


def discard(root: Location, path: str) -> None:
    """Remove the folder `path` below the root."""
    if not root.is_local:
        (root / FOLDER).write_bytes(path, b"")
        clear(root, path)
        return
    away = f"{FOLDER}/{path.replace('/', '.')}-{new_owner()[:8]}"
    try:
        (root / FOLDER).path.mkdir(parents=True, exist_ok=True)
        os.replace((root / path).path, (root / away).path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        # No room even for a folder: the record goes first, so that nothing half removed looks finished.
        root.remove(f"{path}/{RECORD_FILE}")
        away = path
    root.remove(away)


def remains(root: Location) -> list[str]:
    """Folders below the root whose removal was begun and not finished."""
    if root.is_local:
        return [f"{FOLDER}/{name}" for name in root.names(FOLDER)]
    return list((root / FOLDER).walk())


def clear(root: Location, path: str) -> None:
    """Finish a removal that was begun, if it was. Of an artifact's place: only by whoever holds its lease."""
    if root.is_local:
        root.remove(path)
    elif (root / FOLDER).exists(path):
        root.remove(f"{path}/{RECORD_FILE}")
        root.remove(path)
        root.remove(f"{FOLDER}/{path}")
