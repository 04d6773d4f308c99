r"""Dolly: Pythia on databricks-dolly-15k, with the published rate, length and number of passes (Dolly v2).

ctl run pipelines/dolly.py --set pretrained.source=hub:EleutherAI/pythia-6.9b --set scaling.gpus_per_worker=1
ctl run pipelines/dolly.py --set conversations.path=databricks-dolly-15k.jsonl
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, ExportSpec, PretrainedSpec, SftSpec


@pipeline
def dolly(step):
    """Two passes over 15,000 instructions that people wrote, all weights, and a folder to publish."""
    base = step(PretrainedSpec(source="hub:EleutherAI/pythia-2.8b"))
    instructions = step(
        ConversationsSpec(
            source="file", path="hub:databricks/databricks-dolly-15k", format="dolly", license="CC-BY-SA-3.0"
        )
    )
    recipe = SftSpec(
        template="alpaca",
        epochs=2.0,
        global_batch_size=64,
        sequence_length=1024,
        too_long="cut-end",
        learning_rate=5e-6,
        warmup_steps=50,
        schedule="linear",
    )
    return step(ExportSpec(), model=step(recipe, model=base, conversations=instructions))


if __name__ == "__main__":
    main(dolly)
