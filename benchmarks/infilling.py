"""Blank filling: a small GLM against causal models of the same size, on the same held-out blanks.

    python benchmarks/infilling.py [--tokens 16e6] [--masked 0.3] [--rivals llama-1m gpt2-1m]

All learn from the same sequences of this machine's Python source, in the same order, batches and number: `glm-1m` by
blanks (short ones, and for the rest the ends of documents), `llama-1m` and `gpt2-1m` to tell the next token, at the
same learning rates. Their layers are of the same width and number; GLM's positions are rotary unless `--positions`
says learned, Llama's are rotary, GPT-2's learned. In each of the held-out documents one blank is cut out at random, of
Poisson(3) tokens, at least one. GLM sees the text on both sides. A causal model can see the left side only; as it might
make use of the right one, it is also given that side before the left one. All are told how long the blank is. Losses
are of the blank's own tokens, given those before them, without the end of the blank.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # of Ray's workers

import numpy as np
import torch
from torch.nn import functional as F

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, PretrainSpec, ScalingSpec, TokenizerSpec, TokensSpec
from pipelines.stages.evaluation.results import wilson
from pipelines.stages.training.models.models import load_model
from pipelines.stages.training.objectives.filling import Filler
from pipelines.stages.training.objectives.infilling import infill, visible
from pipelines.stages.training.objectives.infilling_short import MEAN_SPAN_TOKENS

SEQUENCE_LENGTH, LONGEST = 128, 120
SPECIAL = ("[MASK]", "[sMASK]", "[gMASK]", "<sop>", "<eop>")


def train(store: Store, arguments: argparse.Namespace) -> dict[str, Artifact]:
    corpus = build(CorpusSpec(max_bytes=12_000_000, part_bytes=1_000_000), {}, store=store, name="bench")
    algorithm = "characters" if arguments.vocabulary == "characters" else "byte_bpe"
    spec = TokenizerSpec(algorithm=algorithm, vocab_size=2048, special_tokens=SPECIAL)
    tokenizer = build(spec, {"corpus": corpus}, store=store, name="bench")
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    tokens = build(TokensSpec(sequence_length=SEQUENCE_LENGTH), inputs, store=store, name="bench")
    short = arguments.short
    blanks = {"infilling_short": short, "infilling_document": 1 - short} if short < 1 else "infilling_short"
    models = {}
    for model in ("glm-1m", *arguments.rivals):
        is_glm = model == "glm-1m"
        wanted = PretrainSpec(
            model=model, model_overrides={"position_embedding_type": arguments.positions} if is_glm else {},
            objective=blanks if is_glm else "causal", masked_fraction=arguments.masked if is_glm else 0.15,
            total_tokens=int(arguments.tokens),
            global_batch_size=arguments.batch, seed=arguments.seed, optimizer="muon", learning_rate=2e-3,
        )  # fmt: skip
        scaling = ScalingSpec(num_workers=2, checkpoint_every_seconds=10_000)
        models[model] = build(wanted, {"tokens": tokens}, store=store, scaling=scaling, name=model)
    return models


def heldout_blanks(tokens: Artifact, count: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """A document, or its first `LONGEST` tokens behind its end-of-text token, and a blank [start, stop) inside it."""
    from pipelines.stages.tokens.reader import TokenStore

    store, rng = TokenStore.open(tokens, "heldout"), np.random.default_rng(0)
    sequences = [store.sequence(number)[:-1] for number in range(store.num_sequences)]
    pieces = [piece for one in sequences for piece in np.split(one, np.flatnonzero(one == store.eos_token_id))]
    long_enough = [piece[:LONGEST] for piece in pieces if len(piece) >= LONGEST // 2]
    for number in rng.permutation(len(long_enough))[:count].tolist():
        document = long_enough[number]
        length = max(1, int(rng.poisson(MEAN_SPAN_TOKENS)))
        start = int(rng.integers(1, len(document) - length))
        yield document, start, start + length


@torch.inference_mode()
def causal(model: Any, before: np.ndarray, blank: np.ndarray) -> tuple[float, bool]:
    """The loss of a blank's tokens behind what is before it, and whether the greedy ones are all right."""
    inputs = torch.from_numpy(np.concatenate([before, blank[:-1]])).unsqueeze(0)
    logits = model(inputs, use_cache=False).logits[0, len(before) - 1 :].float()
    labels = torch.from_numpy(blank)
    # The greedy choices are right if and only if each is right behind the right ones.
    return float(F.cross_entropy(logits, labels, reduction="sum")), bool((logits.argmax(-1) == labels).all())


