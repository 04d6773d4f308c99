"""Rewards in processes of their own, with a deadline for each sample; one that fails costs its sample and no more.

One thread serves all processes: it gives each the next sample when it has answered, kills one that is late, and starts
another in the place of one that has ended. What a reward returns does not depend on which process was asked.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from cluster.core.errors import InputError, JobError, NotReadyError
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.rewards import confined
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

START_SECONDS = 300.0  # for a process to import what its rewards need
END_SECONDS = 10.0
OUTPUT_BYTES = 1000  # of what a reward printed last, told where it fails
MAX_ANSWER_BYTES = 1 << 16
SAMPLES_PER_PROCESS = 4  # fewer do not make up for the start of another one
STARTS = 3  # in a row that fail


@dataclass(frozen=True)
class Failed:
    """Why a sample has no reward."""

    why: str


Steps = list[tuple[int, float]]  # where each step of an answer ends, in characters, and what it is worth
Scored = float | Steps | Failed


def broken(name: str, why: str, sample: Sample) -> InputError:
    """The error of a reward that fails on a sample."""
    return InputError(
        f"rlhf.rewards: {name} {why}, for {sample.told}",
        f"Mend it, or say what becomes of such samples: rlhf.rewards.{name} with on_failure: skip or score.",
    )


class Pool:
    """Processes of some rewards, started when there is something to score. One thread uses it, and they end with it."""

    def __init__(
        self,
        rewards: Mapping[str, Reward] | Mapping[str, Environment],
        seed: int,
        processes: int,
        memory_bytes: int,
        kind: Literal["rewards", "environments"] = "rewards",
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self.rewards: dict[str, Reward | Environment] = dict(rewards)
        self.most = processes
        self._field = "rlhf.rewards" if kind == "rewards" else "rlhf"  # an environment's name is its field
        self._order = {
            "path": [entry or os.getcwd() for entry in sys.path],
            "kind": kind,
            "called": msgspec.to_builtins(self.rewards),
            "files": {name: str(path) for name, path in (files or {}).items()},
            "seed": seed,
            "memory_bytes": memory_bytes,
        }
        self._processes: list[_Process] = []

    def score(self, samples: Sequence[Sample], timeout_seconds: float) -> dict[str, list[Scored]]:
        """What each sample is worth by each reward. Raises as `call` does."""
        return self.call(samples, timeout_seconds)

    def call(self, samples: Sequence[Sample], timeout_seconds: float) -> dict[str, list[Any]]:
        """What each sample is worth by each reward, or each environment says to it; or that this Failed.

        Raises InputError where a reward fails whose samples are neither left out nor scored, with its name and the
        sample; JobError where all of it takes longer than `timeout_seconds`, or no process can be started;
        NotReadyError where a reward lacks something of this machine's.
        """
        try:
            return self._call(samples, timeout_seconds)
        except BaseException:
            self.close()  # what they were asked is nobody's any more
            raise

    def close(self) -> None:
        """End all processes."""
        while self._processes:
            self._processes.pop().kill()

    def _call(self, samples: Sequence[Sample], timeout_seconds: float) -> dict[str, list[Any]]:
        found: dict[str, dict[int, Any]] = {name: {} for name in self.rewards}
        todo = deque((name, row) for name in self.rewards for row in range(len(samples)))
        left = len(todo)
        end, starts = time.monotonic() + timeout_seconds, 0
        plain = [asdict(sample) for sample in samples]
        while left:
            self._fill(left)
            for process in self._processes:
                if process.idle and todo:
                    name, row = todo.popleft()
                    seconds = self.rewards[name].timeout_seconds
                    process.ask((name, row), {"name": name, "sample": plain[row]}, seconds)
            for process, answer in self._answers(end):
                if process.task is not None:
                    name, row = process.task
                    if "remedy" in answer:
                        raise NotReadyError(f"{self._field}: {name}: {answer['why']}", answer["remedy"])
                    if "why" in answer and self.rewards[name].on_failure == "fail":
                        raise broken(name, answer["why"], samples[row])
                    found[name][row] = answer["value"] if "value" in answer else Failed(str(answer["why"]))
                    left, starts, process.task = left - 1, 0, None
                elif not process.ready:
                    starts += 1
                    if starts >= STARTS:
                        raise JobError(f"the process of the rewards does not start: {answer['why']}")
                if process.ended:
                    process.kill()
                    self._processes.remove(process)
            if left and time.monotonic() >= end:
                self._late(timeout_seconds, samples, len(todo))
        return {name: [rows[row] for row in range(len(samples))] for name, rows in found.items()}

    def _fill(self, left: int) -> None:
        wanted = min(self.most, -(-left // SAMPLES_PER_PROCESS))
        while len(self._processes) < wanted:
            self._processes.append(_Process(self._order))

    def _answers(self, end: float) -> list[tuple[_Process, dict[str, Any]]]:
        """What processes have answered, or why they will not, once one has, or is late, or it is `end`."""
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                for file, events in process.waits_for():
                    selector.register(file, events, process)
            deadline = min([end, *(process.deadline for process in self._processes)])
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                key.data.go_on(key.fd)
        return [(process, answer) for process in self._processes if (answer := process.answer()) is not None]

    def _late(self, seconds: float, samples: Sequence[Sample], untouched: int) -> None:
        tasks = [process.task for process in self._processes if process.task is not None]
        now = "".join(f", and {name} is at {samples[row].told}" for name, row in tasks[:1])
        raise JobError(
            f"{self._field}: {', '.join(self.rewards)} did not return within {seconds:g} s: {untouched} of "
            f"{len(samples) * len(self.rewards)} are still to be asked for{now}",
            "Mend the function, or raise scaling.reward_timeout_seconds or scaling.reward_processes.",
        )


class _Process:
    """One process: what it was asked, what is still to be written to it, what was read of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._replies, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-s", "-P", str(Path(confined.__file__).resolve()), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs,),
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        os.close(theirs)
        assert self._process.stdin and self._process.stdout
        self._orders, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        for descriptor in (self._orders, self._output, self._replies):
            os.set_blocking(descriptor, False)
        self.task: tuple[str, int] | None = None
        self.ready = self.ended = self._quiet = False
        self._in, self._printed = bytearray(), b""
        self._out = confined.pack(order)
        self.deadline = time.monotonic() + START_SECONDS
        self._seconds = START_SECONDS

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None and not self.ended

    def ask(self, task: tuple[str, int], order: dict[str, Any], seconds: float) -> None:
        self.task, self._seconds = task, seconds
        self.deadline = time.monotonic() + seconds
        self._out = confined.pack(order)
        self._printed = b""

    def waits_for(self) -> list[tuple[int, int]]:
        """Descriptors and what is waited for there."""
        found = [(self._replies, selectors.EVENT_READ)]
        if not self._quiet:
            found.append((self._output, selectors.EVENT_READ))
        if self._out:
            found.append((self._orders, selectors.EVENT_WRITE))
        return found

    def go_on(self, descriptor: int) -> None:
        """Read or write what can be without waiting."""
        try:
            if descriptor == self._orders:
                self._out = self._out[os.write(descriptor, self._out) :]
                return
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data, self._out = b"", b""
        if descriptor == self._replies:
            self._in += data
            self.ended |= not data
        elif descriptor == self._output:
            self._printed = (self._printed + data)[-OUTPUT_BYTES:]
            self._quiet = not data

    def answer(self) -> dict[str, Any] | None:
        """What it has answered since it was asked, or why it will not; None: not yet."""
        head = confined.HEAD.size
        size = confined.HEAD.unpack(self._in[:head])[0] if len(self._in) >= head else 0
        if size > MAX_ANSWER_BYTES:
            self.ended = True
            return {"why": "wrote into the pipe that its answer belongs into"}
        if size and len(self._in) >= head + size:
            try:
                found = msgspec.json.decode(self._in[head : head + size], type=dict[str, Any])
            except msgspec.DecodeError:
                self.ended = True
                return {"why": "wrote into the pipe that its answer belongs into"}
            del self._in[: head + size]
            self.deadline = float("inf")
            if self.ready:
                return found
            self.ready = True
        elif self.ended:
            return {"why": f"{self._how_it_ended()}{self._last_words()}"}
        elif time.monotonic() >= self.deadline:
            self.ended = True
            return {"why": f"did not return within {self._seconds:g} s{self._last_words()}"}
        return None

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if status > 128:
            return f"was killed by signal {status - 128}"
        return f"ended its process with status {status}"

    def _last_words(self) -> str:
        with suppress(OSError):
            self._printed = (self._printed + os.read(self._output, 1 << 16))[-OUTPUT_BYTES:]
        text = " ".join(self._printed.decode(errors="replace").split())
        return f"; it last printed: {text[-300:]}" if text else ""

    def kill(self) -> None:
        """End it with all that it has started."""
        with suppress(OSError):
            self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._replies)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(OSError):
                pipe.close()
