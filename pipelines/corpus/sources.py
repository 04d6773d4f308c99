"""Where documents come from. A source lists files and knows what each is: its package, licence and home page.

To add one, write a function `CorpusSpec -> list[SourceFile]` and enter it in `SOURCES`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError
from cluster.specs import CorpusSpec

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", ".git", ".venv", "node_modules"}
PYTHON_LICENSE = "PSF-2.0"
OWN_DISTRIBUTION = "trunkline"


@dataclass(frozen=True)
class SourceFile:
    """One file: `name` is its identity, free of this machine's folders; `path` is where it lies here."""

    name: str
    path: str
    source: str
    license: str
    url: str


def list_files(spec: CorpusSpec) -> list[SourceFile]:
    """All files of the spec's source, sorted by name. Raises InputError where there are none."""
    files = sorted(SOURCES[spec.source](spec), key=lambda file: file.name)
    if not files:
        raise InputError(
            f"corpus: {spec.source} has no file ending in {' or '.join(spec.suffixes)} below {spec.path or 'Python'}",
            "Check corpus.path and corpus.suffixes.",
        )
    return files


def text_files(spec: CorpusSpec) -> list[SourceFile]:
    """Every file below `spec.path` with one of the suffixes. Raises InputError where a folder cannot be listed."""
    root = Path(spec.path)
    if not spec.path or not root.is_dir():
        raise InputError(f"corpus.path: {spec.path!r} is not a folder", "Give a folder that every node can read.")
    names = _walk(root, spec.suffixes)
    return [SourceFile(_printable(name), str(root / name), root.name, "unknown", "") for name in names]


def installed_python(spec: CorpusSpec) -> list[SourceFile]:
    """The standard library and every installed distribution, with licences from the packages' own metadata."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    source, url = f"python=={platform.python_version()}", "https://www.python.org"
    files = [
        SourceFile(f"stdlib/{name}", str(stdlib / name), source, PYTHON_LICENSE, url)
        for name in _walk(stdlib, spec.suffixes)
    ]
    seen: set[str] = set()
    for name, distribution in _distributions():
        source, license_, url = f"{name}=={distribution.version}", license_of(distribution), _home_page(distribution)
        for relative in _recorded(distribution):
            path = os.path.normpath(str(distribution.locate_file(relative)))
            if not relative.endswith(spec.suffixes) or relative in seen or not os.path.isfile(path):
                continue
            seen.add(relative)
            files.append(SourceFile(f"site-packages/{relative}", path, source, license_, url))
    return files


SOURCES: dict[str, Callable[[CorpusSpec], list[SourceFile]]] = {
    "installed-python": installed_python,
    "text-files": text_files,
}


def _distributions() -> list[tuple[str, importlib.metadata.Distribution]]:
    """The distributions in site-packages by name, sorted, so that of two that record the same file one always wins.

    Not those of `sys.path`: importing Ray adds a folder with distributions of its own to it, and so may anyone.
    """
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = {str(d.metadata["Name"]): d for d in importlib.metadata.distributions(path=folders) if d.metadata["Name"]}
    return [(name, found[name]) for name in sorted(found) if name.lower() != OWN_DISTRIBUTION]


def _printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are written as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unlisted(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}", "Every folder of the source must be readable.") from error


def _walk(root: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    for folder, folders, names in os.walk(root, onerror=_unlisted):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for name in names:
            if name.endswith(suffixes):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def _recorded(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    """The files of a distribution's RECORD that lie in site-packages (scripts and data elsewhere do not count)."""
    text = distribution.read_text("RECORD") or ""
    for row in csv.reader(io.StringIO(text)):
        if row and not row[0].startswith(("..", "/")):
            yield row[0]


def license_of(distribution: importlib.metadata.Distribution) -> str:
    """The licence that a distribution declares: SPDX expression, else the short licence field, else classifiers."""
    metadata = distribution.metadata
    if expression := metadata.get_all("License-Expression"):
        return str(expression[0]).strip()
    declared = str((metadata.get_all("License") or [""])[0]).strip()
    if declared and declared.lower() != "unknown" and "\n" not in declared and len(declared) <= 60:
        return declared
    classifiers = metadata.get_all("Classifier") or []
    names = [c.rsplit("::", 1)[1].strip() for c in classifiers if c.startswith("License ::") and c.count("::") > 1]
    return " AND ".join(sorted(set(names))) or "unknown"


def _home_page(distribution: importlib.metadata.Distribution) -> str:
    metadata = distribution.metadata
    urls = [str(url).partition(",")[2].strip() for url in metadata.get_all("Project-URL") or []]
    return str([*(metadata.get_all("Home-page") or []), *urls, ""][0])
