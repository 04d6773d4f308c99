"""`ctl doctor`: every check says what it found, and what to do where something is wanting."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from cluster.control import doctor
from tests.cluster.local_cluster import LocalCluster


@pytest.mark.heavy
def test_this_machine_is_ready(tmp_path: Path) -> None:
    machine = LocalCluster(tmp_path, 0, 0)
    clock = time.monotonic()
    checks = {check["name"]: check for check in json.loads(machine.ctl("doctor", "--json"))}
    assert time.monotonic() - clock < 60
    assert checks.keys() >= {"python", "torch", "ray", "deepspeed", "vllm", "bitsandbytes", "disk", "memory", "token"}
    assert all(check["state"] != "fail" for check in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_what_is_wanting_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "token").write_text("token")
    (tmp_path / "token").chmod(0o644)
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "ctl up --port"})
        monkeypatch.setattr(doctor, "PACKAGES", ("absent_package", "msgspec"))
        checks = {check.name: check for check in doctor.diagnose()}
    assert checks["compiler"].state == "warn"
    assert "chmod 600" in checks["token"].remedy
    assert checks[f"port {port}"].state == "warn"
    assert checks["msgspec"].state == "ok"
    assert "No module named" in checks["absent_package"].found
    assert checks["absent_package"].state == "fail"
    assert checks["absent_package"].remedy
