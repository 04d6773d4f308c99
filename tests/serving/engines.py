"""Processes of an endpoint, found from outside."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil


def engines(home: Path) -> list[psutil.Process]:
    """Those of vLLM's engines that belong to the cluster of a home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            title = " ".join(process.cmdline()).strip()
            if title == "VLLM::EngineCore" and process.environ().get("HOME") == str(home):
                found.append(process)
    return found
