"""What to do about a step that would do harm: one whose loss or gradient is not finite, or whose loss spikes.

`stop` ends the run before the weights are touched. `skip` leaves the step's batch out, as PaLM's authors did by hand
(arXiv:2204.02311, section 5.1): the optimizer does not see it, the next step takes the next batch. What counts as a
spike is judged by the losses of the last steps taken. All figures are those of the global batch, so that every rank
decides alike.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

from cluster.core import metrics
from cluster.core.errors import JobError
from pipelines.specs import TrainingSpec


class Divergence:
    """The policy of a run, and what it remembers. `skipped` counts the steps left out so far, in the whole run."""

    def __init__(self, spec: TrainingSpec) -> None:
        self.spec = spec
        self.skipped = 0
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=spec.spike_window)

    def admit(self, step: int, loss: float, norm: float) -> str:
        """Why the optimizer must leave out step number `step` (the first is 1); empty where it may take it.

        Raises JobError where the run is to stop.
        """
        reason = self._reason(loss, norm)
        if not reason:
            self._in_a_row = 0
            self._losses.append(loss)
            return ""
        told = f"training diverged at step {step}: {reason}"
        if self.spec.on_divergence == "stop":
            raise JobError(
                told,
                "Lower the learning rate, lengthen the warm-up, or leave such steps out with on_divergence=skip.",
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self.spec.max_consecutive_skips:
            raise JobError(
                f"{told}; the {self.spec.max_consecutive_skips} steps before it were skipped already",
                "This is not the fault of single batches: lower the learning rate, or lengthen the warm-up.",
            )
        return reason

    def _reason(self, loss: float, norm: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss}, gradient norm {norm}"
        threshold = self.spec.spike_threshold
        if not threshold or len(self._losses) < self.spec.spike_window:
            return ""
        mean, deviation = statistics.fmean(self._losses), statistics.pstdev(self._losses)
        if loss <= mean + threshold * deviation:
            return ""
        return (
            f"loss {loss:.6g} is above {mean:.6g} + {threshold:g} x {deviation:.3g}, "
            f"mean and standard deviation of the last {len(self._losses)} steps"
        )

    def figures(self) -> dict[str, int]:
        """What there is to tell in a line of the log."""
        return {metrics.SKIPPED_STEPS: self.skipped} if self.spec.on_divergence == "skip" else {}

    def save_state(self) -> dict[str, Any]:
        """What a checkpoint must hold for a resumed run to decide as if it had never stopped; plain JSON."""
        return {"losses": list(self._losses), "skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `save_state` returned; of a run's beginning there is nothing, `{}`."""
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))
        self.skipped, self._in_a_row = state.get("skipped", 0), state.get("in_a_row", 0)
