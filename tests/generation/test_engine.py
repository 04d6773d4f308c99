"""Rollout engines compute what transformers computes, take weights in memory, and cannot pass old ones for new."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core.build import build
from cluster.core.errors import JobError, NotReadyError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec, ScalingSpec
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.sync import GREEDY_TOKENS, greedy
from pipelines.stages.generation.background import begin
from pipelines.stages.generation.engine import STACK_FRACTION, EngineOptions, GenerationEngine, StaleWeights, checksum
from pipelines.stages.generation.fleet import PATIENCE, Fleet, Weights, shared_threads, start
from pipelines.stages.generation.last_words import READ_SECONDS, stack_when_late
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.tuning.made_adapters import by_method

pytestmark = pytest.mark.heavy

EOS = 0
PROMPTS = [[5, 6, 7], [40, 41], list(range(50, 90))]
ASKED: dict[str, Any] = {"max_tokens": GREEDY_TOKENS, "eos_token_id": EOS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("engine")
    write_conversations(folder / "functions.jsonl", 50)
    write_model(folder / "model", folder / "functions.jsonl")
    return build(PretrainedSpec(source=str(folder / "model")), {}, store=Store(folder / "artifacts"), name="tiny")


def other(artifact: Artifact, seed: int) -> Any:
    """The same architecture with other weights, spread so that its choices are clear."""
    found = AutoModelForCausalLM.from_pretrained(artifact.local(), dtype=torch.float32).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.0) + (parameter.dim() == 1)
            )
    return found


@pytest.fixture(scope="module")
def handles(model: Artifact, ray_cluster: None) -> Iterator[list[Any]]:
    found = start(model, EngineOptions(max_model_len=128, threads=2, takes_weights=True), ScalingSpec())
    yield found
    ray.kill(found[0])


@pytest.fixture
def fleet(handles: list[Any]) -> Fleet:
    return Fleet(handles, timeout_seconds=120, max_failures=1)


def weights_of(found: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in found.named_parameters()}


@pytest.mark.parametrize(
    ("cores", "engines", "nodes", "threads"),
    [(2, 1, 1, 2), (2, 2, 1, 1), (2, 3, 1, 1), (16, 2, 2, 16), (16, 4, 2, 8), (4, 1, 3, 4)],
)
def test_engines_of_a_node_share_its_cores(cores: int, engines: int, nodes: int, threads: int) -> None:
    assert shared_threads(cores, engines, nodes) == threads


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_sync_greedy_tokens_are_those_of_transformers(fleet: Fleet, model: Artifact, seed: int) -> None:
    policy = other(model, seed)
    fleet.sync(seed, weights_of(policy))
    found = fleet.generate(PROMPTS, [0, 0, 0], temperature=0.0, **ASKED)
    assert [c.tokens for c in found] == [greedy(policy, prompt, EOS) for prompt in PROMPTS]
    assert [c.finished for c in found] == [c.tokens[-1] == EOS for c in found]


def test_an_engine_that_rests_wakes_for_prompts_and_for_weights(fleet: Fleet, model: Artifact) -> None:
    """A CPU's engine gives no memory back, but vLLM admits no request until it is awake."""
    policies = [other(model, seed) for seed in (11, 12)]
    fleet.sync(11, weights_of(policies[0]))
    for version, policy in enumerate(policies, 11):
        fleet.rest()
        fleet.rest()
        fleet.sync(version, weights_of(policy))
        fleet.rest()
        found = fleet.generate(PROMPTS, [0, 0, 0], temperature=0.0, **ASKED)
        assert [c.tokens for c in found] == [greedy(policy, prompt, EOS) for prompt in PROMPTS]


class Learner:
    """A process that gives engines weights out of its own memory, and kills one of them."""

    def syncs(self, handles: list[Any], artifact: Artifact) -> list[bool]:
        """Whether greedy tokens were those of transformers: after a sync, after a death, after another sync."""
        fleet, found = Fleet(handles, timeout_seconds=240, max_failures=1, transport="nixl"), []
        for version in (1, 2):
            policy = other(artifact, version)
            fleet.sync(version, weights_of(policy))
            for dies in (False, True):
                if dies:
                    os.kill(ray.get(handles[0].pid.remote()), signal.SIGKILL)
                drawn = fleet.generate(PROMPTS, [0, 0, 0], temperature=0.0, **ASKED)
                found.append([c.tokens for c in drawn] == [greedy(policy, prompt, EOS) for prompt in PROMPTS])
        return [*found, fleet.restarts == 2]


