"""Colours and bold only where they are wanted: on a terminal, by the conventions of NO_COLOR, CLICOLOR and TERM."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def styled() -> bool:
    """Whether stdout takes styles. https://no-color.org, https://bixense.com/clicolors."""
    said = os.environ.get
    if said("NO_COLOR") or said("CLICOLOR") == "0" or said("TERM") in ("dumb", "unknown"):
        return False
    return said("CLICOLOR_FORCE", "0") != "0" or bool(said("FORCE_COLOR")) or sys.stdout.isatty()


def console(**options: Any) -> Console:
    """A console of rich's on stdout, with styles only where they are wanted: with NO_COLOR rich still writes bold."""
    from rich.console import Console

    return Console(color_system="auto" if styled() else None, force_terminal=styled() or None, **options)
