"""A tiny model's logits and losses on batches, whole and shared by forked gloo ranks: `python chunks.py ROOT RANKS`.

Reads ROOT/batches.pt, tensors (batch, length + 1) by name; every rank leaves ROOT/RANK.pt: by name, the logits and the
loss of the whole batch, and those of its chunk; `saved_bytes` for the backward pass of the first batch, in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.objectives.causal import CausalLM
from pipelines.stages.training.parallel.ulysses import share_sequences
from tests.training.tiny import EOS, LENGTH, VOCAB, saved_bytes

OVERRIDES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def rank_main(rank: int, root: str, ranks: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=ranks)
    config = configuration("llama-1m", OVERRIDES, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=EOS)
    objective = CausalLM(build_model(config, seed=3), EOS, "fp32").eval()
    batches = torch.load(f"{root}/batches.pt")
    logits: list[torch.Tensor] = []
    objective.model.register_forward_hook(lambda module, inputs, output: logits.append(output.logits))

    def look() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        with torch.no_grad():
            losses = {name: objective(batch) for name, batch in batches.items()}
        found = {name: (logits[number], loss) for number, (name, loss) in enumerate(losses.items())}
        return found

    first = next(iter(batches.values()))
    found = {"whole": look(), "whole_bytes": saved_bytes(objective, first)}
    logits.clear()
    objective.sequence_part = share_sequences(objective.model, ranks)
    torch.save(found | {"chunk": look(), "chunk_bytes": saved_bytes(objective, first)}, f"{root}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(rank_main, (sys.argv[1], int(sys.argv[2])), int(sys.argv[2]), start_method="fork")