@pytest.mark.exhaustive
def test_weights_travel_from_memory_to_memory(model: Artifact, ray_cluster: None) -> None:
    """By NIXL, of which CPUs' memory is as good as GPUs'."""
    pytest.importorskip("nixl", reason="the package nixl is not installed")
    handles = start(model, EngineOptions(max_model_len=128, threads=2, takes_weights=True), ScalingSpec())
    learner = ray.remote(num_cpus=0)(Learner).remote()
    try:
        assert all(ray.get(learner.syncs.remote(handles, model)))
    finally:
        for handle in (*handles, learner):
            ray.kill(handle)


@pytest.mark.parametrize(("version", "method"), [(21, "lora"), (22, "dora"), (23, "qlora")])
def test_a_merged_model_says_what_base_and_adapter_say(
    fleet: Fleet, model: Artifact, tmp_path: Path, version: int, method: str
) -> None:
    """The files of a tuned artifact: merged by us and run by vLLM, and over the base, never packed, by transformers."""
    other(model, 20).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(model.local()).save_pretrained(tmp_path / "base")
    store = Store(tmp_path / "artifacts")
    base = build(PretrainedSpec(source=str(tmp_path / "base")), {}, store=store, name="base")
    artifact, _ = by_method({"model": base}, store, method)
    fleet.sync(version, load_file(artifact.local() / "model.safetensors"))
    found = fleet.generate(PROMPTS, [0, 0, 0], temperature=0.0, **ASKED)
    plain = AutoModelForCausalLM.from_pretrained(base.local(), dtype=torch.float32).eval()
    alone = [greedy(plain, prompt, EOS) for prompt in PROMPTS]
    apart = PeftModel.from_pretrained(plain, artifact.local() / "adapter").eval()
    assert [each.tokens for each in found] == [greedy(apart, prompt, EOS) for prompt in PROMPTS] != alone


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_come_with_the_probabilities_they_were_drawn_from(
    fleet: Fleet, model: Artifact, temperature: float
) -> None:
    policy = other(model, 4)
    fleet.sync(4, weights_of(policy))
    found = fleet.generate(PROMPTS, [1, 2, 3], temperature=temperature, **ASKED)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        whole = torch.tensor([prompt + completion.tokens])
        with torch.no_grad():
            expected = token_logprobs(policy, whole, temperature)[0, len(prompt) - 1 :]
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    again = fleet.generate(PROMPTS[::-1], [3, 2, 1], temperature=temperature, **ASKED)
    assert [c.tokens for c in again[::-1]] == [c.tokens for c in found]  # the seed decides, not the neighbours


def test_scores_are_log_probabilities(fleet: Fleet, model: Artifact, handles: list[Any]) -> None:
    policy = other(model, 5)
    fleet.sync(5, weights_of(policy))
    scores = ray.get(handles[0].score.remote(PROMPTS), timeout=480)
    for prompt, score in zip(PROMPTS, scores, strict=True):
        with torch.no_grad():
            expected = token_logprobs(policy, torch.tensor([prompt]), 1.0)[0].tolist()
        assert score == pytest.approx(expected, abs=1e-4)


def test_more_prompts_than_one_pass_takes(fleet: Fleet, model: Artifact) -> None:
    """vLLM would read some in pieces, and fail where they have seeds of their own."""
    fleet.sync(6, weights_of(other(model, 6)))
    prompts = [[1 + (i + j) % 200 for j in range(96)] for i in range(120)]
    found = fleet.generate(prompts, list(range(120)), temperature=1.0, max_tokens=8, eos_token_id=EOS)
    assert all(1 <= len(c.tokens) <= 8 and all(math.isfinite(x) for x in c.logprobs) for c in found)


def test_another_version_is_refused(fleet: Fleet, model: Artifact, handles: list[Any]) -> None:
    fleet.sync(7, weights_of(other(model, 7)))
    with pytest.raises(StaleWeights, match="version 7, not 8"):
        ray.get(handles[0].generate.remote(8, PROMPTS, **ASKED), timeout=480)


