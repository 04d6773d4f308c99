"""Asynchronous against synchronous rollouts: seconds of a step, in one run, on the same model, prompts and sampling.

Learner and engine have a core each (`--share` has both use all cores). The model is untrained, so that every answer has
the most tokens it may have, and both sides do the same work. Runs alternate; the first rollouts of each, in which the
engine warms up, are left out. Of the seconds of a step some are the learner's wait for completions, which the engine
may have drawn in more; what both sides take for drawing is told, since overlap alone gains at most a factor of 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import AutoTokenizer

from cluster.core import metrics
from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, Correction, PretrainedSpec, RlhfSpec, ScalingSpec
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.tuning.templates import prepare
from tests.alignment.tiny_chat import write_conversations, write_model

PROMPT_TOKENS = 128


def write_chat_model(folder: Path, size: str, context: int) -> None:
    """An untrained model of a named size with a chat template."""
    write_conversations(folder / "requests.jsonl")
    write_model(folder / "small", folder / "requests.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    prepare(tokenizer, "chatml")
    config = configuration(
        size, {}, vocab_size=len(tokenizer), sequence_length=context, eos_token_id=tokenizer.eos_token_id
    )
    build_model(config, 0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def measure(inputs: dict[str, Any], store: Store, options: argparse.Namespace, max_staleness: int, seed: int) -> Any:
    """Seconds of a step, of drawing its completions, of waiting for them, and of the sync, medians of a run; the oldest
    tokens' age in steps."""
    spec = RlhfSpec(
        steps=options.steps,
        global_batch_size=options.batch,
        group_size=8,
        kl_coef=0.0,
        max_prompt_tokens=PROMPT_TOKENS,
        max_completion_tokens=options.tokens,
        evaluate_every_steps=0,
        evaluation_prompts=1,
        max_staleness=max_staleness,
        correction=Correction(),
        rewards={"python_parses": 1.0, "repetition": 0.1},
        seed=seed,
    )
    cores = {} if options.share else {"cpus_per_rollout": 1.0}
    scaling = ScalingSpec(num_workers=1, log_every=1, checkpoint_every_seconds=1e6, **cores)
    found = build(spec, inputs, store=store, scaling=scaling, name="bench")
    lines = metrics.read(found.location)
    totals = [line[metrics.TOKENS] for line in lines]
    lines = lines[options.warm_up :]
    times = [
        (now - before) / line[metrics.TOKENS_PER_SECOND]
        for line, before, now in zip(lines, totals[options.warm_up - 1 : -1], totals[options.warm_up :], strict=True)
    ]
    waits = [line.get("rollout_wait_seconds", line["rollout_seconds"]) for line in lines]
    draws = [line["rollout_seconds"] for line in lines]
    syncs = median(line["sync_seconds"] for line in lines)
    oldest = max(line.get("staleness_steps", 0) for line in lines)
    return median(times), median(draws), median(waits), syncs, oldest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-15m")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that are not counted, one at least")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-staleness", type=int, default=1)
    parser.add_argument("--share", action="store_true", help="learner and engine share all cores")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, store = Path(scratch), Store(f"{scratch}/artifacts")
        write_chat_model(folder, options.model, PROMPT_TOKENS + options.tokens)
        source = ConversationsSpec(source="file", path=str(folder / "requests.jsonl"), heldout_fraction=0.2)
        inputs = {
            "model": build(PretrainedSpec(source=str(folder / "model")), {}, store=store, name="bench"),
            "prompts": build(source, {}, store=store, name="bench"),
        }
        ratios = []
        for round in range(options.rounds):
            found = {k: measure(inputs, store, options, k, round) for k in (0, options.max_staleness)}
            for max_staleness, (seconds, drew, waited, synced, oldest) in found.items():
                print(
                    f"round {round}, max_staleness {max_staleness}: {seconds:.2f} s a step, {drew:.2f} s to draw, "
                    f"of which the learner waited {waited:.2f} s; {synced:.3f} s for the sync "
                    f"({synced / seconds:.1%}, bar: 5 %); oldest tokens {oldest} steps",
                    flush=True,
                )
            ratios.append(found[0][0] / found[options.max_staleness][0])
            print(f"round {round}: asynchronous is {ratios[-1]:.2f} times as fast", flush=True)
        print(f"median of {options.rounds}: {median(ratios):.2f} (bar: 1.3, where each has a core of its own)")


if __name__ == "__main__":
    main()
