"""Fine-tune a model on conversations: a finished model artifact and a file, or functions of a finished corpus.

ctl run pipelines/sft.py --set sft.inputs.model=pretrain/mine --set conversations.inputs.corpus=corpus/mine
ctl run pipelines/sft.py --set conversations.source=file --set conversations.path=chats.jsonl --set sft.method.type=lora
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, SftSpec


@pipeline
def sft(step):
    """Conversations and supervised fine-tuning, as the configuration says."""
    conversations = step(ConversationsSpec(), corpus="corpus/quickstart")
    return step(SftSpec(template="chatml"), model="pretrain/quickstart", conversations=conversations)


if __name__ == "__main__":
    main(sft)
