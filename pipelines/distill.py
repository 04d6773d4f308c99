r"""Teach a small model by a larger one of the same vocabulary, on the small one's own answers (on-policy distillation).

ctl run pipelines/distill.py --set distilled.inputs.model=sft/small --set distilled.inputs.teacher=rlhf/large \
    --set distilled.inputs.prompts=conversations/mine

Each token of an answer is judged by how much likelier the teacher finds it: the reverse KL, token by token. Rewards,
where some are named (`--set distilled.rewards.python_parses=1`), are told along the way and not learned from.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import Distillation, RlhfSpec


@pipeline
def distill(step):
    """The student of a teacher, as the configuration says."""
    return step(
        RlhfSpec(advantage=Distillation(), rewards={}, group_size=1, kl_coef=0.0, steps=100),
        name="distilled",
        model="sft/quickstart",
        prompts="conversations/quickstart",
        teacher="rlhf/quickstart",
    )


if __name__ == "__main__":
    main(distill)
