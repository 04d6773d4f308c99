"""Low-rank updates over a frozen base (LoRA, arXiv:2106.09685), which may be packed in NF4 (QLoRA, 2305.14314)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.specs import SftSpec

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


def nf4(spec: SftSpec) -> BitsAndBytesConfig:
    """How qlora's base is packed."""
    import torch
    from transformers import BitsAndBytesConfig

    from pipelines.stages.training.objectives.objective import HALVES

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=HALVES.get(spec.precision, torch.float32),
    )


def pack(model: Any, spec: SftSpec) -> None:
    """Have the linear layers of a model without values be qlora's, as transformers does when it loads one."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    replace_with_bnb_linear(model, get_keys_to_not_convert(model), nf4(spec))
    model.is_loaded_in_4bit = True  # peft asks


def add_adapter(model: Any, spec: SftSpec) -> Any:
    """Low-rank updates of every linear layer but the output (Hu et al. 2021, arXiv:2106.09685)."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
