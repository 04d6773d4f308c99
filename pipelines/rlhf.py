"""Align a fine-tuned model by GRPO with rollouts from vLLM: finished model, prompts and reward model.

ctl run pipelines/rlhf.py --set rlhf.inputs.model=sft/mine --set rlhf.inputs.prompts=conversations/mine
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import RlhfSpec


@pipeline
def rlhf(step):
    """GRPO on the parse reward and the reward model, as the configuration says."""
    return step(
        RlhfSpec(rewards={"python_parses": 1.0, "reward_model": 0.5}),
        model="sft/quickstart",
        prompts="conversations/quickstart",
        reward="reward/quickstart",
    )


if __name__ == "__main__":
    main(rlhf)
