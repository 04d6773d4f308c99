"""Where Trunkline keeps what belongs to a user of this machine: contexts, and the nodes that were started here."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """$TRUNKLINE_HOME, else ~/.trunkline."""
    return Path(os.environ.get("TRUNKLINE_HOME") or Path.home() / ".trunkline")
