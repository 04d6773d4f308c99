"""The training loop: steps, log lines, checkpoints, validation. It knows neither stages nor clusters nor ZeRO.

Everything random or ordered is a function of (seed, step), so that the state of a run is the engine's, the step, and
what its policy for bad steps and, in RL, its source remember. What wall time decides (when to save) never touches the
numbers.
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

from cluster.core import metrics
from pipelines.specs import ScalingSpec, TrainingSpec
from pipelines.stages.training.batches import Share
from pipelines.stages.training.checkpoints.checkpoints import Checkpoints
from pipelines.stages.training.engine.engine import Engine, Hooks
from pipelines.stages.training.interruption import Undisturbed
from pipelines.stages.training.schedules import learning_rate_factor
from pipelines.stages.training.sources import Source
from pipelines.stages.training.telemetry.block_statistics import Statistics
from pipelines.stages.training.telemetry.divergence import Divergence
from pipelines.stages.training.telemetry.profiling import Profiler
from pipelines.stages.training.telemetry.stragglers import Stragglers
from pipelines.stages.training.telemetry.throughput import Clock


@dataclass(frozen=True)
class Agreed:
    """What all ranks know of a step after its exchange."""

    loss: float
    norm: float
    figures: list[float]
    due: bool  # a checkpoint, by rank 0's clock
    writing: bool  # some rank is still at the one before
    save: bool  # at once: a node will go
    stop: bool  # and end
    profile: int  # steps to profile from the next one on
    skipped: str  # why the policy for bad steps left it out; empty where it did not
    overflowed: bool  # of fp16's range: the optimizer did not take it either


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
    stragglers: Stragglers
    statistics: Statistics
    profiler: Profiler
    divergence: Divergence
    open_log: Callable[[int], metrics.MetricsLog]

    def run(self) -> dict[str, Any] | None:
        """Train to the end from the newest checkpoint. Returns train_loss, tokens, and what the last validation found.

        None where the run was asked to save and end before. Raises JobError, on all ranks in the same step, where the
        run diverges and is to stop.
        """
        steps, rank = self.source.plan.steps, self.source.rank
        done, tokens = 0, 0
        if part := self.checkpoints.load(self.engine.load_state):
            done, tokens = part.step, part.tokens
            self.divergence.load_state(part.notes["divergence"])
            self.source.load_state(part.notes.get("source", {}))
        self.source.restart(done)
        log = self.open_log(done) if rank == 0 else None
        saved_at = time.monotonic()
        self.clock.restart(done, tokens)
        loss = math.nan
        notices: list[str] = []
        for step in range(done, steps):
            began = time.monotonic()
            share = self.source.share(step, self.engine)
            waited = time.monotonic() - began
            self.clock.waited += waited
            self.stragglers.fetched(waited)
            # Dropout, too, is a function of the step, and the same on the ranks that share layers.
            torch.manual_seed(mix(self.spec.seed, step, rank // self.scaling.tensor_parallel_size))
            self.engine.objective.step = step
            factor = learning_rate_factor(step, steps, self.spec)
            due = rank == 0 and time.monotonic() - saved_at >= self.scaling.checkpoint_every_seconds
            look = self.statistics.due(step + 1)
            agreed = self._step(step, share, factor, due, look)
            done, tokens = step + 1, tokens + share.tokens
            if agreed.skipped:
                notices.append(f"step {done} was skipped: {agreed.skipped}")
            else:
                loss = agreed.loss
            if agreed.skipped or agreed.overflowed:
                self.source.skipped(step, agreed.skipped or "the gradient overflowed fp16, whose scale is lowered")
            else:
                self.source.taken(step)
            if look:
                looked = self.statistics.end(done)
                if log:
                    log.write_statistics(looked)
            last = done == steps
            notices += self.profiler.after(done, last)
            every = self.spec.evaluate_every_steps
            validate = bool(every) and done % every == 0 and not last
            if done % self.scaling.log_every == 0 or last or validate or agreed.skipped:
                slow, told = self.stragglers.lap()
                notices += told
                named = zip(self.engine.objective.names, agreed.figures, strict=True)
                line = {
                    metrics.STEP: done,
                    metrics.LOSS: _figure(agreed.loss),
                    metrics.GRAD_NORM: _figure(agreed.norm),
                    metrics.LEARNING_RATE: self.spec.learning_rate * factor,
                    metrics.TOKENS: tokens,
                    **{name: _figure(figure) for name, figure in named},
                    **self.engine.figures(),
                    **self.divergence.figures(),
                    **self.source.figures(),
                    **self.clock.lap(done, steps, tokens),
                    **self.checkpoints.figures(),
                    **slow,
                }
                if validate:
                    line |= self.source.validate(self.engine, done)
                    self.clock.restart(done, tokens)
                    notices += self.source.notices()
                if log:
                    log.write(line | ({metrics.NOTICES: notices} if notices else {}))
                    self.profiler.look()
                notices = []
            urgent = agreed.save or agreed.stop
            if (urgent or (agreed.due and not agreed.writing)) and not last:
                if log:
                    log.flush()
                own = {"divergence": self.divergence.save_state(), "source": self.source.save_state()}
                notes = self.engine.notes() | own
                self.checkpoints.save(done, tokens, self.engine.save_state, notes)
                saved_at = time.monotonic()
            if urgent and not last:
                self.checkpoints.finish()
                dist.barrier()
                self.interruption.saved()
                if agreed.stop:
                    return None
            self.profiler.begin(done + 1, 0 if last else agreed.profile)
        self.checkpoints.finish()
        if log:
            log.close()
        figures = {"train_loss": loss, "tokens": tokens, **self.divergence.figures()}
        return figures | self.source.validate(self.engine, steps)

    def _step(self, step: int, share: Share, factor: float, due: bool, look: bool) -> Agreed:
        """Take a step, or leave it out. Returns what all ranks agreed on in the one exchange of the step."""
        agreed: list[Agreed] = []

        def admit(parts: Tensor, norm: float) -> bool:
            """Before the update: the figures of the global batch, and what any rank finds due."""
            flags = [due, self.checkpoints.writing, *self.interruption.asked(), self.profiler.wanted]
            exchange = torch.cat([parts, torch.tensor(flags, dtype=torch.float64)])
            dist.all_reduce(exchange)
            loss, *figures = exchange[: len(parts)].tolist()
            *found, profile = exchange[len(parts) :].int().tolist()
            overflowed = self.engine.overflowed  # of fp16's narrow range, which is no divergence
            reason = "" if overflowed else self.divergence.admit(step + 1, loss, norm)
            due_now, writing, save, stop = map(bool, found)
            agreed.append(Agreed(loss, norm, figures, due_now, writing, save, stop, profile, reason, overflowed))
            self.checkpoints.before_update()
            return not (reason or overflowed)

        if look:
            self.statistics.begin()
        self.engine.step(share, factor, Hooks(admit, self.statistics.gradients if look else Hooks.gradients))
        return agreed[0]


def _figure(value: float) -> float | None:
    """A figure of the log; null where it is not finite, which JSON cannot say."""
    return round(value, 6) if math.isfinite(value) else None


def mix(*numbers: int) -> int:
    """A 63-bit seed from several numbers (FNV-1a over 64-bit words)."""
    value = 0xCBF29CE484222325
    for number in numbers:
        value = ((value ^ number) * 0x100000001B3) % 2**64
    return value >> 1
