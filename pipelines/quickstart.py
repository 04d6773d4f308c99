"""The whole line on a laptop: from this machine's own Python sources to a small code model, ready to serve.

It was pretrained, taught to answer function heads with bodies, aligned by reinforcement learning, and quantized.
A Llama of 1.07 M parameters with 2,048 pieces. The sizes are chosen so that two CPU cores need minutes.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import (
    CodeParrot,
    ComparisonSpec,
    ConversationsSpec,
    CorpusSpec,
    EvaluationSpec,
    ExportSpec,
    PreferencesSpec,
    PretrainSpec,
    QuantizeSpec,
    RewardSpec,
    RlhfSpec,
    SftSpec,
    TokenizerSpec,
    TokensSpec,
)

# Damage that a model of a million parameters can learn to see; names swapped for others it cannot.
DAMAGE = ("drop_closing", "shuffle_lines", "break_indentation", "repeat_words", "truncate")
MUON = {"optimizer": "muon", "weight_decay": 0.0, "schedule": "linear"}


@pipeline
def quickstart(step):
    """Pretrain, tune, align and quantize a small code model on the Python sources of this machine."""
    corpus = step(
        CorpusSpec(
            rules=(CodeParrot(max_bytes=100_000),),
            max_bytes=12_000_000,
            heldout_fraction=0.08,
            part_bytes=1_000_000,
        )
    )
    tokenizer = step(TokenizerSpec(vocab_size=2048), corpus=corpus)
    tokens = step(TokensSpec(sequence_length=256), corpus=corpus, tokenizer=tokenizer)
    base = step(
        PretrainSpec(
            model="llama-1m",
            total_tokens=1_800_000,
            global_batch_size=8,
            muon_learning_rate=0.02,
            learning_rate=0.03,  # of the embeddings, which so few steps of a lower one leave as they were drawn
            warmup_steps=30,
            **MUON,
        ),
        tokens=tokens,
    )
    step(EvaluationSpec(heldout_bytes=250_000), model=base, tokens=tokens, corpus=corpus)

    functions = step(ConversationsSpec(source="docstrings"), corpus=corpus)
    sft = step(
        SftSpec(
            template="chatml",
            epochs=2,
            sequence_length=256,
            packing=True,
            global_batch_size=6,  # rows, of two or three conversations each
            muon_learning_rate=0.01,
            learning_rate=2e-3,
            **MUON,
        ),
        model=base,
        conversations=functions,
    )
    pairs = step(
        PreferencesSpec(pairs_per_conversation=2, foreign_fraction=0.1, damage=DAMAGE), conversations=functions
    )
    reward = step(
        RewardSpec(sequence_length=256, global_batch_size=32, muon_learning_rate=0.01, learning_rate=0.01, **MUON),
        model=sft,
        preferences=pairs,
    )
    rlhf = step(
        RlhfSpec(
            steps=18,
            evaluate_every_steps=9,
            evaluation_prompts=100,
            global_batch_size=64,
            group_size=8,
            rewards={"python_parses": 1.0, "reward_model": 0.5},
            learning_rate=2.5e-4,
            kl_coef=0.1,
            max_kl=0.5,
            max_prompt_tokens=128,
            max_completion_tokens=96,
        ),
        model=sft,
        prompts=functions,
        reward=reward,
    )
    int8 = step(QuantizeSpec(scheme="int8"), model=rlhf, conversations=functions)
    step(
        ComparisonSpec(max_completion_tokens=96, heldout_bytes=50_000),
        base=base,
        sft=sft,
        rlhf=rlhf,
        int8=int8,
        prompts=functions,
        corpus=corpus,
        reward=reward,
    )
    return step(ExportSpec(), model=rlhf)


if __name__ == "__main__":
    main(quickstart)