def test_a_hung_engine_costs_no_more_than_twice_its_deadline_and_is_started_again(
    fleet: Fleet, model: Artifact, handles: list[Any]
) -> None:
    """Stopped, as a machine that swaps; what it hangs in is not its own code, so that nothing is in its log of that."""
    fleet.sync(10, weights_of(other(model, 10)))
    hasty = Fleet(handles, timeout_seconds=4, max_failures=5)
    hasty._weights = fleet._weights
    before = ray.get(handles[0].pid.remote(), timeout=480)
    os.kill(before, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(JobError, match=r"rollout engine 0 failed \d times in a row: it did not answer within 4 s") as e:
        hasty.generate(PROMPTS, [0, 0, 0], temperature=0.0, **ASKED)
    assert time.monotonic() - began < 2 * 4 + READ_SECONDS, "the log is read in time, too"
    assert "rollout_timeout_seconds" in str(e.value)
    policy = other(model, 11)
    fleet.sync(11, weights_of(policy))
    assert ray.get(handles[0].pid.remote(), timeout=480) != before
    found = fleet.generate(PROMPTS, [0, 0, 0], temperature=0.0, **ASKED)
    assert [c.tokens for c in found] == [greedy(policy, prompt, EOS) for prompt in PROMPTS]


class Hangs(GenerationEngine):
    """An engine without a model that prints and then waits for what does not come, where one would compute."""

    def __init__(self, options: EngineOptions) -> None:
        self.late_seconds = STACK_FRACTION * options.timeout_seconds
        self.llm = self

    def load(self, version: Any, weights: Any) -> tuple[Any, int]:
        return version, 0

    def generate(self, *given: Any, **asked: Any) -> list[Any]:
        print("the batch has begun", flush=True)
        with stack_when_late(self.late_seconds):
            threading.Event().wait()
        return []


@pytest.mark.exhaustive
def test_where_an_engine_hangs_is_told(ray_cluster: None) -> None:
    options = EngineOptions(max_model_len=128, timeout_seconds=3)
    handle = ray.remote(Hangs).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(options)
    ray.get(handle.pid.remote(), timeout=480)  # a busy machine may take longer to start it than it is waited for
    hung = Fleet([handle], timeout_seconds=20, max_failures=0)
    try:
        with pytest.raises(JobError, match=r"did not answer within 20 s") as caught:
            hung.generate(PROMPTS, [0, 0, 0], **ASKED)
    finally:
        ray.kill(handle)
    assert "the batch has begun" in str(caught.value)
    assert "in wait" in str(caught.value) and "test_engine.py" in str(caught.value), "the stack is in the log"


class InTurns(Hangs):
    """One of two engines without a model: the first answers when the second has been brought back from its death. That
    has lost its weights by then, and says so."""

    def __init__(self, options: EngineOptions, folder: Path, first: bool) -> None:
        super().__init__(options)
        self.died, self.back, self.first = folder / "died", folder / "back", first
        self.version = -1 if self.died.exists() else 0

    def load(self, version: Any, weights: Any) -> tuple[Any, int]:
        self.version = version
        return version, 0

    def generate(self, version: Any, prompts: list[list[int]], *given: Any, **asked: Any) -> list[Any]:
        while self.first and not self.back.exists():
            threading.Event().wait(0.1)
        if not self.first and not self.died.exists():
            self.died.touch()
            os._exit(1)
        if self.version != version:
            raise StaleWeights("the engine has been started anew")
        self.back.touch()
        return prompts


def test_an_engine_is_brought_back_while_others_work(ray_cluster: None, tmp_path: Path) -> None:
    made = ray.remote(InTurns).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    handles = [made.remote(EngineOptions(max_model_len=128), tmp_path, first) for first in (True, False)]
    try:
        ray.get([handle.pid.remote() for handle in handles], timeout=480)
        pair = Fleet(handles, timeout_seconds=120, max_failures=3)
        pair._weights = Weights(0, 0, {})
        assert pair.generate(PROMPTS, [0, 0, 0]) == PROMPTS
        assert pair.restarts == 1
    finally:
        for handle in handles:
            ray.kill(handle)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there_are_refused_at_once(model: Artifact, ray_cluster: None) -> None:
    """Ray waits for them for ever."""
    options = EngineOptions(max_model_len=128, gpus=0.5)
    with pytest.raises(NotReadyError, match=r"scaling.gpus_per_rollout ask for 1 GPUs, this machine has 0"):
        start(model, options, ScalingSpec(rollout_workers=2, gpus_per_rollout=0.5))


def test_an_engine_that_does_not_start_says_why(model: Artifact, ray_cluster: None) -> None:
    (handle,) = start(model, EngineOptions(max_model_len=100_000, threads=2, takes_weights=True), ScalingSpec())
    try:
        with pytest.raises(JobError, match=r"rollout engine 0 failed .*max_model_len"):
            Fleet([handle], timeout_seconds=240, max_failures=0).sync(1, weights_of(other(model, 1)))
    finally:
        ray.kill(handle)


def test_ranks_wait_for_one_another_longer_than_for_engines_and_rewards() -> None:
    from pipelines.stages.training.launch import collective_seconds

    assert collective_seconds(ScalingSpec()) == 1800 > PATIENCE * ScalingSpec().rollout_timeout_seconds
    for scaling in (ScalingSpec(rollout_timeout_seconds=5000), ScalingSpec(reward_timeout_seconds=9000)):
        waits = max(PATIENCE * scaling.rollout_timeout_seconds, scaling.reward_timeout_seconds)
        assert collective_seconds(scaling) > 1.2 * waits


@pytest.mark.exhaustive
def test_each_token_is_of_the_weights_that_are_told_where_they_change_in_the_midst_of_it(
    model: Artifact, ray_cluster: None
) -> None:
    """Two callers draw while weights change: transformers with the weights of a token's version has its
    log-probability, given all tokens before it."""
    options = EngineOptions(max_model_len=128, threads=1, takes_weights=True, calls_at_once=4)
    (handle,) = start(model, options, ScalingSpec())
    fleet = Fleet([handle], timeout_seconds=240, max_failures=0, in_flight=True)
    policies = [other(model, seed) for seed in range(6)]
    try:
        fleet.sync(0, weights_of(policies[0]))
        asked = {"temperature": 1.0, "max_tokens": 80, "eos_token_id": None}
        drawn = [begin(lambda n=n: fleet.generate(PROMPTS * 4, list(range(n, n + 12)), **asked)) for n in (0, 50)]
        for version in range(1, 6):
            fleet.sync(version, weights_of(policies[version]))
        found = [completion for each in drawn for completion in each.result(480)]
        with pytest.raises(JobError, match="StaleWeights"):
            fleet._on_all([lambda engine: engine.generate.remote(6, PROMPTS, **ASKED)])
    finally:
        ray.kill(handle)
    seen = set()
    for prompt, completion in zip(PROMPTS * 8, found, strict=True):
        assert len(completion.tokens) == len(completion.versions) == 80
        assert completion.versions == sorted(completion.versions)
        tokens = torch.tensor([prompt + completion.tokens])
        for version in set(completion.versions):
            expected = token_logprobs(policies[version], tokens, 1.0)[0, len(prompt) - 1 :]
            mine = torch.tensor(completion.versions) == version
            torch.testing.assert_close(torch.tensor(completion.logprobs)[mine], expected[mine], atol=1e-4, rtol=0)
        seen |= set(completion.versions)
    assert len(seen) > 1, "no weights changed in the midst of it"


@pytest.mark.exhaustive
def test_an_engine_that_keeps_its_own_copies_is_found_out(model: Artifact, ray_cluster: None) -> None:
    """An engine for serving packs its matrices: weights that are assigned to it would not be used."""
    (handle,) = start(model, EngineOptions(max_model_len=128, threads=2, takes_weights=False), ScalingSpec())
    try:
        with pytest.raises(JobError, match=r"does not hold|failed"):
            Fleet([handle], timeout_seconds=120, max_failures=0).sync(1, weights_of(other(model, 1)))
    finally:
        ray.kill(handle)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_checksum_knows_neither_order_nor_fusion_nor_padding(values: list[list[float]]) -> None:
    tensors = [torch.tensor(row) for row in values]
    assert checksum(tensors) == checksum(tensors[::-1]) == checksum([torch.cat([*tensors, torch.zeros(5)])])
    changed = tensors[0].clone()
    changed[0] = 1.5 if float(changed[0]) != 1.5 else 2.5
    assert checksum([changed, *tensors[1:]]) != checksum(tensors)
