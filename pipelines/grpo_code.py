r"""A fine-tuned model learns to write functions that pass their tests, by GRPO: the tests run in a sandbox.

ctl run pipelines/grpo_code.py --set problems.path=problems.jsonl --set rlhf.inputs.model=sft/mine
ctl run pipelines/grpo_code.py --set problems.path=HumanEval.jsonl.gz --set rlhf.rewards.tests.code=request_and_answer

Each line of the file asks for one function (`prompt`) and has tests that call it: `tests`, as Python, MBPP's
`test_list`, or HumanEval's `test` and `entry_point`. Passing all is worth 1; that it is Python at all, a tenth.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, PassesTests, PythonReward, RlhfSpec


@pipeline
def grpo_code(step):
    """Problems with tests, and a model that was rewarded for passing them."""
    problems = step(
        ConversationsSpec(source="file", path="problems.jsonl", format="prompts", max_prompt_chars=2000),
        name="problems",
    )
    recipe = RlhfSpec(
        rewards={
            "tests": PassesTests(),
            "parses": PythonReward(function="pipelines.grpo_code:parses", weight=0.1),
        },
        steps=300,
        global_batch_size=64,
        learning_rate=1e-6,
        max_prompt_tokens=512,
        max_completion_tokens=384,
    )
    return step(recipe, model="sft/quickstart", prompts=problems)


def parses(sample):
    """A reward in ten lines: 1 where the answer, or the last of its blocks, is Python that says something, alone or
    after the request that it goes on."""
    import ast

    for program in (PassesTests().program(sample), PassesTests(code="request_and_answer").program(sample)):
        try:
            if ast.parse(program).body:
                return True
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return False


if __name__ == "__main__":
    main(grpo_code)
