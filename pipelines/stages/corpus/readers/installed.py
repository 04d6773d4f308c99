"""The Python that runs: its standard library and every installed distribution, with licences from their metadata."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from cluster.core.errors import InputError
from pipelines.stages.corpus.documents import UNKNOWN, Broken, Document, SourceFile
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.readers.text import read_text
from pipelines.stages.corpus.reading.files import local_file, walk

PYTHON_LICENSE = "PSF-2.0"
OWN_DISTRIBUTION = "trunkline"


class InstalledPythonSource(Source, frozen=True, tag="installed-python"):
    """The standard library and site-packages of this Python, with licences from the packages' metadata."""

    endings: ClassVar[tuple[str, ...]] = (".py",)

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """One document, as of a file of `text`."""
        return read_text(file)

    def list_files(self) -> list[SourceFile]:
        """Files named `stdlib/...` and `site-packages/...`, sorted; `origin` says package, version, licence, URL."""
        suffixes = self.file_endings()
        files = [*_standard_library(suffixes), *_installed(suffixes)]
        if not files:
            raise InputError(
                f"corpus.sources: installed-python has no file ending in {' or '.join(suffixes)}",
                "Correct the source's `suffixes`.",
            )
        return sorted(files, key=lambda file: file.name)


def _standard_library(suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    root = sysconfig.get_path("stdlib")
    origin = {
        "source": f"python=={platform.python_version()}",
        "license": PYTHON_LICENSE,
        "url": "https://www.python.org",
    }
    for name in walk(root):
        if name.endswith(suffixes):
            yield replace(local_file(f"stdlib/{name}", os.path.join(root, name)), origin=origin)


def _installed(suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
    seen: set[str] = set()
    for name, distribution in _distributions():
        origin = {
            "source": f"{name}=={distribution.version}",
            "license": license_of(distribution),
            "url": _home_page(distribution),
        }
        for relative in _recorded(distribution):
            path = os.path.normpath(str(distribution.locate_file(relative)))
            if not relative.endswith(suffixes) or relative in seen or not os.path.isfile(path):
                continue
            seen.add(relative)
            yield replace(local_file(f"site-packages/{relative}", path), origin=origin)


def _distributions() -> list[tuple[str, importlib.metadata.Distribution]]:
    """The distributions in site-packages by name, sorted, so that of two that record the same file one always wins.

    Not those of `sys.path`: importing Ray adds a folder with distributions of its own to it, and so may anyone.
    """
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = {str(d.metadata["Name"]): d for d in importlib.metadata.distributions(path=folders) if d.metadata["Name"]}
    return [(name, found[name]) for name in sorted(found) if name.lower() != OWN_DISTRIBUTION]


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
    if declared and declared.lower() != UNKNOWN and "\n" not in declared and len(declared) <= 60:
        return declared
    classifiers = metadata.get_all("Classifier") or []
    names = [c.rsplit("::", 1)[1].strip() for c in classifiers if c.startswith("License ::") and c.count("::") > 1]
    return " AND ".join(sorted(set(names))) or UNKNOWN


def _home_page(distribution: importlib.metadata.Distribution) -> str:
    metadata = distribution.metadata
    urls = [str(url).partition(",")[2].strip() for url in metadata.get_all("Project-URL") or []]
    return str([*(metadata.get_all("Home-page") or []), *urls, ""][0])
