"""The recipes of several steps: what they are wired of, what their rewards say, what prompts their records become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.core.context import Context
from cluster.core.pipeline import load_script
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.grpo_code import parses
from pipelines.moss_rl import called, right
from pipelines.specs import ConversationsSpec, RlhfSpec, ScalingSpec, Tools
from pipelines.stages.alignment.reward import untrained
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.stage import encode_split
from pipelines.stages.tuning.templates import prepare
from tests.conftest import ROOT
from tests.made import make
from tests.tuning.tokenizers import by_hand


def test_the_three_steps_of_instructgpt(store: Store) -> None:
    graph = load_script(ROOT / "pipelines" / "chatgpt_recipe.py").graph(store, {}, "c")
    steps = {step.key: step for step in graph.steps}
    assert list(steps) == ["pretrained", "demonstrations", "sft", "comparisons", "reward", "rlhf"]
    ppo: Any = steps["rlhf"].spec
    assert steps["rlhf"].inputs["model"] is steps["reward"].inputs["model"] is steps["sft"]
    assert ppo.steps * ppo.global_batch_size == 256_000
    assert ppo.minibatches_per_rollout * ppo.global_batch_size == 512 and ppo.kl_penalty == "reward"
    assert ppo.learning_rate * ppo.advantage.critic.rate == pytest.approx(9e-6)
    small = {"rlhf": {"steps": 64, "max_completion_tokens": 128}, "sft": {"epochs": 2}}
    changed: Any = load_script(ROOT / "pipelines" / "chatgpt_recipe.py").graph(store, small, "c").step("rlhf").spec
    assert changed.steps == 64


def test_moss_learns_with_tools(store: Store) -> None:
    step = load_script(ROOT / "pipelines" / "moss_rl.py").graph(store, {}, "m").step("rlhf")
    spec: Any = step.spec
    assert isinstance(spec.environment, Tools) and "corpus" not in step.inputs
    for reward in ("right", "called"):
        spec.rewards[reward].require()


CALL = '<tool_call>{"name": "Calculate", "arguments": {"expression": "24/(1-0.8)"}}</tool_call>'
ASKED = [{"role": "user", "content": "How much?"}]


def after(*results: str) -> list[dict[str, Any]]:
    """What comes before an answer for which tools were called."""
    messages = list(ASKED)
    for result in results:
        messages += [{"role": "assistant", "content": CALL}]
        messages += [{"role": "user", "content": f"<tool_response>\n{result}\n</tool_response>"}]
    return messages


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("So it costs 120 yuan.", "定价为120元。", True),
        ("It is 120.0.", "120", True),
        ("1,200", "1200", True),
        ("12", "120", False),
        ("120, or rather 121", "120", False),
        ("none", "120", False),
        ("120", "no number", False),
    ],
)
def test_right_numbers(answer: str, reference: str, expected: bool) -> None:
    assert right(Sample(after("120"), answer, True, reference=reference)) is expected
    assert right(Sample(ASKED, answer, False, reference=reference)) is False, "cut off"


def test_calls_before_an_answer() -> None:
    assert called(Sample(after("120"), "120", True)) is True
    assert called(Sample(after("1", "120"), "120", True)) is True
    assert called(Sample(ASKED, "120", True)) is False
    assert called(Sample(after("error: no", "120"), "120", True)) is False
    again = [*after("120"), {"role": "assistant", "content": "120"}, *ASKED]
    assert called(Sample(again, "120", True)) is False, "that call belonged to an earlier request"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = by_hand()
    prepare(found, "chatml")
    return found


@pytest.fixture
def prompts(store: Store, tmp_path: Path, tokenizer: Any) -> Callable[[RlhfSpec], list[Any]]:
    """What a record of MOSS becomes, of two requests with a call each."""
    record = json.loads(Path(__file__).with_name("moss_record.json").read_text())
    spec = ConversationsSpec(source="file", path="moss.json", format="moss")
    files = {f"{split}.jsonl": (json.dumps(record) + "\n").encode() for split in ("train", "heldout")}
    made = make(store, spec, {}, files, "moss")

    def encoded(rlhf: RlhfSpec) -> list[Any]:
        ctx = Context(rlhf, {"prompts": made}, Location(tmp_path / "out"), ScalingSpec(), "m", "")
        return encode_split(ctx, tokenizer, "train")[0]

    return encoded


def test_a_prompt_ends_before_what_the_environment_is_to_say(prompts: Callable[[RlhfSpec], list[Any]]) -> None:
    sizes = {"max_prompt_tokens": 4096, "max_completion_tokens": 512}
    [plain] = prompts(RlhfSpec(**sizes))
    [played] = prompts(RlhfSpec(environment=Tools(), **sizes))
    assert plain.reference == played.reference == "It is 120."
    assert [message["role"] for message in plain.messages[-2:]] == ["assistant", "tool"]
    assert played.messages[-1] == {"role": "user", "content": "And 24 of a fifth?"}
    assert played.messages == plain.messages[:-2] and any("tool_calls" in each for each in played.messages)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_reward_model_has_a_row_for_its_padding(family: str, tmp_path: Path) -> None:
    """Of a model whose tokens fill all its rows, in families that know their padding's row and in others."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
    more = {"intermediate_size": 16} if family == "llama" else {}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **sizes, **more, **tokens)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    model = untrained(tmp_path / "model", 30, 31)
    assert model.get_input_embeddings().weight.shape[0] == 31 and model.config.pad_token_id == 30
    ids = torch.tensor([[0, 5, 6, 30]])
    model.base_model(ids).last_hidden_state[..., 0].sum().backward()  # the sum of a normalized row is always 0
    assert model.get_input_embeddings().weight.grad[0].any(), "the end of a turn learns, though it was the padding"
    model.save_pretrained(tmp_path / "reward")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    with torch.no_grad():
        one, padded = again(ids[:, :3]).logits, again(ids).logits
    assert torch.allclose(one, padded, atol=1e-6), "transformers itself scores at the last token that is not padding"


@pytest.mark.parametrize(
    ("request_", "answer", "is_python"),
    [
        ("Write f.", "def f():\n    return 1", True),
        ("Write f.", "Gladly:\n```python\ndef f():\n    return 1\n```\nThat is it.", True),
        ('def f():\n    """One."""', "    return 1", True),  # a body, as HumanEval asks for
        ('def f():\n    """One."""', "    return (", False),
        ("Write f.", "def f(:", False),
        ("Write f.", "# nothing", False),
    ],
)
def test_what_is_python_alone_or_after_its_request(request_: str, answer: str, is_python: bool) -> None:
    assert parses(Sample([{"role": "user", "content": request_}], answer, finished=True)) == is_python
