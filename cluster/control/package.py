"""What travels to the cluster with a job: a zip of the project, or of a user's folder beside our own packages.

Packed here rather than by Ray, so that its size is known before anything is sent, `.gitignore` files count at every
level, and equal content makes an equal zip, which Ray then uploads once.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pathspec

from cluster.core.errors import InputError
from cluster.core.provenance import PROJECT_ROOT

LIMIT_BYTES = 100 << 20
PACKAGES = ("cluster", "pipelines", "serving")
NEVER = ("__pycache__", "node_modules", "*.egg-info", "*.pyc")


def pack(
    script: Path, target: Path, exclude: Path | None = None, more: Mapping[str, bytes] = MappingProxyType({})
) -> Path:
    """Write the zip for `script` to `target`, with `more` files; return the script's path inside it.

    The whole project where the script lies in it, else the script's folder with our packages. `exclude`: a folder
    that stays here, such as the artifact store. Raises InputError above LIMIT_BYTES.
    """
    script = script.resolve()
    inside = script.is_relative_to(PROJECT_ROOT)
    root = PROJECT_ROOT if inside else script.parent
    files = {path.relative_to(root).as_posix(): path for path in _within_limit(root, exclude)}
    if not inside:
        for package in PACKAGES:
            files |= {path.relative_to(PROJECT_ROOT).as_posix(): path for path in travelling(PROJECT_ROOT / package)}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # dated 1980: the content alone decides what the zip is
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = files[name].stat().st_mode << 16
            archive.writestr(entry, files[name].read_bytes())
        for name, data in more.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return script.relative_to(root)


def travelling(root: Path, exclude: Path | None = None) -> Iterator[Path]:
    """The files below `root` that no .gitignore, at any level, leaves out; nothing hidden, no links to folders."""
    ignored: dict[Path, pathspec.GitIgnoreSpec] = {}
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        lines = list(NEVER) if here == root else []
        if ".gitignore" in names:
            lines += (here / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
        ignored[here] = pathspec.GitIgnoreSpec.from_lines(lines)
        above = [(parent, spec) for parent, spec in ignored.items() if here.is_relative_to(parent) and spec.patterns]

        def left_out(path: Path, ending: str, above: list[tuple[Path, pathspec.GitIgnoreSpec]] = above) -> bool:
            if path.name.startswith(".") or path == exclude:
                return True
            return any(spec.match_file(path.relative_to(parent).as_posix() + ending) for parent, spec in above)

        folders[:] = sorted(name for name in folders if not left_out(here / name, "/"))
        yield from (here / name for name in sorted(names) if not left_out(here / name, "") and (here / name).is_file())


def _within_limit(root: Path, exclude: Path | None) -> Iterator[Path]:
    total_bytes = 0
    largest: tuple[int, Path | None] = (0, None)
    for path in travelling(root, exclude):
        size_bytes = path.stat().st_size
        total_bytes += size_bytes
        largest = max(largest, (size_bytes, path), key=lambda item: item[0])
        if total_bytes > LIMIT_BYTES:
            raise InputError(
                f"{root}: a job would carry more than {LIMIT_BYTES >> 20} MiB (largest file so far: {largest[1]})",
                "Name what it does not need in .gitignore, or move the script into a folder of its own.",
            )
        yield path
