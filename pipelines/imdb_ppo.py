r"""PPO with a learned reward: a small model of film reviews that is taught to like what it saw (Ziegler et al. 2019).

python -m pipelines.data.imdb aclImdb imdb     # openings with how they go on, and pairs of a kind and a harsh one
ctl run pipelines/imdb_ppo.py --set corpus.sources.0.path=aclImdb

The reward model tells kind reviews from harsh ones; PPO's critic begins as it, and the KL coefficient follows the KL.
Another model: `--set sft.inputs.model=pretrained/mine`.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import (
    AdaptiveKl,
    ConversationsSpec,
    CorpusSpec,
    Gae,
    LengthReward,
    PreferencesSpec,
    PretrainSpec,
    RewardSpec,
    RlhfSpec,
    SftSpec,
    TextSource,
    TokenizerSpec,
    TokensSpec,
    ValueFunction,
)

MUON = {"optimizer": "muon", "weight_decay": 0.0, "schedule": "linear"}


@pipeline
def imdb_ppo(step):
    """A model of reviews from nothing, a reward model of their sentiment, and PPO."""
    corpus = step(CorpusSpec(sources=(TextSource(path="aclImdb"),), rules=()))  # reviews are no program
    tokenizer = step(TokenizerSpec(vocab_size=2048), corpus=corpus)
    tokens = step(TokensSpec(sequence_length=128), corpus=corpus, tokenizer=tokenizer)
    base = step(
        PretrainSpec(model="llama-1m", total_tokens=2_000_000, global_batch_size=16, learning_rate=4e-3, **MUON),
        tokens=tokens,
    )
    reviews = step(ConversationsSpec(source="file", path="imdb/continuations.jsonl"))
    tuned = {"global_batch_size": 32, "sequence_length": 128, "muon_learning_rate": 0.01, "learning_rate": 1e-3}
    sft = step(SftSpec(template="completion", epochs=2, **tuned, **MUON), model=base, conversations=reviews)
    pairs = step(PreferencesSpec(source="file", path="imdb/pairs.jsonl"))
    reward = step(RewardSpec(epochs=3, **tuned, **MUON), model=sft, preferences=pairs)
    return step(
        RlhfSpec(
            steps=80,
            global_batch_size=64,
            minibatches_per_rollout=2,
            group_size=1,
            # Without it the model learns to end at once, before anything harsh is said.
            rewards={"reward_model": 1.0, "length": LengthReward(at_least=24, at_most=48, slack=24, weight=0.5)},
            advantage=Gae(critic=ValueFunction(start="reward", rate=4.0)),
            kl_penalty="reward",
            kl_coef=AdaptiveKl(start=0.02, target=0.1, horizon=2_000),
            max_kl=0.5,
            learning_rate=5e-4,
            max_prompt_tokens=64,
            max_completion_tokens=48,
        ),
        model=sft,
        prompts=reviews,
        reward=reward,
    )


if __name__ == "__main__":
    main(imdb_ppo)
