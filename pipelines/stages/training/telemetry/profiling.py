"""The training side of `ctl jobs profile` (profiles.py): PyTorch's profiler around a window of steps.

Rank 0 looks for a request at log lines and tells the number of steps in the loop's own exchange, so that all ranks
begin and end together. Each writes its trace into the stage's output; rank 0 then writes the index that is waited for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity

from cluster.core.storage.location import Location
from pipelines.stages.training.telemetry.profiles import FOLDER, REQUEST_FILE, Profile, Request


class Profiler:
    """One rank's profiler. All ranks call `before` and `after` in the same steps."""

    def __init__(self, output: Location) -> None:
        self._output = output
        self._request: Request | None = None  # rank 0's
        self._profiler: Any = None
        self._first = self._left = 0

    @property
    def wanted(self) -> int:
        """Steps that a request asks for and that have not begun; rank 0 alone knows of any."""
        return self._request.steps if self._request and not self._profiler else 0

    def look(self) -> None:
        """See whether there is a request. On rank 0."""
        if not self._request and self._output.exists(REQUEST_FILE):
            self._request = msgspec.json.decode(self._output.read_bytes(REQUEST_FILE), type=Request)
            self._output.remove(REQUEST_FILE)

    def begin(self, step: int, steps: int) -> None:
        """Profile `steps` steps, of which `step` is the first; 0 does nothing."""
        if not steps or self._profiler:
            return
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._first, self._left = step, steps
        self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        self._profiler.start()

    def after(self, step: int, last: bool) -> list[str]:
        """A step is done; when the window ends, or the run does, write. Returns what there is to tell."""
        if not self._profiler:
            return []
        self._left -= 1
        if self._left and not last:
            return []
        self._profiler.stop()
        name = f"steps-{self._first}-{step}"
        with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
            path = Path(folder) / "trace.json.gz"
            self._profiler.export_chrome_trace(str(path))
            self._output.write_bytes(_trace(name, dist.get_rank()), path.read_bytes())
        self._profiler = None
        dist.barrier()
        if self._request:
            found = Profile(self._first, step, [_trace(name, rank) for rank in range(dist.get_world_size())])
            self._output.write_bytes(f"{FOLDER}/{self._request.id}.json", msgspec.json.encode(found))
            self._request = None
        return [f"steps {self._first} to {step} were profiled: {FOLDER}/{name}"]


def _trace(name: str, rank: int) -> str:
    return f"{FOLDER}/{name}/rank-{rank}.json.gz"
