"""One tree of errors. Each knows its exit code and its remedy, and survives pickling, since Ray carries it.

Exit codes: 0 done, 2 usage, 3 bad spec or input, 4 the environment is not ready, 5 the job failed, 75 a node was lost
(of sysexits.h: try again), 130 interrupted.
"""

from __future__ import annotations


class TrunklineError(Exception):
    """Base of every error meant for a user: `message` says what is wrong and where, `remedy` what to do."""

    exit_code = 5

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        return f"{self.message.rstrip('.')}. {self.remedy}"


class UsageError(TrunklineError):
    """The command line itself is wrong."""

    exit_code = 2


class SpecError(TrunklineError):
    """A spec or an override is wrong: unknown field, wrong type, value out of bounds."""

    exit_code = 3


class InputError(TrunklineError):
    """A file, an artifact or another input is missing or unreadable."""

    exit_code = 3


class NotReadyError(TrunklineError):
    """The environment lacks something: a cluster, a port, disk, a token, a package."""

    exit_code = 4


class JobError(TrunklineError):
    """The work was begun and failed."""

    exit_code = 5


class LostNodeError(JobError):
    """The work was begun, and a machine that it ran on is gone: the same again goes on from what was finished."""

    exit_code = 75


class InterruptedRun(TrunklineError):
    """The user stopped the work; what was finished is kept."""

    exit_code = 130


def gist(text: str) -> str:
    """The last line that says something: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if any(character.isalnum() for character in line)]
    return lines[-1] if lines else "no message"


def nearest(word: str, known: list[str]) -> str:
    """A remedy that names the known word closest to `word`, or lists all of them."""
    import difflib

    by_plain = {_plain(name): name for name in reversed(known)}
    close = difflib.get_close_matches(_plain(word), list(by_plain), n=1, cutoff=0.6)
    if close:
        return f"Did you mean {by_plain[close[0]]!r}?"
    return f"Known: {', '.join(sorted(known))}."


def _plain(word: str) -> str:
    """A word as it is compared: capitals, and which sign is between its parts, do not matter."""
    return word.lower().replace("-", "_").replace(" ", "_")