@torch.inference_mode()
def infilled(filler: Filler, document: np.ndarray, start: int, stop: int) -> tuple[float, bool]:
    roles = filler.roles
    found = infill(document, [(start, stop)], [0], roles["mask"], roles["start"], roles["end"])
    block = torch.from_numpy(found.block_positions).unsqueeze(0)
    logits = filler.model(
        torch.from_numpy(found.inputs).unsqueeze(0),
        position_ids=torch.stack([torch.from_numpy(found.positions).unsqueeze(0), block], dim=1),
        attention_mask=visible(torch.zeros_like(block), block),
    ).logits[0]
    length = stop - start
    loss = F.cross_entropy(logits[-length - 1 : -1], torch.from_numpy(found.labels[-length - 1 : -1]), reduction="sum")
    part_a = found.inputs[found.block_positions == 0].tolist()
    return float(loss), filler.fill(part_a, lengths=[length])[0] == document[start:stop].tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=float, default=16e6)
    parser.add_argument("--vocabulary", choices=("characters", "pieces"), default="characters")
    parser.add_argument("--positions", choices=("rotary", "learned"), default="rotary", help="of the GLM")
    parser.add_argument("--rivals", nargs="+", default=["llama-1m", "gpt2-1m"])
    parser.add_argument("--blanks", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--short", type=float, default=0.5, help="share of the sequences that have short blanks")
    parser.add_argument("--masked", type=float, default=0.3, help="share of a text that short blanks take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = train(Store(arguments.store or folder), arguments)
        for name, artifact in models.items():
            print(f"{name}: {artifact.metrics['parameters']:,} parameters, {artifact.metrics['tokens']:,} tokens seen")
        filler = Filler.open(models["glm-1m"].local())
        causal_models = {name: load_model(models[name].local()).eval() for name in arguments.rivals}
        results: dict[str, list[tuple[float, bool]]] = {}
        lengths = []
        for document, start, stop in heldout_blanks(models["glm-1m"].parent("tokens"), arguments.blanks):
            left, blank, right = np.split(document, [start, stop])
            lengths.append(len(blank))
            results.setdefault("glm-1m", []).append(infilled(filler, document, start, stop))
            for name, model in causal_models.items():
                sides = {"left": left, "right and left": np.concatenate([left[:1], right, left[1:]])}
                for what, before in sides.items():
                    results.setdefault(f"{name}, {what}", []).append(causal(model, before, blank))
    own = np.array([loss for loss, _ in results["glm-1m"]])
    for name, found in results.items():
        losses, right_ones = np.array([loss for loss, _ in found]), sum(right for _, right in found)
        low, high = wilson(right_ones, len(found))
        behind, nearest, farthest = paired(losses - own, np.array(lengths))
        print(
            f"{name}: {losses.sum() / sum(lengths):.3f} nats per token of {len(found)} blanks ({sum(lengths)} tokens), "
            f"{behind:+.3f} against glm-1m (95 % interval {nearest:+.3f} to {farthest:+.3f}); "
            f"filled exactly {right_ones / len(found):.3f} ({low:.3f} to {high:.3f})"
        )


def paired(differences: np.ndarray, lengths: np.ndarray) -> tuple[float, float, float]:
    """The difference per token, and its 95 % interval over blanks drawn anew (bootstrap)."""
    drawn = np.random.default_rng(0).integers(0, len(lengths), (10_000, len(lengths)))
    low, high = np.quantile(differences[drawn].sum(1) / lengths[drawn].sum(1), (0.025, 0.975))
    return differences.sum() / lengths.sum(), float(low), float(high)


if __name__ == "__main__":
    main()
