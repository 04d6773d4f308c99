"""Every prompt answered by a model of transformers in this process, one after the other: what vLLM cannot open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from pipelines.stages.generation.engine import Completion


@torch.inference_mode()
def answer(
    model: Any,
    prompts: list[list[int]],
    seeds: list[int],
    max_tokens: int,
    progress: Callable[..., None],
    *,
    eos_token_id: int | None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> list[Completion]:
    """One completion of each prompt (token ids), in order, as `GenerationEngine.generate` gives them.

    They are not the engine's samples: the two draw differently from one seed.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    ends = {"min_new_tokens": max_tokens} if eos_token_id is None else {"eos_token_id": eos_token_id}
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    options = GenerationConfig(
        **{"do_sample": False, **drawn},
        **ends,
        max_new_tokens=max_tokens,
        pad_token_id=eos_token_id or 0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    found = []
    for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True), 1):
        torch.manual_seed(seed)
        ids = torch.tensor([prompt], device=model.device)
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=options)
        tokens = output.sequences[0, len(prompt) :]
        logprobs = torch.cat(output.scores).float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        finished = eos_token_id is not None and tokens[-1].item() == eos_token_id
        found.append(Completion(tokens.tolist(), logprobs.tolist(), finished))
        progress(number, len(prompts), "answers")
    return found
