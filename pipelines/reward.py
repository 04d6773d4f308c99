"""Train a reward model on pairs: of finished conversations, or of a file of preferences.

ctl run pipelines/reward.py --set reward.inputs.model=sft/mine --set preferences.inputs.conversations=conversations/mine
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import PreferencesSpec, RewardSpec


@pipeline
def reward(step):
    """Preference pairs and a reward model, as the configuration says."""
    preferences = step(PreferencesSpec(), conversations="conversations/quickstart")
    return step(RewardSpec(), model="sft/quickstart", preferences=preferences)


if __name__ == "__main__":
    main(reward)
