"""The Dockerfiles, read: no image can be built where there is no Docker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.kubernetes.pods import APP_FOLDER, USER_ID
from tests.conftest import ROOT

FILES = sorted((ROOT / "infra" / "docker").glob("Dockerfile.c*[!e]"))


def instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", "\n".join(line for line in file.read_text().splitlines() if line[:1] != "#"))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


def ids(file: Path) -> str:
    return file.name


def test_there_are_two() -> None:
    assert [file.name for file in FILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_it_runs_as_the_user_of_the_pods_in_their_folder(file: Path) -> None:
    found = instructions(file)
    last = dict(found)
    assert last["USER"] == f"{USER_ID}:{USER_ID}"
    assert last["WORKDIR"] == APP_FOLDER
    assert f"{APP_FOLDER}/.venv/bin:" in last["ENV"]
    after_user = [word for word, _ in found[[word for word, _ in found].index("USER") :]]
    assert after_user.count("USER") == 1
    assert all(f"--chown={USER_ID}:{USER_ID}" in rest for word, rest in found if word == "COPY")


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_it_has_what_kuberay_calls_and_installs_from_the_lock(file: Path) -> None:
    runs = [rest for word, rest in instructions(file) if word == "RUN"]
    assert " wget" in runs[0] and "--no-install-recommends" in runs[0] and "rm -rf /var/lib/apt/lists/*" in runs[0]
    device = {"Dockerfile.cpu": "cpu", "Dockerfile.cuda": "gpu"}[file.name]
    assert f"TRUNKLINE_DEVICE={device} PIP_NO_CACHE_DIR=1 scripts/setup" in runs


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_everything_it_copies_is_there_and_nothing_else(file: Path) -> None:
    lines = file.with_name(f"{file.name}.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    sources = {source for word, rest in instructions(file) if word == "COPY" for source in rest.split()[1:-1]}
    assert all((ROOT / source).exists() for source in kept | sources)
    assert {source.split("/")[0] for source in sources} == kept | {"."}
    assert not re.search(r"(?i)(token|password|secret)", file.read_text())
