r"""Align a fine-tuned model by PPO with a reward model and rollouts from vLLM: finished model, prompts, reward model.

ctl run pipelines/rlhf.py --set rlhf.inputs.model=sft/mine --set rlhf.inputs.prompts=conversations/mine \
    --set rlhf.inputs.reward=reward/mine
ctl run pipelines/rlhf.py --set rlhf.advantage.type=group --set rlhf.group_size=8     # GRPO: groups, and no critic

docs/alignment.md has the fields of each algorithm.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import AdaptiveKl, Gae, RlhfSpec


@pipeline
def rlhf(step):
    """PPO on the reward model, and on what parses where the answers are code, as the configuration says."""
    return step(
        RlhfSpec(
            rewards={"python_parses": 1.0, "reward_model": 0.5},
            advantage=Gae(),
            group_size=1,
            minibatches_per_rollout=2,
            kl_penalty="reward",
            kl_coef=AdaptiveKl(),
        ),
        model="sft/quickstart",
        prompts="conversations/quickstart",
        reward="reward/quickstart",
    )


if __name__ == "__main__":
    main(rlhf)
