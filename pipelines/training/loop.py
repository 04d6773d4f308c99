"""The training loop: steps, log lines, checkpoints, validation. It knows neither stages nor clusters nor ZeRO.

Everything random or ordered is a function of (seed, step), so that the state of a run is the engine's plus one
number. What wall time decides (when to save) never touches the numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from cluster import metrics
from cluster.errors import JobError
from cluster.specs import PretrainSpec, ScalingSpec
from pipelines.tokens.reader import TokenStore
from pipelines.training.batches import Batches, stack
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.engine import Engine
from pipelines.training.schedules import learning_rate_factor
from pipelines.training.throughput import Clock


@dataclass
class Loop:
    """One rank's view of a training run. All ranks run it in lockstep."""

    spec: PretrainSpec
    scaling: ScalingSpec
    engine: Engine
    batches: Batches
    heldout: TokenStore
    checkpoints: Checkpoints
    clock: Clock
    open_log: Callable[[int], metrics.MetricsLog]

    def run(self) -> dict[str, Any]:
        """Train to the end from the newest checkpoint. Returns train_loss and validation_loss (nats per token).

        Raises JobError, on all ranks in the same step, where loss or gradient are no longer finite.
        """
        plan, rank = self.batches.plan, self.batches.rank
        tokens_per_step = plan.global_batch * self.heldout.sequence_length
        total = plan.steps * tokens_per_step
        done = self.checkpoints.load(self.engine.load)
        log = self.open_log(done) if rank == 0 else None
        saved_at = time.monotonic()
        self.clock.restart(done * tokens_per_step)
        loss = math.nan
        for step in range(done, plan.steps):
            began = time.monotonic()
            micro_batches = self.batches.step(step)
            self.clock.waited += time.monotonic() - began
            torch.manual_seed(_mix(self.spec.seed, step, rank))  # dropout, too, is a function of the step
            factor = learning_rate_factor(step, plan.steps, self.spec)
            part, norm = self.engine.step(micro_batches, factor)
            late = rank == 0 and time.monotonic() - saved_at >= self.scaling.checkpoint_every_seconds
            loss, save = self._agree(part, late)
            done = step + 1
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise JobError(
                    f"training diverged at step {done}: loss {loss}, gradient norm {norm}",
                    "Lower the learning rate, or lengthen the warm-up.",
                )
            last = done == plan.steps
            every = self.spec.evaluate_every_steps
            validate = bool(every) and done % every == 0 and not last
            if done % self.scaling.log_every == 0 or last or validate:
                line = {
                    metrics.STEP: done,
                    metrics.LOSS: round(loss, 6),
                    metrics.GRAD_NORM: round(norm, 6),
                    metrics.LEARNING_RATE: self.spec.learning_rate * factor,
                    metrics.TOKENS: done * tokens_per_step,
                    **self.clock.lap(done * tokens_per_step, total),
                }
                if validate:
                    line[metrics.VALIDATION_LOSS] = self.validate()
                    self.clock.restart(done * tokens_per_step)
                if log:
                    log.write(line)
            if save and not last:
                if log:
                    log.flush()
                self.checkpoints.save(done, self.engine.save)
                saved_at = time.monotonic()
        if log:
            log.close()
        return {"train_loss": loss, "validation_loss": self.validate()}

    def _agree(self, part: float, late: bool) -> tuple[float, bool]:
        """The loss of the global batch, and whether rank 0 finds a checkpoint due: one exchange for both."""
        exchange = torch.tensor([part, float(late)], dtype=torch.float64)
        dist.all_reduce(exchange)
        return float(exchange[0]), bool(exchange[1])

    def validate(self) -> float:
        """Mean loss (nats per token) over the first `validation_sequences` of the held-out split."""
        plan, rank = self.batches.plan, self.batches.rank
        count = min(self.spec.validation_sequences, self.heldout.num_sequences)
        share = -(-count // plan.num_workers)
        summed = torch.zeros((), dtype=torch.float64)
        for start in range(0, share, plan.micro_batch):
            # Under ZeRO 3 ranks must make equally many passes: one that has nothing left repeats and counts nothing.
            samples = range(rank * share + start, min(rank * share + min(start + plan.micro_batch, share), count))
            loss = self.engine.evaluate(stack(self.heldout, list(samples) or [0]))
            summed += loss if len(samples) else 0.0
        dist.all_reduce(summed)
        return float(summed) / (count * self.heldout.sequence_length)


def _mix(*numbers: int) -> int:
    """A 63-bit seed from several numbers (FNV-1a over 64-bit words)."""
    value = 0xCBF29CE484222325
    for number in numbers:
        value = ((value ^ number) * 0x100000001B3) % 2**64
    return value >> 1
