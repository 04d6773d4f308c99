"""A tiny model that answers function heads with bodies, half of the time: enough to improve, small enough for seconds.

Also a program: `python tiny_chat.py STORE SOURCE STEPS [MAX_STALENESS]` builds the RLHF artifact in a process of its
own, to be killed. SOURCE is where the data is that the model in the store was made of.
"""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, PretrainedSpec, RlhfSpec, ScalingSpec, SftSpec
from pipelines.stages.alignment.advantages import Gae
from pipelines.stages.alignment.correction import Correction
from pipelines.stages.alignment.kl_control import AdaptiveKl

SCALING = ScalingSpec(num_workers=2, log_every=1, checkpoint_every_seconds=1.0, max_failures=3)
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def write_conversations(path: Path, count: int = 600) -> None:
    """Functions, some short and some of nested expressions, which are easier to get wrong, as JSON lines."""
    rng, rows = Random(0), []
    for number in range(count):
        name, operator = rng.choice(list(OPERATORS.items()))
        a, b, c = (rng.randrange(100) for _ in range(3))
        request = f'def {name}_{number}(x):\n    """{name.title()} {a} {b} {c}."""'
        nested = f"    y = ((x {operator} {a}) {operator} [{b}, (x + {c})][0])\n    z = [(y, {{x: ({a}, [{b}])}})]\n"
        answer = f"{nested}    return (y, [z])" if rng.random() < 0.6 else f"    return x {operator} {a}"
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        rows.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(rows))


def write_model(folder: Path, texts: Path, positions: int = 256) -> None:
    """An untrained Llama of 60,000 parameters and a byte-level BPE of 300 pieces, as a Hugging Face folder."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    lines = [m["content"] for line in texts.read_text().splitlines() for m in json.loads(line)["messages"]]
    bpe.train_from_iterator(lines, vocab_size=300, special_tokens=["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def source_of(store_url: str) -> Path:
    """Where the data of a store's tiny model is: its place is part of what the artifacts are known by."""
    return Path(store_url).parent / "tiny-source"


def make_sft(store: Store, epochs: float = 3.0, source: Path | None = None, **changes: Any) -> dict[str, Artifact]:
    """The conversations and a model that has learned them a little."""
    folder = source or source_of(store.root.url)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # two processes of a test session may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "model").exists():
            write_conversations(folder / "functions.jsonl")
            write_model(folder / "model", folder / "functions.jsonl")
    spec = ConversationsSpec(source="file", path=str(folder / "functions.jsonl"), heldout_fraction=0.2)
    conversations = build(spec, {}, store=store, name="tiny")
    model = build(PretrainedSpec(source=str(folder / "model")), {}, store=store, name="tiny")
    fields: dict[str, Any] = {
        "template": "chatml",
        "epochs": epochs,
        "sequence_length": 256,
        "global_batch_size": 16,
        "optimizer": "muon",
        "muon_learning_rate": 0.02,
        "learning_rate": 5e-3,
        "schedule": "linear",
    }
    inputs = {"model": model, "conversations": conversations}
    sft = build(SftSpec(**(fields | changes)), inputs, store=store, scaling=SCALING, name="tiny")
    return {"model": sft, "prompts": conversations}


def rlhf(steps: int, **changes: Any) -> RlhfSpec:
    fields: dict[str, Any] = {
        "steps": steps,
        "global_batch_size": 32,
        "minibatches_per_rollout": 2,
        "group_size": 8,
        "learning_rate": 6e-4,
        "warmup_steps": 2,
        "kl_coef": 0.01,
        "max_kl": 1.0,
        "max_prompt_tokens": 128,
        "max_completion_tokens": 64,
        "evaluate_every_steps": 10,
        "evaluation_prompts": 100,
    }
    return RlhfSpec(**(fields | changes))


def ppo(steps: int, **changes: Any) -> RlhfSpec:
    """All state that there can be between two steps: a critic, a KL coefficient that moves, prompts drawn besides."""
    fields: dict[str, Any] = {
        "advantage": Gae(),
        "kl_penalty": "reward",
        "kl_coef": AdaptiveKl(start=0.02, target=0.2, horizon=1000),
        "redraws": 1,
    }
    return rlhf(steps, **(fields | changes))


def ahead(steps: int, max_staleness: int) -> RlhfSpec:
    """Rollouts that are drawn while others are learned from, with a correction for that."""
    return rlhf(steps, max_staleness=max_staleness, correction=Correction(), evaluation_prompts=40)


if __name__ == "__main__":
    own, asked = Store(sys.argv[1]), [int(argument) for argument in sys.argv[3:]]
    spec = ahead(*asked) if len(asked) > 1 else ppo(*asked)
    build(spec, make_sft(own, source=Path(sys.argv[2])), store=own, scaling=SCALING, name="tiny")
