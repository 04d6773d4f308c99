"""Tune a fine-tuned model on preferences without rollouts: by DPO, or IPO, KTO, ORPO, SimPO.

ctl run pipelines/dpo.py --set preferences.source=file --set preferences.path=pairs.jsonl \\
    --set dpo.inputs.model=sft/mine --set reference.inputs.model=sft/mine
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import DpoSpec, PreferencesSpec, ReferenceSpec


@pipeline
def dpo(step):
    """Preferences, what the model thinks of them before, and the model that learned them."""
    preferences = step(PreferencesSpec(), conversations="conversations/quickstart")
    reference = step(ReferenceSpec(), model="sft/quickstart", preferences=preferences)
    return step(DpoSpec(), model="sft/quickstart", preferences=preferences, reference=reference)


if __name__ == "__main__":
    main(dpo)
