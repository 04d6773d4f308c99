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
from torch import Tensor

from cluster import metrics
from cluster.errors import JobError
from cluster.specs import ScalingSpec, TrainingSpec
from pipelines.training.batches import Source
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.engine import Engine
from pipelines.training.interruption import Undisturbed
from pipelines.training.schedules import learning_rate_factor
from pipelines.training.throughput import Clock


@dataclass
class Loop:
    """One rank's view of a training run. All ranks run it in lockstep."""

    spec: TrainingSpec
    scaling: ScalingSpec
    engine: Engine
    source: Source
    checkpoints: Checkpoints
    interruption: Undisturbed
    clock: Clock
    open_log: Callable[[int], metrics.MetricsLog]

    def run(self) -> dict[str, Any] | None:
        """Train to the end from the newest checkpoint. Returns train_loss, tokens, and what the last validation found.

        None where the run was asked to save and end before.

        Raises JobError, on all ranks in the same step, where loss or gradient are no longer finite.
        """
        steps, rank = self.source.plan.steps, self.source.rank
        part = self.checkpoints.load(self.engine.load)
        done, tokens = (part.step, part.tokens) if part else (0, 0)
        self.source.restart(done)
        log = self.open_log(done) if rank == 0 else None
        saved_at = time.monotonic()
        self.clock.restart(done, tokens)
        loss = math.nan
        for step in range(done, steps):
            began = time.monotonic()
            share = self.source.share(step, self.engine)
            self.clock.waited += time.monotonic() - began
            torch.manual_seed(mix(self.spec.seed, step, rank))  # dropout, too, is a function of the step
            factor = learning_rate_factor(step, steps, self.spec)
            parts, norm = self.engine.step(share, factor, self.checkpoints.before_update)
            due = rank == 0 and time.monotonic() - saved_at >= self.scaling.checkpoint_every_seconds
            (loss, *figures), (due, writing, save, stop) = self._agree(
                parts, due, self.checkpoints.writing, *self.interruption.asked()
            )
            done, tokens = step + 1, tokens + share.tokens
            if not (math.isfinite(loss) and (math.isfinite(norm) or self.engine.overflowed)):
                raise JobError(
                    f"training diverged at step {done}: loss {loss}, gradient norm {norm}",
                    "Lower the learning rate, or lengthen the warm-up.",
                )
            self.source.taken(step)
            last = done == steps
            every = self.spec.evaluate_every_steps
            validate = bool(every) and done % every == 0 and not last
            if done % self.scaling.log_every == 0 or last or validate:
                named = zip(self.engine.objective.names, figures, strict=True)
                line = {
                    metrics.STEP: done,
                    metrics.LOSS: round(loss, 6),
                    metrics.GRAD_NORM: round(norm, 6) if math.isfinite(norm) else None,
                    metrics.LEARNING_RATE: self.spec.learning_rate * factor,
                    metrics.TOKENS: tokens,
                    **{name: round(figure, 6) for name, figure in named},
                    **self.engine.figures(),
                    **self.source.figures(),
                    **self.clock.lap(done, steps, tokens),
                    **self.checkpoints.figures(),
                }
                if validate:
                    line |= self.source.validate(self.engine, done)
                    self.clock.restart(done, tokens)
                if log:
                    log.write(line)
            urgent = save or stop
            if (urgent or (due and not writing)) and not last:
                if log:
                    log.flush()
                self.checkpoints.save(done, tokens, self.engine.take, self.engine.notes())
                saved_at = time.monotonic()
            if urgent and not last:
                self.checkpoints.finish()
                dist.barrier()
                self.interruption.saved()
                if stop:
                    return None
        self.checkpoints.finish()
        if log:
            log.close()
        return {"train_loss": loss, "tokens": tokens, **self.source.validate(self.engine, steps)}

    def _agree(self, parts: Tensor, *flags: bool) -> tuple[list[float], list[bool]]:
        """The figures of the global batch, and which flags any rank has set: one exchange for both."""
        exchange = torch.cat([parts, torch.tensor(flags, dtype=torch.float64)])
        dist.all_reduce(exchange)
        found = exchange.tolist()
        return found[: len(parts)], [flag > 0 for flag in found[len(parts) :]]


def mix(*numbers: int) -> int:
    """A 63-bit seed from several numbers (FNV-1a over 64-bit words)."""
    value = 0xCBF29CE484222325
    for number in numbers:
        value = ((value ^ number) * 0x100000001B3) % 2**64
    return value >> 1
