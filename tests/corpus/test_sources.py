"""What a source lists: the same files whoever looks and whatever was imported, each with its licence."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.specs import CorpusSpec
from pipelines.corpus.sources import installed_python, license_of
from tests.conftest import ROOT
from tests.corpus.files import source, spec


def test_installed_python_knows_its_licences() -> None:
    files = installed_python(CorpusSpec())
    by_source = {file.source.partition("==")[0]: file for file in files}
    assert by_source["python"].license == "PSF-2.0"
    assert by_source["msgspec"].license.startswith("BSD")
    assert by_source["typer"].license == "MIT"
    assert "trunkline" not in by_source
    names = [file.name for file in files]
    assert len(names) == len(set(names))
    assert not any(name.startswith("/") or "__pycache__" in name for name in names)


def test_imports_and_the_working_folder_do_not_show(tmp_path: Path) -> None:
    """Importing Ray adds a folder of vendored distributions to `sys.path`."""
    (tmp_path / "stray-1.0.dist-info").mkdir()
    (tmp_path / "stray-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n")
    (tmp_path / "stray-1.0.dist-info" / "RECORD").write_text("stray.py,,\n")
    (tmp_path / "stray.py").write_text("x = 1\n")
    code = """
import sys
{}
from cluster.specs import CorpusSpec
from pipelines.corpus.sources import installed_python
print(hash(tuple((f.name, f.source, f.license, f.url) for f in installed_python(CorpusSpec()))))
"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", code.format(first)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for first in ("", "import ray", f"sys.path.append({str(tmp_path)!r})")
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: something else", "MIT OR Apache-2.0"),
        ("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: MIT License", "BSD-3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        (f"License: {'a whole text ' * 20}\nClassifier: License :: OSI Approved :: ISC License", "ISC License"),
        (
            "Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: OSI Approved :: Apache License",
            "Apache License AND MIT License",
        ),
        ("Classifier: License :: OSI Approved", "unknown"),
        ("Summary: nothing said", "unknown"),
    ],
)
def test_where_a_licence_is_declared(tmp_path: Path, metadata: str, expected: str) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: x\nVersion: 1\n{metadata}\n")
    assert license_of(importlib.metadata.PathDistribution(tmp_path)) == expected


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    """Not even root lists a folder whose path is longer than the system allows."""
    code = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(20):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    (tmp_path / "a.py").write_text(source(1))
    from pipelines.corpus.sources import list_files

    with pytest.raises(InputError, match="File name too long"):
        list_files(spec(tmp_path))
    remove = "import shutil, sys; shutil.rmtree(sys.argv[1])"  # by file descriptors, from below
    subprocess.run([sys.executable, "-c", remove, str(tmp_path / ("d" * 250))], check=True)
